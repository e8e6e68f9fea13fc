"""A crew of processes outlives its accidents."""

from collections import defaultdict

import pytest

from autobatch.training._crew import Crew
from tests.training.crew_work import work

pytestmark = pytest.mark.usefixtures("spawned_crews")


def test_every_job_is_done_and_accidents_stay_where_they_happen() -> None:
    jobs = ["a", "die", "raise", "refuse", "b"]
    heard = defaultdict(list)
    with Crew(work, jobs, size=1) as crew:
        for job, event, value in crew.events():
            heard[job].append((event, value))
    assert heard["a"] == [("started", None), ("progress", 0.5), ("progress", 1.0), ("done", "A")]
    assert heard["b"] == [("started", None), ("progress", 0.5), ("progress", 1.0), ("done", "B")]
    assert heard["die"][-1] == ("failed", "its process died with exit code 3")
    assert heard["refuse"][-1] == ("failed", "key 'x' is wrong")
    event, message = heard["raise"][-1]
    assert event == "failed"
    assert "ValueError: an accident" in message


def interrupted(crew: Crew[str]) -> None:
    with crew:
        for _, event, _ in crew.events():
            if event == "done":
                raise KeyboardInterrupt


def test_leaving_early_ends_the_processes() -> None:
    crew = Crew(work, ["a"] * 10, size=2)
    with pytest.raises(KeyboardInterrupt):
        interrupted(crew)
    assert len(crew._workers) == 2
    assert not any(worker.process.is_alive() for worker in crew._workers)
