"""Published rules for the batch size.

In comes an observation with the moments of its gradients; out goes the decision that the rule's paper would take. Open
``_rival.py`` first.
"""

from autobatch.policies.rivals._adabatch import AdaBatchParameters, AdaBatchPolicy
from autobatch.policies.rivals._adascale import AdaScaleParameters, AdaScalePolicy
from autobatch.policies.rivals._bandit import RmgdParameters, RmgdPolicy
from autobatch.policies.rivals._cabs import CabsParameters, CabsPolicy
from autobatch.policies.rivals._increase_batch import IncreaseBatchParameters, IncreaseBatchPolicy
from autobatch.policies.rivals._inner_product_test import InnerProductTestParameters, InnerProductTestPolicy
from autobatch.policies.rivals._noise_average import NoiseAverage
from autobatch.policies.rivals._noise_scale import NoiseScaleParameters, NoiseScalePolicy
from autobatch.policies.rivals._norm_test import NormTestParameters, NormTestPolicy
from autobatch.policies.rivals._plateau import PlateauParameters, PlateauPolicy
from autobatch.policies.rivals._simigrad import SimiGradParameters, SimiGradPolicy
from autobatch.policies.rivals._sqrt_warmup import SqrtWarmupParameters, SqrtWarmupPolicy

__all__ = [
    "AdaBatchParameters",
    "AdaBatchPolicy",
    "AdaScaleParameters",
    "AdaScalePolicy",
    "CabsParameters",
    "CabsPolicy",
    "IncreaseBatchParameters",
    "IncreaseBatchPolicy",
    "InnerProductTestParameters",
    "InnerProductTestPolicy",
    "NoiseAverage",
    "NoiseScaleParameters",
    "NoiseScalePolicy",
    "NormTestParameters",
    "NormTestPolicy",
    "PlateauParameters",
    "PlateauPolicy",
    "RmgdParameters",
    "RmgdPolicy",
    "SimiGradParameters",
    "SimiGradPolicy",
    "SqrtWarmupParameters",
    "SqrtWarmupPolicy",
]
