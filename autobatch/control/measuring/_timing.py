"""Timing one epoch of a loop that came without a cost table."""

import time

import torch


class EpochTimer:
    """Tells what a step and a sample of an epoch take, as the loop itself takes them.

    The device is waited for at the sampled steps and at both ends of the epoch, nowhere else. The first step, which
    warms things up, is left out where that leaves a step to time.

    Args:
        device: where the model trains.
        steps: steps of the epoch.
        sampled: those that are measured.
    """

    def __init__(self, device: torch.device, steps: int, sampled: tuple[int, ...]) -> None:
        self._device = device
        self._sampled = sampled
        self._first = 1 if steps - len(sampled) > 1 and 0 not in sampled else 0
        self._stop = steps
        self._marks = {self._first, steps, *sampled, *(step + 1 for step in sampled)}
        self._clock: dict[int, float] = {}

    def mark(self, step: int) -> None:
        """Take the time when ``step`` steps of the epoch are done."""
        if step in self._marks:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._clock[step] = time.perf_counter()

    def finish(self, steps: int) -> None:
        """Take the time after the last of ``steps``; batches fetched ahead may make them differ from the plan."""
        self._stop = steps
        self._marks.add(steps)
        self.mark(steps)

    def seconds(self, measuring_seconds: float) -> tuple[float, float] | None:
        """Return what a plain step takes and what the last sample took besides.

        Args:
            measuring_seconds: what the last sample took by itself; it counts where every step of the epoch was sampled.

        Returns:
            Seconds of a step, and extra seconds of a sample, both positive; None where no sample was taken.
        """
        clock = self._clock
        sampled = [clock[step + 1] - clock[step] for step in self._sampled if step in clock and step + 1 in clock]
        if not sampled or self._first not in clock:
            return None
        plain_steps = self._stop - self._first - len(sampled)
        if plain_steps > 0:
            plain = (clock[self._stop] - clock[self._first] - sum(sampled)) / plain_steps
        else:
            plain = sampled[-1] - measuring_seconds
        return max(plain, _LEAST), max(sampled[-1] - plain, _LEAST)


_LEAST = 1e-6
