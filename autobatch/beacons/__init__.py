"""Locate: beacons on disk, the error landscape over the (C̄, L) plane, and where a run would end."""

from autobatch.beacons._beacon import Beacon, BeaconKey
from autobatch.beacons._branches import (
    Branches,
    Journey,
    compact_branches,
    holds_branches,
    recorded_origins,
    write_branches,
)
from autobatch.beacons._costs import CostTable
from autobatch.beacons._forecast import Forecast, forecast, forecast_stages
from autobatch.beacons._info import LibraryInfo
from autobatch.beacons._journey import Standing
from autobatch.beacons._landscape import Landscape, Prediction, Rule
from autobatch.beacons._leave_one_out import LeaveOneOut, choose_rule, leave_one_out
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons._predict_final import FinalPrediction, Promise, predict_final
from autobatch.beacons._predict_places import RunPlace, read_places
from autobatch.beacons._predict_quality import PredictionQuality, prediction_quality, quality_table
from autobatch.beacons._region import OptimumRegion
from autobatch.beacons._results import FIGURES, FixedResult
from autobatch.beacons._storage import compact, is_recorded, recorded_keys, write_beacon

__all__ = [
    "FIGURES",
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
    "LeaveOneOut",
    "LibraryInfo",
    "OptimumRegion",
    "Prediction",
    "PredictionQuality",
    "Promise",
    "Rule",
    "RunPlace",
    "Standing",
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
