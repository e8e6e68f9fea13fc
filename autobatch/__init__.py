"""autobatch chooses batch size and learning rate while a network trains, from the Fisher spectrum of its gradients.

Everything public is here; names resolve on first use (PEP 562), so that importing the package does not import torch.
Importing it registers its environments with Gymnasium.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use

if TYPE_CHECKING:
    from autobatch._errors import (
        AutoBatchError,
        CheckpointError,
        ConfigError,
        DataError,
        LibraryError,
        MeasureError,
        OutputError,
        UnknownNameError,
    )
    from autobatch.analysis import FisherInformation, LayerInformation, fisher_information
    from autobatch.beacons import (
        Beacon,
        BeaconKey,
        BeaconLibrary,
        Branches,
        CostTable,
        FinalPrediction,
        FixedResult,
        Forecast,
        Landscape,
        LibraryInfo,
        OptimumRegion,
        Prediction,
        PredictionQuality,
        Standing,
        compact,
        forecast,
        leave_one_out,
        predict_final,
        prediction_quality,
        write_beacon,
    )
    from autobatch.control import (
        AutoBatchController,
        BatchPlan,
        DecisionRecord,
        LearningRateRule,
        MeasureAtInterval,
        MeasureWithinBudget,
        Measuring,
        NeverMeasure,
        Processes,
        Rates,
        TaskFacts,
    )
    from autobatch.envs import BoxActions, SurrogateEnv, SurrogateVectorEnv, TrainEnv
    from autobatch.evidence import compare_policies, load_runs
    from autobatch.fisher import (
        FisherProbe,
        Measurement,
        SpectralPosition,
        Spectrum,
        register_gram_rule,
        register_keeping,
    )
    from autobatch.learn import LearningPlan, train_policy
    from autobatch.policies import (
        Candidate,
        Decision,
        Observation,
        ObservationView,
        Policy,
        PolicySpec,
        ScoutReport,
        TaskInfo,
        load_policy_spec,
        make_policy,
        policy_names,
        register_policy,
    )
    from autobatch.training import (
        EpochRow,
        ExperimentSpec,
        RecordingObserver,
        RecordingProgress,
        RecordingResult,
        RunConfig,
        RunInfo,
        RunObserver,
        Summary,
        TaskSpec,
        build_model,
        load_data,
        load_decisions,
        load_epochs,
        load_experiment,
        load_run_config,
        load_summary,
        load_task,
        record_beacons,
        record_task_beacons,
        resolve,
        run,
        scout,
    )

from autobatch.envs import register_environments  # registers with Gymnasium

register_environments()

try:
    __version__ = version("autobatch")
except PackageNotFoundError:  # a checkout on the path that was not installed
    __version__ = "unknown"

__all__ = [
    "AutoBatchController",
    "AutoBatchError",
    "BatchPlan",
    "Beacon",
    "BeaconKey",
    "BeaconLibrary",
    "BoxActions",
    "Branches",
    "Candidate",
    "CheckpointError",
    "ConfigError",
    "CostTable",
    "DataError",
    "Decision",
    "DecisionRecord",
    "EpochRow",
    "ExperimentSpec",
    "FinalPrediction",
    "FisherInformation",
    "FisherProbe",
    "FixedResult",
    "Forecast",
    "Landscape",
    "LayerInformation",
    "LearningPlan",
    "LearningRateRule",
    "LibraryError",
    "LibraryInfo",
    "MeasureAtInterval",
    "MeasureError",
    "MeasureWithinBudget",
    "Measurement",
    "Measuring",
    "NeverMeasure",
    "Observation",
    "ObservationView",
    "OptimumRegion",
    "OutputError",
    "Policy",
    "PolicySpec",
    "Prediction",
    "PredictionQuality",
    "Processes",
    "Rates",
    "RecordingObserver",
    "RecordingProgress",
    "RecordingResult",
    "RunConfig",
    "RunInfo",
    "RunObserver",
    "ScoutReport",
    "SpectralPosition",
    "Spectrum",
    "Standing",
    "Summary",
    "SurrogateEnv",
    "SurrogateVectorEnv",
    "TaskFacts",
    "TaskInfo",
    "TaskSpec",
    "TrainEnv",
    "UnknownNameError",
    "__version__",
    "build_model",
    "compact",
    "compare_policies",
    "fisher_information",
    "forecast",
    "leave_one_out",
    "load_data",
    "load_decisions",
    "load_epochs",
    "load_experiment",
    "load_policy_spec",
    "load_run_config",
    "load_runs",
    "load_summary",
    "load_task",
    "make_policy",
    "policy_names",
    "predict_final",
    "prediction_quality",
    "record_beacons",
    "record_task_beacons",
    "register_gram_rule",
    "register_keeping",
    "register_policy",
    "resolve",
    "run",
    "scout",
    "train_policy",
    "write_beacon",
]

__getattr__, __dir__ = on_first_use(__name__)
