"""Test one model's records in a window for drift and data quality, against the model's reference.

Input: a sample, and the prepared reference from the model's package. Output: a `DataGroup`. The
false-alarm rate applies to all columns and the predictions together. A shift smaller than
`effect_size` is not reported as drift.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.wire.window_events import (
    ColumnResult,
    DataGroup,
    DependenceDrift,
    Quality,
    WindowQuality,
)
from monitor.bottom_k_sample import Sample
from monitor.optional import optional
from monitor.reference.column_tests import compare
from monitor.reference.profile import Measured, ReferenceProfile
from monitor.reference.quality import (
    QUALITIES,
    Faults,
    are_many,
    is_stuck,
    longest_run,
    rising,
    unseen_levels,
)
from monitor.watched_columns import WatchedColumn, present, watched

# A column pair has dependence drift only if its effect is at least this fraction of `effect_size`.
# For example, a new correlation of 0.18 moves 5% of the records to other cells of
# the pair's 3 × 3 table.
DEPENDENCE_EFFECT: Final = 0.5
# Maximum number of pairs to report. If one column becomes independent of all others, every pair
# that contains it may have dependence drift.
MAX_DEPENDENCE_RESULTS: Final = 10


class Judge:
    """Tests each model's records in a stream's windows."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._watched = watched(stream)
        # Divide the false-alarm rate among all columns' quality tests and the two dead-letter
        # tests, one for records and one for labels.
        tests = len(QUALITIES) * len(self._watched) + 2
        self._quality_level = stream.drift.false_alarm_rate / tests
        # If `decided_by` is "test", divide the rate among the drift tests of the columns and the
        # predictions.
        self._by_test = stream.drift.decided_by == "test"
        self._drift_level = stream.drift.false_alarm_rate / (len(self._watched) + 1)

    def untested(self, model: str, records: int) -> DataGroup:
        """Return the result for a group with too few records or without a reference."""
        return DataGroup(model=model, records=records, sampled=0, tested=False)

    def window(self, records: int, dead_letters: int, lost: int) -> tuple[WindowQuality, ...]:
        """Return a window's quality problems. The counts cover either all models' records or all
        labels. Records are never lost by chance, so even one lost record is a problem."""
        found: list[WindowQuality] = []
        total = records + dead_letters
        is_tested = total >= self._stream.windows.min_records
        if is_tested and are_many(dead_letters, total, level=self._quality_level):
            found.append("dead_letters")
        if lost:
            found.append("gaps")
        return tuple(found)

    def test(
        self,
        model: str,
        records: int,
        sample: Sample,
        profile: ReferenceProfile,
    ) -> DataGroup:
        """Return the result for a model's `records` records, given a non-empty `sample` of these
        records."""
        measured = profile.measure(sample)
        results = [
            self._compare(
                column, profile.values.get(column.name), _values(sample, column), measured
            )
            for column in self._watched
        ]
        target = WatchedColumn(
            self._stream.target,
            "category" if self._stream.task == "classification" else "number",
            None,
        )
        prediction = self._compare(target, profile.predictions, sample.predictions, measured)
        faults = profile.faults(self._stream, sample.columns)
        columns = tuple(self._with_quality(result, faults, sample, profile) for result in results)
        return DataGroup(
            model=model,
            records=records,
            sampled=len(sample),
            tested=True,
            columns=columns,
            prediction=prediction,
            relations=()
            if self._by_test
            else self._dependence_drift(measured, {c.column for c in columns if c.drifted})
            or self._dependence_by_classifier(measured, columns, sample, profile),
            repeated=sample.repeated,
            # Without limits, a single window with a finding opens an event.
            limits=None if self._by_test else measured.limits,
        )

    def _compare(
        self,
        column: WatchedColumn,
        reference: NDArray[Any] | None,
        current: NDArray[Any] | None,
        measured: Measured,
    ) -> ColumnResult:
        drift = self._stream.drift
        test = drift.number_test if column.kind == "number" else drift.category_test
        found = None
        if reference is not None and current is not None:
            found = optional(
                lambda: compare(column.kind, test, reference, present(current)),
                None,
                f"column {column.name!r} of a window is not tested",
            )
        if found is None:
            return ColumnResult(column.name, column.kind, test, None, 0.0, drifted=False)
        score = measured.scores[column.name]
        if self._by_test:
            significant = found.p_value is None or found.p_value < self._drift_level
        else:
            significant = score >= measured.limits.warning
        return ColumnResult(
            column.name,
            column.kind,
            found.test,
            found.p_value,
            found.effect,
            drifted=significant and found.effect >= drift.effect_size,
            score=score,
        )

    def _dependence_drift(
        self, measured: Measured, drifted: set[str]
    ) -> tuple[DependenceDrift, ...]:
        """Return pairs with dependence drift in which neither column has drifted, in order of
        decreasing score."""
        changed = [
            pair
            for pair in measured.pairs
            if self._is_large_enough(pair, measured) and not drifted.intersection(pair.columns)
        ]
        return tuple(sorted(changed, key=lambda pair: -pair.score)[:MAX_DEPENDENCE_RESULTS])

    def _dependence_by_classifier(
        self,
        measured: Measured,
        columns: Sequence[ColumnResult],
        sample: Sample,
        profile: ReferenceProfile,
    ) -> tuple[DependenceDrift, ...]:
        """Run the domain classifier unless a column has drifted. Return the classifier's result if
        it shows drift, otherwise an empty tuple."""
        if any(column.drifted for column in columns):
            return ()
        drift = optional(
            lambda: profile.domain_classifier_drift(sample, measured.limits),
            None,
            "a window is published without the domain classifier's result",
        )
        return () if drift is None or not self._is_large_enough(drift, measured) else (drift,)

    def _is_large_enough(self, pair: DependenceDrift, measured: Measured) -> bool:
        least = self._stream.drift.effect_size * DEPENDENCE_EFFECT
        return pair.score >= measured.limits.warning and pair.effect >= least

    def _with_quality(
        self,
        result: ColumnResult,
        faults: Mapping[str, Faults],
        sample: Sample,
        profile: ReferenceProfile,
    ) -> ColumnResult:
        if result.column not in faults:
            return result
        missing, unseen, outside = faults[result.column]
        counts = int(missing.sum()), int(unseen.sum()), int(outside.sum())
        quality: tuple[Quality, ...] = ()
        run = 0
        if result.column in profile.before:
            known = profile.before[result.column]
            quality = rising(counts, len(sample), known, profile.records, self._quality_level)
            run = longest_run(sample.columns[result.column])
            if is_stuck(run, len(sample), profile.runs[result.column]):
                quality = (*quality, "stuck")
        return msgspec.structs.replace(
            result,
            missing=counts[0],
            unseen=counts[1],
            out_of_range=counts[2],
            stuck=run,
            quality=quality,
            unseen_levels=unseen_levels(sample.columns[result.column], unseen),
        )


def _values(sample: Sample, column: WatchedColumn) -> NDArray[Any] | None:
    columns = sample.columns
    if column.kind == "category":
        return columns.categories.get(column.name)
    return columns.numbers.get(column.name)
