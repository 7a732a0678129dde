"""What drift of the data does to a model: from the estimated metric to a share of its error.

In: the estimate of a window. Out: the harm, and a severity that mixes it with the shift.
"""

from typing import Final

from driftline.evaluation import higher_is_better
from driftline.events import MetricEstimate

# The error of a model that made none can rise by any share.
MAX_HARM: Final = 100.0


def harm_of(estimate: MetricEstimate | None) -> float | None:
    """The estimated rise of the error as a share of what it was on held-out data, at most 100.

    The error is mae, rmse, or what the metric lacks to 1. 0.0 where the interval has the held-out
    value too, or all of it is better. None without an estimate.

    >>> harm_of(MetricEstimate("accuracy", 0.85, 0.83, 0.87, 0.9))
    0.5
    >>> harm_of(MetricEstimate("mae", 2.2, 1.9, 2.5, 2.0))
    0.0
    """
    if estimate is None:
        return None
    value, best, before = estimate.value, estimate.low, estimate.reference
    if higher_is_better(estimate.metric):
        value, best, before = 1.0 - value, 1.0 - estimate.high, 1.0 - before
    if best <= before:
        return 0.0
    return round(min(MAX_HARM, (value - before) / before), 6) if before > 0.0 else MAX_HARM


def severity(effect: float, harm: float | None) -> float:
    """Shift and harm together: their sum. A shift that does no harm is as severe as it is large;
    harm adds the share by which the error rises.

    >>> severity(0.25, 0.5), severity(0.25, None)
    (0.75, 0.25)
    """
    return effect + (harm or 0.0)
