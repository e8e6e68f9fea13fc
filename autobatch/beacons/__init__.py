"""Locate: beacons on disk, the error landscape over the (C̄, L) plane, and where a run would end.

In come recorded trainings; out go libraries of them, landscapes, forecasts and predictions. Open ``_library.py`` first.
"""

from autobatch.beacons._beacon import Beacon, BeaconKey
from autobatch.beacons._chance import QUANTITY, chance
from autobatch.beacons._costs import CostTable
from autobatch.beacons._info import LibraryInfo
from autobatch.beacons._journey import Standing
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons._results import FIGURES, FixedResult
from autobatch.beacons.landscape import (
    Landscape,
    OptimumRegion,
    Prediction,
    Rule,
    choose_rule,
    leave_one_out,
)
from autobatch.beacons.predict import (
    FinalPrediction,
    Forecast,
    PredictionQuality,
    RunPlace,
    forecast,
    forecast_stages,
    predict_final,
    prediction_quality,
    quality_table,
    read_places,
)
from autobatch.beacons.storage import (
    Branches,
    Journey,
    compact,
    compact_branches,
    holds_branches,
    is_recorded,
    recorded_keys,
    recorded_origins,
    write_beacon,
    write_branches,
)

__all__ = [
    "FIGURES",
    "QUANTITY",
    "Beacon",
    "BeaconKey",
    "BeaconLibrary",
    "Branches",
    "CostTable",
    "FinalPrediction",
    "FixedResult",
    "Forecast",
    "Journey",
    "Landscape",
    "LibraryInfo",
    "OptimumRegion",
    "Prediction",
    "PredictionQuality",
    "Rule",
    "RunPlace",
    "Standing",
    "chance",
    "choose_rule",
    "compact",
    "compact_branches",
    "forecast",
    "forecast_stages",
    "holds_branches",
    "is_recorded",
    "leave_one_out",
    "predict_final",
    "prediction_quality",
    "quality_table",
    "read_places",
    "recorded_keys",
    "recorded_origins",
    "write_beacon",
    "write_branches",
]
