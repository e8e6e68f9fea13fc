"""A controller's arguments, where a framework decides some of what they say."""

from dataclasses import replace

from autobatch.control import BatchPlan, Rates


def with_accumulation(plan: BatchPlan | None, batches: int) -> BatchPlan:
    """Return a plan for a framework that accumulates.

    Args:
        plan: the user's; None where there is none.
        batches: how many it accumulates.

    Returns:
        The plan with that, unless it says another number, or splits batches.
    """
    if plan is None:
        plan = BatchPlan()
    return plan if plan.splits or plan.accumulation > 1 else replace(plan, accumulation=batches)


def with_reference(rates: Rates | str | None, batch_size: int | None) -> Rates:
    """Return rates whose rule starts from the framework's own global batch size, unless it says another."""
    ruled = Rates.of(rates)
    rule = ruled.learning_rate_rule
    return ruled if rule.reference_batch_size else replace(ruled, rule=replace(rule, reference_batch_size=batch_size))
