"""Further arguments of a controller whose others a recording, or scouting, sets itself."""

from collections.abc import Iterable, Mapping
from typing import Any

from autobatch._errors import ConfigError
from autobatch.control import BatchPlan, Measuring, Rates, TaskFacts
from autobatch.control._controller import ARGUMENTS
from autobatch.control.settings import MOVED, refuse_moved

_NOT_TOLD = frozenset({"seed", "task_name"})


def grouped(
    options: Mapping[str, Any], *, ours: Iterable[str], within: Mapping[str, Iterable[str]], who: str, sets: str
) -> dict[str, Any]:
    """Return options with rates, measuring, plan and task among them, as they are or by default.

    Args:
        options: arguments of ``AutoBatchController``.
        ours: those that cannot be given.
        within: what cannot be said in others, by argument.
        who: whose options they are, for messages.
        sets: what sets the others.

    Returns:
        The options, nothing short for anything.

    Raises:
        ConfigError: one is not known, or cannot be given.
    """
    taken = sorted(set(ours) & options.keys())
    refuse_moved(options.keys() - set(taken), ARGUMENTS, who)
    all_of_them = {
        **options,
        "rates": Rates.of(options.get("rates")),
        "measuring": Measuring.of(options.get("measuring")),
        "plan": options.get("plan") or BatchPlan(),
        "task": options.get("task") or TaskFacts(),
    }
    taken += [
        f"{argument}.{name}"
        for argument, names in within.items()
        for name in names
        if getattr(all_of_them[argument], name)
    ]
    if taken:
        raise ConfigError(f"{who}: {', '.join(map(repr, taken))} cannot be given here; {sets} sets it itself")
    return all_of_them


def words_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return a controller's arguments, where plain and not the default, as words that tell scouts of others apart."""
    return {name: words for name, words in _in_words(arguments).items() if _DEFAULTS.get(name) != words}


def words_before(words: Mapping[str, str]) -> dict[str, str]:
    """Return what an older version told, which had defaults too where they had been given, without them."""
    return {name: word for name, word in words.items() if _DEFAULTS.get(name) != word}


def _in_words(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return plain values under the names that files on disk have for them."""
    flat = {
        **arguments,
        **{
            name: getattr(arguments.get(argument), attribute, None)
            for name, (argument, attribute) in MOVED.items()
            if attribute
        },
    }
    plain = {name: value for name, value in flat.items() if isinstance(value, str | int | float | tuple)}
    return {name: repr(value) for name, value in sorted(plain.items()) if name not in _NOT_TOLD}


_DEFAULTS = _in_words({"rates": Rates(), "measuring": Measuring(), "plan": BatchPlan(), "task": TaskFacts()})
