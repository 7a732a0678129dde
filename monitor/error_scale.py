"""Relate a model's errors to a scale, so that errors near zero do not give extreme numbers.

Input: held-out errors (the losses that the metric implies) and labels. Output: the level at which
errors are clipped, and relative increases that remain meaningful if the earlier error is almost
zero.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure

# Errors above this quantile are clipped: a single extreme error is not drift. For exponential
# errors, it is 5.3 times the mean. If most errors are 0, it still lies among the other errors.
QUANTILE: Final = 0.995
# The scale of exponential errors with a known mean.
SCALE_OF_MEAN: Final = 5.3
# Smallest scale, as a fraction of the labels' mean absolute deviation. Smaller errors are rounding
# noise, or as good as none.
LEAST_OF_SPREAD: Final = 0.1
# An increase is divided by the earlier error, but by no less than this fraction of the scale. For
# 0/1 errors, whose scale is 1, this is an error rate of 5%: an increase from 0 to 5% and an
# increase from 20% to 40% then have the same severity.
FLOOR: Final = 0.05
# Upper limit for a relative increase. Only an error whose scale is unknown can reach it.
MAX_INCREASE: Final = 20.0


def clipping_level(errors: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the level at which absolute errors are clipped, given n ≥ 1 errors. It is 0 if at
    least 99.5% of them are 0. A single extreme error among 2 or more does not affect it.

    >>> clipping_level([0.0] * 90 + [1.0] * 9 + [1e12])
    1.0
    """
    values = np.sort(np.asarray(errors, dtype=np.float64))
    return float(values[int(QUANTILE * (len(values) - 1))])


def error_scale(
    measure: Measure, errors: NDArray[np.float64], labels: NDArray[Any]
) -> float | None:
    """Return the scale of a model's errors, given held-out errors (k,) and labels (m,).

    The scale is 1 for losses from 0 to 1. Otherwise, it is the clipping level. For regression, it
    is at least a tenth of the labels' mean absolute deviation, in the unit of the loss. Return None
    if the scale is unknown.
    """
    if measure.is_bounded:
        return 1.0
    if not len(errors) or not len(labels):
        return None
    found = clipping_level(errors)
    if measure.kind.task == "regression":
        found = max(found, LEAST_OF_SPREAD * _spread(measure, labels))
    return found if 0.0 < found < np.inf else None


def known_scale(measure: Measure, scale: float | None, mean: float | None) -> float | None:
    """Return the scale of a model's errors, given the published scale and the mean held-out error.
    Events of earlier versions contain no scale. The result is None if it is unknown."""
    if measure.is_bounded:
        return 1.0
    return SCALE_OF_MEAN * mean if scale is None and mean else scale


def floor_of(scale: float | None) -> float:
    """Return the smallest error by which an increase is divided; 0 if the scale is unknown."""
    return 0.0 if scale is None else FLOOR * scale


def relative_increase(before: float, after: float, floor: float) -> float:
    """Return the increase as a fraction of the earlier error or of `floor`, whichever is larger.
    The result is at most `MAX_INCREASE`.

    >>> relative_increase(0.25, 0.5, 0.05), relative_increase(0.0, 0.1, 0.05)
    (1.0, 2.0)
    """
    base = max(before, floor)
    return MAX_INCREASE if base <= 0.0 else min((after - before) / base, MAX_INCREASE)


def describe_increase(before: float, after: float, floor: float) -> str:
    """Describe an increase in the error. A percentage is given only if the earlier error is not
    close to zero.

    >>> describe_increase(0.2, 0.31, 0.05)
    'error rose by 55%, from 0.2 to 0.31'
    >>> describe_increase(1e-15, 0.3, 0.05)
    'error rose from 1e-15 to 0.3'
    """
    values = f"from {before:.3g} to {after:.3g}"
    if before <= floor:
        return f"error rose {values}"
    return f"error rose by {after / before - 1.0:.0%}, {values}"


def _spread(measure: Measure, labels: NDArray[Any]) -> float:
    """Return the mean absolute deviation of the labels, in the unit of the metric's loss."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asarray(labels, dtype=np.float64)
        if measure.name == "rmsle":
            values = np.log1p(np.maximum(values, 0.0))
        return float(np.abs(values - values.mean()).mean())
