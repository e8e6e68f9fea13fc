"""What a surrogate knows least of."""

from pathlib import Path

import numpy as np
import pytest

from autobatch.beacons import Branches, Journey
from autobatch.envs.surrogate import _doubts, _ensemble, doubts_of
from autobatch.envs.surrogate._doubts import doubts
from autobatch.envs.surrogate._dynamics import Dynamics
from tests.envs.surrogate.synthetic_runs import (
    course_of,
    make_branches,
    make_folder,
    make_library,
    make_task,
    records,
)

COURSES = {seed: course_of(seed) for seed in (700, 701, 702)}


@pytest.fixture(autouse=True)
def fitted_briefly_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ensemble, "_STEPS", (60, 60))
    monkeypatch.setattr(_doubts, "alike", lambda *_: [])


def test_they_are_how_far_members_differ_in_the_end() -> None:
    library = make_library()
    dynamics = Dynamics.fit(library, make_branches(library), make_task())
    told = doubts(dynamics, list(COURSES.values()))
    for doubt, course in zip(told, COURSES.values(), strict=True):
        ends = []
        for member in range(dynamics.members):
            state = dynamics.begin(1)
            for configuration in course:
                rungs = (np.array([rung]) for rung in dynamics.moves.rungs(*configuration))
                state, _ = dynamics.step(state, *rungs, np.array([member]), np.zeros((1, dynamics.noise_size)))
            ends.append(state.seen[0, 0])
        assert doubt == pytest.approx(np.std(ends), rel=1e-5)  # float32, in batches of other sizes
    assert len(set(told)) == 3


def test_what_is_recorded_meanwhile_changes_nothing(tmp_path: Path) -> None:
    folder, library = make_folder(tmp_path / "task", branches=False), make_library()
    tell = doubts_of(library, folder, make_task(), folder)
    before = tell(COURSES)
    journeys = [Journey.from_records("journey", seed, records(course, seed)) for seed, course in COURSES.items()]
    Branches(tuple(journeys), library.info).save(folder)
    assert tell(COURSES) == before
    assert tell({900: course_of(700)}) != before[:1]
