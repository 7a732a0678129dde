"""Convert a window's estimated metric to harm, the relative increase in the model's error.

Input: a window's estimate. Output: the harm, and a drift event's severity, which combines the harm
with the size of the shift.
"""

from typing import Final

from driftline.config.measure import higher_is_better
from driftline.wire.window_events import MetricEstimate

# Upper limit for the harm. Without a limit, an increase from a held-out error near 0 would be
# arbitrarily large.
MAX_HARM: Final = 10.0

# A larger increase is described by both values, because a percentage of a base near 0 says nothing:
# an error that rises from 1e-14 to 0.25 has the same importance as one that rises from 0.
MAX_RELATIVE_RISE: Final = 2.0


def harm_of(estimate: MetricEstimate | None) -> float | None:
    """Return the estimated increase in the error, as a fraction of the held-out error. The result
    is at most `MAX_HARM`.

    If a higher metric is better, the error is 1 minus the metric. Otherwise, it is the metric.
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
    >>> describe_harm(MetricEstimate("accuracy", 0.992, 0.99, 0.995, 0.999))
    'accuracy is estimated at 0.992, but was 0.999 on held-out records'
    """
    harm = harm_of(estimate)
    if estimate is None or not harm:
        return ""
    if harm <= MAX_RELATIVE_RISE:
        return f"the error is estimated to be {harm:.0%} higher"
    now, before = f"{estimate.value:.3g}", f"{estimate.reference:.3g}"
    return f"{estimate.metric} is estimated at {now}, but was {before} on held-out records"


def describe_rise(before: float, after: float) -> str:
    """Describe an increase of an error, as a percentage unless the base is too close to 0.

    >>> describe_rise(0.2, 0.3), describe_rise(1e-14, 0.25), describe_rise(0.0, 0.25)
    ('rose by 50%', 'rose from 1e-14 to 0.25', 'rose from 0 to 0.25')
    """
    if before > 0.0 and after / before - 1.0 <= MAX_RELATIVE_RISE:
        return f"rose by {after / before - 1.0:.0%}"
    return f"rose from {before:.3g} to {after:.3g}"


def severity(effect: float, harm: float | None) -> float:
    """Return a drift event's severity: the shift's `effect` plus the `harm`, or only the effect if
    no harm was estimated.

    >>> severity(0.25, 0.5), severity(0.25, None)
    (0.75, 0.25)
    """
    return effect + (harm or 0.0)
