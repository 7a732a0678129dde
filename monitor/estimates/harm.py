"""Convert a window's estimated metric to harm, the relative increase in the model's error.

Input: a window's estimate. Output: the harm, or None if it is unknown, and a drift event's
severity, which combines the harm with the size of the shift.
"""

from driftline.config.measure import higher_is_better
from driftline.wire.window_events import MetricEstimate
from monitor.error_scale import describe_increase, relative_increase


def harm_of(estimate: MetricEstimate | None) -> float | None:
    """Return the estimated increase in the error, as a fraction of the held-out error or of the
    estimate's floor, whichever is larger.

    If a higher metric is better, the error is 1 minus the metric. Otherwise, it is the metric.
    The result is 0.0 unless the whole interval is worse than the held-out value. The result is None
    if the harm is unknown: without an estimate, or if columns lie outside of the reference's
    support.

    >>> harm_of(MetricEstimate("accuracy", 0.85, 0.83, 0.87, 0.9))
    0.5
    >>> harm_of(MetricEstimate("mae", 2.2, 1.9, 2.5, 2.0))
    0.0
    >>> harm_of(MetricEstimate("mae", 2.2, 1.9, 2.5, 2.0, unsupported=("x",))) is None
    True
    """
    if estimate is None or estimate.unsupported:
        return None
    before, value, best = _errors(estimate)
    return 0.0 if best <= before else round(relative_increase(before, value, estimate.floor), 6)


def describe_harm(estimate: MetricEstimate | None) -> str:
    """Describe the harm of an estimate, or why it is unknown. Return "" if there is no harm or no
    estimate.

    >>> describe_harm(MetricEstimate("accuracy", 0.85, 0.83, 0.87, 0.9))
    'estimated error rose by 50%, from 0.1 to 0.15'
    >>> describe_harm(MetricEstimate("accuracy", 0.85, 0.83, 0.87, 0.9, floor=0.2))
    'estimated error rose from 0.1 to 0.15'
    >>> describe_harm(MetricEstimate("mae", 2.2, 1.9, 2.5, 2.0, unsupported=("x", "y")))
    'harm unknown until labels arrive: the reference has no such values of x, y'
    """
    if estimate is None:
        return ""
    if estimate.unsupported:
        names = ", ".join(estimate.unsupported[:5])
        return f"harm unknown until labels arrive: the reference has no such values of {names}"
    before, value, _ = _errors(estimate)
    rise = describe_increase(before, value, estimate.floor)
    return f"estimated {rise}" if harm_of(estimate) else ""


def _errors(estimate: MetricEstimate) -> tuple[float, float, float]:
    """Return the held-out error, the estimated error and the lower end of its interval."""
    value, best, before = estimate.value, estimate.low, estimate.reference
    if higher_is_better(estimate.metric):
        return 1.0 - before, 1.0 - value, 1.0 - estimate.high
    return before, value, best


def severity(effect: float, harm: float | None) -> float:
    """Return a drift event's severity: the shift's `effect` plus the `harm`, or only the effect if
    the harm is unknown.

    >>> severity(0.25, 0.5), severity(0.25, None)
    (0.75, 0.25)
    """
    return effect + (harm or 0.0)
