"""Track: where the records of a training go, to files and to the trackers that people use.

In come the controller's records, decision by decision; out go lines of files and metrics of trackers. Open
``_protocol.py`` first.
"""

from autobatch.tracking._files import CSVLogger, JSONLinesLogger
from autobatch.tracking._mlflow import MLflowLogger
from autobatch.tracking._names import logger_names, make_logger
from autobatch.tracking._protocol import Logger, Scalar
from autobatch.tracking._records import as_metrics, as_texts, main_figures
from autobatch.tracking._safe import SafeLogger
from autobatch.tracking._tensorboard import TensorBoardLogger
from autobatch.tracking._wandb import WandbLogger

__all__ = [
    "CSVLogger",
    "JSONLinesLogger",
    "Logger",
    "MLflowLogger",
    "SafeLogger",
    "Scalar",
    "TensorBoardLogger",
    "WandbLogger",
    "as_metrics",
    "as_texts",
    "logger_names",
    "main_figures",
    "make_logger",
]
