"""What one who has learnt nothing comes to."""

import math

QUANTITY = 1
"""In place of a number of classes: a quantity is predicted."""


def chance(score: str, classes: int) -> float:
    """Return the figure of one who guesses.

    Args:
        score: a loss, such as ``"validation_loss"``, or an error.
        classes: K classes, or ``QUANTITY``.

    Returns:
        Of classes log K, in nats, and the error 1 - 1/K; of a quantity in standard deviations, where the mean is
        guessed, 1 for both: the squared error, and the share of its variance that is left.
    """
    if classes == QUANTITY:
        return 1.0
    return math.log(classes) if score.endswith("_loss") else 1.0 - 1.0 / classes
