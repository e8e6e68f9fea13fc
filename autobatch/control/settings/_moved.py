"""Arguments that a controller had before they were grouped."""

from collections.abc import Iterable

from autobatch._errors import ConfigError, near_names

MOVED = {
    "learning_rates": ("rates", "learning_rates"),
    "schedule": ("rates", "schedule"),
    "steered": ("rates", "steered"),
    "milestones": ("rates", "milestones"),
    "milestone_factor": ("rates", "milestone_factor"),
    "lr_rule": ("rates", "rule"),
    "loss_reduction": ("measuring", "loss_reduction"),
    "bn": ("measuring", "bn"),
    "reuse_weight_gradient": ("measuring", "reuse_weight_gradient"),
    "grad_scaler": ("measuring", "grad_scaler"),
    "decide_every": ("plan", "decide_every"),
    "process_group": ("processes", "group"),
    "measure": ("processes", "measured"),
    "device": ("processes", "device"),
    "task_name": ("task", "name"),
    "dataset_name": ("task", "dataset"),
    "score": ("task", "score"),
    "costs": ("task", "costs"),
    "mode": ("advise", ""),
    "batch_size": ("advise", ""),
}
"""An argument of before, and where it is now: argument and attribute of that."""

_KINDS = {
    "rates": "Rates",
    "measuring": "Measuring",
    "plan": "BatchPlan",
    "processes": "Processes",
    "task": "TaskFacts",
}


def refuse_moved(given: Iterable[str], known: Iterable[str], who: str = "AutoBatchController") -> None:
    """Refuse arguments that there are no more, or never were.

    Args:
        given: names of arguments.
        known: those that there are.
        who: what was given them, for the message.

    Raises:
        ConfigError: one is not known; the message says what took its place, or what is near.
    """
    known = tuple(known)
    for name in given:
        if name in MOVED:
            argument, attribute = MOVED[name]
            now = f"{_KINDS[argument]}({attribute}=...)" if attribute else "..."
            raise ConfigError(f"{who}: '{name}' is now {argument}={now}")
        if name == "steps" and "examples" in known:
            raise ConfigError(
                f"{who}: the length of a loop without epochs is examples=..., its steps times its batch size"
            )
        if name not in known:
            raise ConfigError(f"{who}: no argument is called '{name}'; {near_names(name, known)}")
