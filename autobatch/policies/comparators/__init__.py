"""What can be had for about one training: simple things that any steering has to be compared with.

In come a task and, where a rule looks at it, the validation score; out go decisions. None of them looks at C̄, L or the
gradients. Open ``_pick_after_i_epochs.py`` first.
"""

from autobatch.policies.comparators._best_beacon_stopped import BestBeaconStoppedParameters, BestBeaconStoppedPolicy
from autobatch.policies.comparators._late_switch import LateSwitchParameters, LateSwitchPolicy
from autobatch.policies.comparators._pick_after_i_epochs import PickAfterIEpochsParameters, PickAfterIEpochsPolicy
from autobatch.policies.comparators._portfolio import PortfolioParameters, PortfolioPolicy
from autobatch.policies.comparators._seesaw import SeesawParameters, SeesawPolicy

__all__ = [
    "BestBeaconStoppedParameters",
    "BestBeaconStoppedPolicy",
    "LateSwitchParameters",
    "LateSwitchPolicy",
    "PickAfterIEpochsParameters",
    "PickAfterIEpochsPolicy",
    "PortfolioParameters",
    "PortfolioPolicy",
    "SeesawParameters",
    "SeesawPolicy",
]
