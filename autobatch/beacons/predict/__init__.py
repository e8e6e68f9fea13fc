"""Where a running training would end.

In come a library and the first epochs of some runs; out go predicted positions and final scores, with how far such
predictions can be trusted. Open ``_final.py`` first.
"""

from autobatch.beacons.predict._final import FinalPrediction, predict_final
from autobatch.beacons.predict._forecast import Forecast, forecast, forecast_stages
from autobatch.beacons.predict._places import RunPlace, read_places
from autobatch.beacons.predict._quality import PredictionQuality, prediction_quality, quality_table

__all__ = [
    "FinalPrediction",
    "Forecast",
    "PredictionQuality",
    "RunPlace",
    "forecast",
    "forecast_stages",
    "predict_final",
    "prediction_quality",
    "quality_table",
    "read_places",
]
