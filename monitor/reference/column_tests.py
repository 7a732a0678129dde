"""Test one column of a window (an array) against the model's reference, with an Evidently test.

Input: two arrays of a column's values, without missing values. Output: a p-value and an effect.
Tests are selected in the stream file by their Evidently names. This module creates no report and
sends no telemetry.
"""

import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.config.stream_sections import Kind
from driftline.errors import MissingExtra, StreamFileError
from monitor.reference.default_tests import MIN_STD, OF_CATEGORIES, OF_NUMBERS

# Evidently's registry does not say whether a test returns a p-value or a distance, so both kinds
# are listed here.
P_VALUES: Final[dict[Kind, tuple[str, ...]]] = {
    "number": ("ks", "anderson", "cramer_von_mises", "es", "mannw", "t_test"),
    "category": ("chisquare", "z"),
}
DISTANCES: Final[dict[Kind, tuple[str, ...]]] = {
    "number": ("wasserstein", "jensenshannon", "hellinger", "kl_div", "psi", "ed"),
    "category": ("jensenshannon", "hellinger", "kl_div", "psi"),
}
# Evidently's numeric and categorical tests that Driftline does not support, each with the reason.
LEFT_OUT: Final = {
    "fisher_exact": "it needs a window as long as the reference",
    "g_test": "it needs a window as long as the reference",
    "empirical_mmd": "it takes seconds per column",
    "TVD": "it takes seconds per column, because it is a permutation test",
}
EFFECTS: Final[dict[Kind, str]] = {"number": "wasserstein", "category": "jensenshannon"}
# Upper limit for an effect. Numeric effects are measured in standard deviations, so without this
# limit, the effect would be unbounded for a column that was constant in training.
MAX_EFFECT: Final = 10.0
# SciPy never returns a smaller p-value for the Anderson-Darling test. This p-value is treated as 0,
# because otherwise streams with many columns could never raise an alarm.
_ANDERSON_FLOOR: Final = 0.001


class Comparison(msgspec.Struct, frozen=True):
    """A test's result. If the test returns a distance, `effect` is the distance and `p_value` is
    None."""

    test: str
    p_value: float | None
    effect: float


def check(stream: Stream) -> None:
    """Check that the stream's tests exist and can run on this machine. Raises StreamFileError if a
    test is unknown, and MissingExtra if a test needs Evidently and Evidently is not installed."""
    kinds: tuple[tuple[Kind, str], ...] = (
        ("number", stream.drift.number_test),
        ("category", stream.drift.category_test),
    )
    for kind, name in kinds:
        if name not in P_VALUES[kind] + DISTANCES[kind]:
            why = (
                f"not {name!r}: {LEFT_OUT[name]}" if name in LEFT_OUT else f"no such test: {name!r}"
            )
            raise StreamFileError(
                f"stream {stream.name}: [drift.{kind}_test] {why}",
                hint="expected one of " + ", ".join(P_VALUES[kind] + DISTANCES[kind]),
            )
        if name not in {**OF_NUMBERS, **OF_CATEGORIES} and find_spec("evidently") is None:
            raise MissingExtra(
                f"Evidently, which [drift] {kind}_test = {name!r} needs,", "evidently"
            )


def compare(
    kind: Kind, test: str, reference: NDArray[Any], current: NDArray[Any]
) -> Comparison | None:
    """Run the named test. Return None if an array is empty or the test does not apply. `reference`
    (n,) and `current` (m,) are float64 for numbers, and object (str) for categories."""
    if not len(reference) or not len(current):
        return None
    if kind == "number":
        reference, current = _scaled(reference, current)
    else:
        reference, current = _coded(reference, current)
    if test == "z" and len({*reference, *current}) > 2:
        test = "chisquare"  # the z-test compares only one category with all others
    if test in DISTANCES[kind]:
        distance = _run(kind, test, reference, current)
        return None if distance is None else Comparison(test, None, min(distance, MAX_EFFECT))
    p_value = _run(kind, test, reference, current)
    effect = _run(kind, EFFECTS[kind], reference, current)
    if p_value is None or effect is None:
        return None
    if test == "anderson" and p_value <= _ANDERSON_FLOOR:
        p_value = 0.0
    return Comparison(test, min(p_value, 1.0), min(effect, MAX_EFFECT))


def _scaled(
    reference: NDArray[np.float64], current: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # The tests divide by the reference's standard deviation, or by `MIN_STD` if that is larger. If
    # `MIN_STD` is larger, scale both arrays, so that effects are still in standard deviations.
    std = float(np.std(reference))
    if 0.0 < std < MIN_STD and np.isfinite(1.0 / std):
        return reference / std, current / std
    return reference, current


def _coded(
    reference: NDArray[np.object_], current: NDArray[np.object_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return categories as integer codes, whose order in a set is the same in every process.
    Evidently sums over a set, so with strings, the last digit of the sum would differ between
    processes."""
    codes = {value: code for code, value in enumerate(sorted({*reference, *current}))}
    return (
        np.array([codes[value] for value in reference], dtype=np.int64),
        np.array([codes[value] for value in current], dtype=np.int64),
    )


def _run(kind: Kind, test: str, reference: NDArray[Any], current: NDArray[Any]) -> float | None:
    """Return the number that the test computes, or None if the test cannot handle the data."""
    own = (OF_NUMBERS if kind == "number" else OF_CATEGORIES).get(test)
    try:
        # A new category causes a division by zero, which correctly yields a p-value of 0.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = (own or evidently(kind, test))(reference, current)
    except (ValueError, TypeError, IndexError, np.linalg.LinAlgError):
        # `es` and `cramer_von_mises` reject a constant column, and `anderson` rejects a column with
        # only two values.
        return None
    if np.isnan(result):
        return None
    return min(max(result, 0.0), 1e9)


def evidently(kind: Kind, test: str) -> Callable[[NDArray[Any], NDArray[Any]], float]:
    """Return Evidently's own implementation of `test`, as a function of (reference, current)."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # disables telemetry; must precede the import
    import pandas as pd
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    column_type = ColumnType.Numerical if kind == "number" else ColumnType.Categorical

    def run(reference: NDArray[Any], current: NDArray[Any]) -> float:
        old, new = pd.Series(reference), pd.Series(current)
        result = get_stattest(old, new, column_type, test)(
            reference_data=old, current_data=new, feature_type=column_type, threshold=None
        )
        return float(result.drift_score)

    return run
