"""The policy that steers to where good beacons ended.

In come a library and an observation; out goes the decision whose forecast has the best predicted score, told in words.
Open ``_policy.py`` first.
"""

from autobatch.policies.beacon_follow._policy import BeaconFollowParameters, BeaconFollowPolicy

__all__ = [
    "BeaconFollowParameters",
    "BeaconFollowPolicy",
]
