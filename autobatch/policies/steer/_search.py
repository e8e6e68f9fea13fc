"""Which scouts to make: rates towards where the loss falls, and a smaller batch where steps may be missing."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol, runtime_checkable

from autobatch.policies._protocol import Policy, TaskInfo
from autobatch.policies._wording import configuration, count, figure
from autobatch.policies.steer._scouts import (
    CLEARLY_WORSE,
    DID_NOT_FIT,
    LEARNT_NOTHING,
    Scout,
    ScoutPlan,
    best_of,
    by_scores,
    final_loss,
    hardly_begun,
    learnt_nothing,
)

SIZE, LARGEST = 32, 256
"""Batch size that scouts train at, or the rung next to it, and the largest where a training has many steps: see
``docs/concepts/steer.md``."""

SMALLEST, FURTHER = 8, 4
"""Where nobody names batch sizes: the smallest of them, and how many times as large as that of the scouts the largest
is, which is as far as batches grow."""

_TIMES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Where nobody names learning rates: what they are of the optimizer's own."""

EXAMPLES = 100_000
"""Examples of a whole training, each epoch's counted anew, from which that size grows, as the root of their number."""

HARDLY_LONGER = 1.45
"""Times as long that an example may take with batches of ``SIZE`` as with larger ones before these are worth having: so
far the usual share of the length with those takes about as long as the whole with these."""

MOST, MORE = 3, 2
"""Scouts where nobody says how many, and further ones where the rates lie around the optimizer's own and the loss still
falls."""

LEAST = 6
"""Decision periods below which a training has no scouts: an epoch more is worth more there (``docs/tried.md``)."""

FAR_BETTER = 0.95
"""Share of a scout's loss below which that of half its batch has to come where scouts have begun to learn: a smaller
batch is always a little ahead that early."""

FAR_WORSE = 10.0
"""Times the best scout's loss above which one of few steps ends early."""

FAR_ABOVE_GUESSING = 10.0
"""Times the loss of guessing from which a training loss says that a rate is far too high."""

QUARTER = 4
"""Times that the batch may be smaller than scouts have it, at most: smaller ones were not tried."""

DECISIONS = 20
"""Decisions of a training at least, where the parts of an epoch between two are long enough for a scout."""

STEPS = 60
"""Optimizer steps that a scout takes, where a tenth of the training has so many: after fewer high rates look best."""


@runtime_checkable
class PacingPolicy(Policy, Protocol):
    """A policy that says how often it decides in each epoch, where nobody else does."""

    def periods_of_epoch(self, batch_sizes: Sequence[int], dataset_size: int, epochs: int) -> int:
        """Return decision periods of an epoch, at least one."""
        ...


def plan_scouts(
    task: TaskInfo, number: int, share: float, done: Sequence[Scout] = (), *, hardly: float = math.inf
) -> ScoutPlan:
    """Say which short trainings to make of a task that nothing is known of.

    All train at one size, since an early loss cannot compare sizes: a smaller batch has taken more steps. It is the
    rung nearest to ``SIZE``, in a training of many steps a larger one (``many_steps``). The middle rate comes first,
    then a higher one, then one further up where that was better and one further down where it was not, and so on until
    the loss rises on both sides: the loss has one valley over the rate (``docs/concepts/steer.md``). Where the higher
    one was worse and has left out a single rate, or came to no end, one that was left out is next: the valley's floor
    is often next to where training breaks down. In a training of many steps none is left out of four. Two scouts alone
    lie at a quarter and at three quarters of what is allowed, of three even rates at both ends. Where nobody has named
    rates, they are tried one next to the other from the optimizer's own on, and up to ``MORE`` scouts go further.

    Where the best of them has hardly begun to learn, or has the highest rate, steps may be what is missing: one more
    scout trains with half the batch, where the losers still cost no more than a third of the training. Not where a
    training has many steps.

    Args:
        task: the task.
        number: how many rates at most.
        share: share of the training that each may take, in (0, 1); more, up to a tenth, until it has taken ``STEPS``.
        done: those that have been made.
        hardly: share of the loss of guessing above which a scout has hardly begun to learn.

    Returns:
        The plan, as far as it is settled; without configurations where there is nothing to compare, where the training
        has fewer periods than ``LEAST``, or where two scouts cost more than a third of it.
    """
    size, many = _size(task), many_steps(task)
    asked = max(1, round(share * task.epochs))
    tenth = task.epochs // 10 if task.periods == 1 else round(task.epochs / 10)
    epochs = max(asked, min(math.ceil(STEPS * size / task.train_size), tenth))
    room = affordable(task, epochs)
    most = min(number, room, len(task.learning_rates))
    if task.epochs < LEAST or most < 2:
        return ScoutPlan((), epochs, note=_why_none(task, number))
    notes = []
    if most < number:
        limit = f"more would take over {_allowed(task, epochs)} of the {task.told(task.epochs)}"
        if most == len(task.learning_rates):
            limit = f"there are {count(most, 'learning rate')} to try"
        notes.append(f"{count(most, 'scout')} instead of {number}: {limit}")
    if epochs > asked:
        notes.append(
            f"{task.told(epochs)} each instead of {figure(asked / task.periods)}: "
            "in fewer steps the highest rate looks best"
        )
    known = compared(task, done, epochs)
    trained = [scout for scout in known if scout.batch_size == size]
    if most == 2 and not task.around:
        rates, more = [_nearest(task.learning_rates, 0.25), _nearest(task.learning_rates, 0.75, higher=True)], 0
    else:
        rates = [scout.lr for scout in trained]
        most_rates = min(room, most + MORE) if task.around and number == MOST else most
        coming = _next(task, most, trained) if len(rates) < most_rates else None
        rates += [] if coming is None else [coming]
        more = 0 if coming is None else most_rates - len(rates)
    configurations = [(size, lr) for lr in rates]
    settled = len(rates) == len(trained)
    spare = number > MOST or task.around
    taken = len(rates) if settled and spare else most  # who asks for more scouts than usual has them to spare
    if many:
        examples = f"a training of {task.train_size * task.epochs:,} examples"
        notes.append(f"{examples} has steps enough with batches of {size}: no smaller one is tried")
    elif small_are_cheap(task):
        usual, wanted = _both_sizes(task)
        times = f"{figure(times_longer(task) or 1.0)} times as long"
        notes.append(f"an example takes {times} with batches of {usual} as with {wanted}, so no larger ones are needed")
    if not many and room > taken and math.isfinite(hardly):
        smaller = _smaller(task, size)
        if settled:
            configurations += smaller_batch(task, trained, hardly)
            configurations += smaller_still(task, known, hardly, epochs)
        elif smaller:
            where = "there is room" if task.around else "none has begun to learn, or the highest rate is best"
            notes.append(f"one more at s{smaller} where {where}")
    return ScoutPlan(tuple(configurations), epochs, more=more, note="; ".join(notes))


def affordable(task: TaskInfo, epochs: int) -> int:
    """Return how many scouts a training can have: losers may take a third, all two fifths where none may go on.

    Args:
        task: the task.
        epochs: how long each trains, in decision periods.

    Returns:
        Their number.
    """
    if _goes_on(task, epochs):
        return task.epochs // (3 * epochs) + 1  # the one that goes on costs nothing
    pair = 2 if 4 * epochs <= task.epochs else 0
    return max(pair, 2 * task.epochs // (5 * epochs))


def _goes_on(task: TaskInfo, epochs: int) -> bool:
    return task.scouts_go_on or epochs % task.periods == 0


def _allowed(task: TaskInfo, epochs: int) -> str:
    return "a third" if _goes_on(task, epochs) else "two fifths"


def within_memory(task: TaskInfo, scouts: Sequence[Scout]) -> TaskInfo:
    """Return a task with the batch sizes that are left where scouts did not fit into memory.

    Args:
        task: the task.
        scouts: what they came to.

    Returns:
        The task with the sizes below the smallest that did not fit; as it is where none is below.
    """
    too_large = min((scout.batch_size for scout in scouts if scout.ended == DID_NOT_FIT), default=math.inf)
    return up_to(task, too_large - 1)


def up_to(task: TaskInfo, largest: float) -> TaskInfo:
    """Return a task with the batch sizes up to the largest that fits; as it is where none does."""
    sizes = tuple(size for size in task.batch_sizes if size <= largest)
    return task if sizes in {(), task.batch_sizes} else replace(task, batch_sizes=sizes)


def clearly_worse(steps: int) -> float:
    """Return from how many times the best loss on a scout that has taken so many steps can be ended.

    The mean loss of fewer than ``STEPS`` has the training's first ones in it, which a rate that is best later on may
    make several times as high.
    """
    return CLEARLY_WORSE if steps >= STEPS else FAR_WORSE


def periods_of_epoch(batch_sizes: Sequence[int], dataset_size: int, epochs: int) -> int:
    """Say how often to decide in each epoch of a training, where nobody else says so.

    Where a training of few epochs has a thousand steps, a scout need not train a whole one, and the rate can fall
    within one: it gets ``DECISIONS`` decisions, as far as half of ``STEPS`` steps lie between two at the size that
    scouts have. The loss that scouts are compared by is then that of the latter half of their steps.

    Args:
        batch_sizes: the ladder, ascending.
        dataset_size: examples in one epoch.
        epochs: length of the whole training.

    Returns:
        Decision periods of an epoch, at least one.
    """
    least = max(STEPS // 2 * nearest_size(batch_sizes, dataset_size * epochs), batch_sizes[-1])
    return max(1, min(math.ceil(DECISIONS / epochs), dataset_size // least))


def compared(task: TaskInfo, scouts: Sequence[Scout], epochs: int) -> list[Scout]:
    """Return scouts as they are compared: by their validation losses where they have taken fewer than ``STEPS`` steps.

    The mean training loss of so short an epoch has the training's first steps in it, which are the worse the higher the
    rate, whatever comes of it later.

    Args:
        task: the task.
        scouts: what they came to.
        epochs: how long each has trained.

    Returns:
        The scouts.
    """
    few = epochs * math.ceil(task.train_size / _size(task)) < STEPS
    return by_scores(scouts) if few and task.score == "validation_loss" else list(scouts)


def smaller_batch(task: TaskInfo, scouts: Sequence[Scout], hardly: float) -> list[tuple[int, float]]:
    """Return half the batch to try, where scouts at one size have hardly begun to learn or the highest rate is best.

    Where the highest rate is best, the valley's floor was not reached, and half the batch at that rate does to the
    updates what a higher one would. Where rates lie around the optimizer's own, none is the highest of a list, and half
    the batch is tried at the best one. Else the rate is that of the floor, a parabola through the best scout and its
    neighbours, and keeps the noise of the updates: it falls in proportion to the batch size, or to its root where the
    optimizer scales its steps itself.

    Args:
        task: the task.
        scouts: those at one size.
        hardly: share of the loss of guessing above which a scout has hardly begun to learn.

    Returns:
        One (batch size, base learning rate); none where neither is so, none is sound or has learnt anything, or there
        is no smaller size.
    """
    best = best_of(scouts)
    if best is None or learnt_nothing(task, best, hardly):
        return []
    smaller = _smaller(task, best.batch_size)
    if smaller is None:
        return []
    hardly_so = hardly_begun(task, best, hardly)
    if len(scouts) > 1 and (best.lr == ends_of(task, scouts)[1] or (task.around and not hardly_so)):
        sound = hardly_so or best.train_losses[-1] > 0.0  # else a ratio says nothing
        return [(smaller, best.lr)] if sound else []
    if not hardly_so:
        return []
    ratio = smaller / best.batch_size
    return [(smaller, float(f"{_floor(best, scouts) * ratio ** (0.5 if task.adaptive else 1.0):.2g}"))]


def ends_of(task: TaskInfo, scouts: Sequence[Scout]) -> tuple[float, float]:
    """Return the lowest and the highest rate that scouts could take.

    Args:
        task: the task.
        scouts: those that rates are compared by.

    Returns:
        The ends of what may be chosen from; where that lies around the optimizer's own, of what was tried.
    """
    rates = [scout.lr for scout in scouts] if task.around and scouts else task.learning_rates
    return min(rates), max(rates)


def smaller_still(task: TaskInfo, scouts: Sequence[Scout], hardly: float, epochs: int) -> list[tuple[int, float]]:
    """Return half of each batch that was better by ``FAR_BETTER`` than the one of twice its size, at the same rate.

    Args:
        task: the task.
        scouts: what they came to.
        hardly: share of the loss of guessing above which a scout has hardly begun to learn.
        epochs: how long each trains, in decision periods.

    Returns:
        (batch size, base learning rate) of each, those that were made among them; none where scouts have hardly begun,
        below a quarter of the size that they train at, and beyond what scouts may cost.
    """
    best = best_of([scout for scout in scouts if scout.batch_size == _size(task)])
    if best is None or hardly_begun(task, best, hardly):
        return []
    found: list[tuple[int, float]] = []
    for half in helping_halves(best, scouts, FAR_BETTER):
        made = sum(scout.batch_size >= half.batch_size for scout in scouts)
        size = _smaller(task, half.batch_size)
        if size is None or size * QUARTER < _size(task) or affordable(task, epochs) <= made:
            break
        found.append((size, half.lr))
    return found


def helping_halves(best: Scout, scouts: Sequence[Scout], share: float) -> list[Scout]:
    """Return the scouts at half of each batch, as long as each is better than the one before by a share of its loss.

    Args:
        best: the best at the size that rates are compared at.
        scouts: those at smaller sizes, and any at that one.
        share: share of the loss before that each has to come below.

    Returns:
        The scouts, the largest batch first.
    """
    helping = [best]
    for half in sorted((one for one in scouts if one.batch_size < best.batch_size), key=lambda one: -one.batch_size):
        if not final_loss(half) < share * final_loss(helping[-1]):
            break
        helping.append(half)
    return helping[1:]


def _smaller(task: TaskInfo, size: int) -> int | None:
    return max((rung for rung in task.batch_sizes if 2 * rung <= size), default=None)


def _floor(best: Scout, scouts: Sequence[Scout]) -> float:
    """Return the rate at the lowest point of a parabola through the best scout and its neighbours, if it has two."""
    below = max((scout for scout in scouts if scout.lr < best.lr), key=lambda scout: scout.lr, default=None)
    above = min((scout for scout in scouts if scout.lr > best.lr), key=lambda scout: scout.lr, default=None)
    if below is None or above is None or not math.isfinite(final_loss(below) + final_loss(above)):
        return best.lr
    left, right = math.log(below.lr / best.lr), math.log(above.lr / best.lr)
    rise_left, rise_right = final_loss(below) - final_loss(best), final_loss(above) - final_loss(best)
    if rise_left <= 0.0 and rise_right <= 0.0:  # flat
        return best.lr
    curvature = (rise_right / right - rise_left / left) / (right - left)
    slope = rise_left / left - curvature * left
    return best.lr * math.exp(-slope / (2.0 * curvature))


def start_without_scouts(task: TaskInfo) -> tuple[int, float]:
    """Return where to start where no scout has gone: the size that scouts would have, and the middle rate.

    Args:
        task: the task.

    Returns:
        (batch size, base learning rate).
    """
    return _size(task), _nearest(task.learning_rates, 0.5)


def many_steps(task: TaskInfo) -> bool:
    """Say whether a training sees so many examples that steps are not what is missing.

    Args:
        task: the task.

    Returns:
        Whether the size that is wanted for its scouts is nearer to twice ``SIZE`` than to it, whatever rungs there are,
        and spares time, where a cost table knows that.
    """
    return task.train_size * task.epochs > 2 * EXAMPLES and not small_are_cheap(task)


def small_are_cheap(task: TaskInfo) -> bool:
    """Say whether a training of many examples takes hardly longer with batches of ``SIZE`` than with larger ones.

    Args:
        task: the task.

    Returns:
        Whether it does, by the cost table or as the loop was timed, and batches need not be larger; False where nobody
        knows.
    """
    times = times_longer(task)
    return times is not None and times <= HARDLY_LONGER


def times_longer(task: TaskInfo) -> float | None:
    """Return how many times as long an example takes with batches of ``SIZE`` as with those that many examples ask for.

    Args:
        task: the task.

    Returns:
        The ratio; None where both are the same size, and where nobody knows.
    """
    if not (sizes := _both_sizes(task)):
        return None
    if task.costs is not None:
        one, other = (task.costs.training_seconds(size, 1.0) / size for size in sizes)
    elif all(size in task.example_seconds for size in sizes):
        one, other = (task.example_seconds[size] for size in sizes)
    else:
        return None
    return one / other


def sizes_to_time(task: TaskInfo) -> tuple[int, ...]:
    """Return the batch sizes whose seconds decide how scouts of a training of many examples train.

    Args:
        task: the task.

    Returns:
        The rung next to ``SIZE`` and the larger one; none where they are the same, and where a cost table knows them.
    """
    return _both_sizes(task) if task.costs is None else ()


def _both_sizes(task: TaskInfo) -> tuple[int, ...]:
    wanted = _wanted(task.train_size * task.epochs)
    if wanted <= SIZE:
        return ()
    usual, larger = (_nearest_size(task.batch_sizes, size) for size in (SIZE, wanted))
    return () if usual == larger else (usual, larger)


def has_larger_batches(task: TaskInfo) -> bool:
    """Say whether the whole length takes fewer steps than the usual one with batches of ``SIZE``.

    Args:
        task: the task.

    Returns:
        Whether it has many steps and scouts train with larger batches.
    """
    return many_steps(task) and _size(task) > SIZE


def usual_length(length: float, epochs: int, periods: int = 1, *, many: bool = False) -> float:
    """Return the share of a task's length that is trained where no scout says otherwise.

    Args:
        length: the share that is asked for, in (0, 1].
        epochs: the task's length, in decision periods.
        periods: decision periods of an epoch.
        many: whether it has many steps, and larger batches make it as fast.

    Returns:
        All of a training of fewer epochs than ``LEAST``, which ends as planned by its owner: what an early end spares
        is worth less than what it costs. All of one of many steps, where larger batches spare more.
    """
    return 1.0 if many or epochs < LEAST * periods else length


def _size(task: TaskInfo) -> int:
    return _nearest_size(task.batch_sizes, SIZE if small_are_cheap(task) else _wanted(task.train_size * task.epochs))


def nearest_size(batch_sizes: Sequence[int], examples: int) -> int:
    """Return the rung for the scouts of a training that sees so many examples, of an ascending ladder.

    How large batches may be follows from what is trained on, not from the model (Zhang et al. 2024, arXiv 2410.21676);
    the best size grows as its power 0.38 (Bergsma et al. 2025, 2505.13738) to 0.58 (Li et al. 2025, 2503.04715).
    """
    return _nearest_size(tuple(batch_sizes), _wanted(examples))


@lru_cache(maxsize=1024)  # asked many times of each task, and of thousands on surrogates
def _nearest_size(batch_sizes: tuple[int, ...], wanted: float) -> int:
    return min(batch_sizes, key=lambda rung: (abs(math.log(rung / wanted)), rung))


def _wanted(examples: int) -> float:
    return min(SIZE * math.sqrt(examples / EXAMPLES), LARGEST) if examples > EXAMPLES else SIZE


def usual_rates(own: float) -> tuple[float, ...]:
    """Return the base learning rates to choose from where nobody names any.

    Args:
        own: the optimizer's own rate.

    Returns:
        0.01, 0.03, 0.1 and so on to 100 times that.
    """
    return tuple(own if times == 1.0 else float(f"{own * times:.10g}") for times in _TIMES)


def usual_sizes(dataset_size: int, epochs: int) -> tuple[int, ...]:
    """Return the ladder of batch sizes where nobody names one.

    Args:
        dataset_size: examples in one epoch.
        epochs: length of the whole training.

    Returns:
        Powers of two, from ``SMALLEST`` to ``FURTHER`` times the size that suits the scouts of such a training, and to
        a quarter of the examples; one size at least.
    """
    largest = min(FURTHER * 2 ** round(math.log2(_wanted(dataset_size * epochs))), dataset_size / 4)
    sizes = itertools.takewhile(lambda size: size <= largest, (SMALLEST * 2**power for power in itertools.count()))
    return tuple(sizes) or (min(SMALLEST, dataset_size),)


def _why_none(task: TaskInfo, number: int) -> str:
    """Say why a task has no scouts, and what is done instead."""
    if number == 0:
        why = "none were asked for"
    elif len(task.learning_rates) < 2:
        why = "there is one learning rate, so nothing to choose"
    elif number == 1:
        why = "one alone has nothing to be compared with, it takes two"
    else:
        verb = "is" if task.epochs == task.periods else "are"
        steps = count(math.ceil(task.train_size * task.periods / _size(task)), "step")
        why = f"{task.told(task.epochs)} of {steps} {verb} too few, and better spent on the training itself"
    where = (
        "" if len(task.learning_rates) < 2 else f", the middle of {', '.join(f'{lr:g}' for lr in task.learning_rates)}"
    )
    return f"no scouts: {why}; it starts with {configuration(*start_without_scouts(task))}{where}"


def _next(task: TaskInfo, most: int, done: Sequence[Scout]) -> float | None:
    """Return the rate to try next; None where the valley lies between those that have been tried."""
    rates = task.learning_rates
    few = many_steps(task) and len(rates) <= most + 1
    stops = rates if task.around or few else _stops(tuple(rates), most)
    if task.around and task.guessing is not None:
        alive = [_has_learnt(scout, task.guessing) for scout in done]
        far = FAR_ABOVE_GUESSING * task.guessing or math.inf
        if not any(alive) and _are_alike(done):
            return _elsewhere(rates, done)
        # A rate at which nothing is learnt is as bad as one that diverges, where others learn or its loss is far off.
        stuck = [
            scout.ended is None and not learns and (any(alive) or max(scout.train_losses[-1:], default=0.0) > far)
            for scout, learns in zip(done, alive, strict=True)
        ]
        done = [replace(one, ended="learnt nothing") if so else one for one, so in zip(done, stuck, strict=True)]
    tried = {stops.index(scout.lr): final_loss(scout) for scout in done if scout.lr in stops}
    if any(scout.scores and math.isnan(final_loss(scout)) for scout in done):  # nothing says where the loss falls
        return None
    best, middle = best_of(done), stops.index(_nearest(rates, 0.5))
    place = _towards(tried, len(stops), middle, down=2 if task.around else 1)
    if place is None or (best is not None and best.lr not in stops):  # between two that were tried
        return None
    skipped = _skipped(rates, done) if stops[place] < min((scout.lr for scout in done), default=0.0) else []
    return skipped[(len(skipped) - 1) // 2] if skipped else stops[place]


def _has_learnt(scout: Scout, guessing: float) -> bool:
    """Return whether a scout is below the loss of guessing, in training or in what it is compared by."""
    loss = final_loss(scout)
    return math.isfinite(loss) and min(scout.train_losses[-1], loss) <= LEARNT_NOTHING * guessing


def _are_alike(scouts: Sequence[Scout]) -> bool:
    """Return whether several came to their ends, and to losses so near one another that they do not say where to go."""
    losses = [final_loss(scout) for scout in scouts]
    return len(losses) > 1 and all(map(math.isfinite, losses)) and min(losses) > FAR_BETTER * max(losses)


def _elsewhere(rates: Sequence[float], scouts: Sequence[Scout]) -> float | None:
    """Return a rate two places below those that were tried, or above where more of them lie below the middle one."""
    middle, places = len(rates) // 2, sorted(rates.index(scout.lr) for scout in scouts)
    below = sum(place < middle for place in places) < sum(place > middle for place in places)
    place = places[0] - 2 if below else places[-1] + 2
    return rates[place] if 0 <= place < len(rates) else None


def _skipped(rates: Sequence[float], done: Sequence[Scout]) -> list[float]:
    """Return the rates between the best scout's and the next higher one, which came to no end or left out but one."""
    best = best_of(done)
    above = min((scout for scout in done if best and scout.lr > best.lr), key=lambda scout: scout.lr, default=None)
    if best is None or above is None:
        return []
    between = [rate for rate in rates if best.lr < rate < above.lr]
    return between if len(between) == 1 or above.ended is not None else []


def _towards(tried: Mapping[int, float], number: int, middle: int, down: int) -> int | None:
    """Return the next place to try.

    NaN is the loss of a scout that came to nothing, which says nothing of its rate. Where all have diverged so far, the
    next is ``down`` places lower.
    """

    def beyond(place: int, step: int) -> list[int]:
        return [other for other in range(place + step, number if step > 0 else -1, step) if other not in tried]

    losses = {place: loss for place, loss in tried.items() if not math.isnan(loss)}
    if not losses:
        return next(iter([middle] * (middle not in tried) + beyond(middle, 1) + beyond(middle, -1)), None)
    lowest, highest = min(losses), max(losses)
    if min(losses.values()) == math.inf:
        return next(iter(beyond(lowest, -1)[:down][::-1]), None)
    best = min(losses, key=lambda place: losses[place])  # of equal ones the first that was tried
    coming = beyond(highest, 1) if best == highest else []
    coming += beyond(lowest, -1) if best == lowest else []
    return coming[0] if coming else None


@lru_cache(maxsize=1024)
def _stops(rates: tuple[float, ...], most: int) -> tuple[float, ...]:
    """Return the rates to stop at on the way up or down: as far apart as so many over all rates would lie."""
    places = {0.5 + step / most for step in range(-most, most + 1)}
    return tuple(sorted({_nearest(rates, min(max(place, 0.0), 1.0)) for place in places}))


def _nearest(rates: Sequence[float], place: float, *, higher: bool = False) -> float:
    """Return the rate nearest to a place in [0, 1] between the lowest and the highest, by their logarithms."""
    low, high = math.log(rates[0]), math.log(rates[-1])
    wanted = low + (high - low) * place
    # Rounded, so that of two rates equally near the lower or the higher one is taken, not what round-off favours.
    return min(rates[::-1] if higher else rates, key=lambda rate: round(abs(math.log(rate) - wanted), 9))
