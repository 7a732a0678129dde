"""Convert a window's estimated metric to harm, the relative increase in the model's error.

Input: a window's estimate. Output: the harm, and a drift event's severity, which combines the harm
with the size of the shift.
"""

from typing import Final

from driftline.learning.metrics import higher_is_better
from driftline.wire.window_events import MetricEstimate

# Upper limit for the harm. Without this limit, any increase from a held-out error of 0 would be
# infinite.
MAX_HARM: Final = 100.0


def harm_of(estimate: MetricEstimate | None) -> float | None:
    """Return the estimated increase in the error, as a fraction of the held-out error. The result
    is at most `MAX_HARM`.

    For mae and rmse, the error is the metric itself. For other metrics, it is 1 minus the metric.
    The result is 0.0 unless the whole interval is worse than the held-out value. Without an
    estimate, the result is None.

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


def describe_harm(estimate: MetricEstimate | None) -> str:
    """Describe the harm of an estimate, or return "" if there is none.

    >>> describe_harm(MetricEstimate("accuracy", 0.85, 0.83, 0.87, 0.9))
    'the error is estimated to be 50% higher'
    >>> describe_harm(MetricEstimate("accuracy", 0.992, 0.99, 0.995, 1.0))
    'accuracy is estimated at 0.992, but was 1 on held-out records'
    """
    harm = harm_of(estimate)
    if estimate is None or not harm:
        return ""
    if harm < MAX_HARM:
        return f"the error is estimated to be {harm:.0%} higher"
    now, before = f"{estimate.value:.3g}", f"{estimate.reference:.3g}"
    return f"{estimate.metric} is estimated at {now}, but was {before} on held-out records"


def severity(effect: float, harm: float | None) -> float:
    """Return a drift event's severity: the shift's `effect` plus the `harm`, or only the effect if
    no harm was estimated.

    >>> severity(0.25, 0.5), severity(0.25, None)
    (0.75, 0.25)
    """
    return effect + (harm or 0.0)
