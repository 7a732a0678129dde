"""The verdict on a window's records of one model: each watched column against its reference.

In: a sample, the reference out of the model's package. Out: a `DataGroup`. Limits hold for all
columns and the predictions together; a shift below the effect size is no drift.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from driftline.events import ColumnResult, DataGroup, RelationResult, WindowQuality
from driftline.stream import Stream
from monitor.reference.column_tests import compare
from monitor.reference.profile import Measured, Profile
from monitor.reference.quality import (
    QUALITIES,
    Counts,
    are_many,
    is_stuck,
    longest_run,
    rising,
)
from monitor.sample import Sample
from monitor.watched import Watched, present, watched

# A correlation of 0.18 where there was none puts 0.05 of the records elsewhere.
RELATION_EFFECT: Final = 0.5
# A column that goes its own way leaves all that it went with.
MAX_RELATIONS: Final = 10


class Judge:
    """Tests groups of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._watched = watched(stream)
        # Each quality of each column, and the share of dead letters.
        tests = len(QUALITIES) * len(self._watched) + 1
        self._quality_level = stream.drift.false_alarm_rate / tests

    def untested(self, model: str, records: int) -> DataGroup:
        """The verdict on too few records, or without a reference."""
        return DataGroup(model=model, records=records, sampled=0, tested=False)

    def window(self, records: int, dead_letters: int, lost: int) -> tuple[WindowQuality, ...]:
        """What is wrong with a window's records of all models together.

        A lost record is no matter of chance: one is enough.
        """
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
        profile: Profile,
    ) -> DataGroup:
        """The verdict on `records` records, of which `sample` is a part, and not empty."""
        measured = profile.measure(sample)
        results = [
            self._compare(
                column, profile.values.get(column.name), _values(sample, column), measured
            )
            for column in self._watched
        ]
        target = Watched(
            self._stream.target,
            "category" if self._stream.task == "classification" else "number",
            None,
        )
        prediction = self._compare(target, profile.predictions, sample.predictions, measured)
        counts = profile.count(self._stream, sample.columns)
        columns = tuple(self._with_quality(result, counts, sample, profile) for result in results)
        return DataGroup(
            model=model,
            records=records,
            sampled=len(sample),
            tested=True,
            columns=columns,
            prediction=prediction,
            relations=self._relations(measured, {c.column for c in columns if c.drifted})
            or self._told_apart(measured, columns, sample, profile),
            repeated=sample.repeated,
            limits=measured.limits,
        )

    def _compare(
        self,
        column: Watched,
        reference: NDArray[Any] | None,
        current: NDArray[Any] | None,
        measured: Measured,
    ) -> ColumnResult:
        drift = self._stream.drift
        test = drift.number_test if column.kind == "number" else drift.category_test
        found = None
        if reference is not None and current is not None:
            found = compare(column.kind, test, reference, present(current))
        if found is None:
            return ColumnResult(column.name, column.kind, test, None, 0.0, drifted=False)
        score = measured.scores[column.name]
        return ColumnResult(
            column.name,
            column.kind,
            found.test,
            found.p_value,
            found.effect,
            drifted=score >= measured.limits.warning and found.effect >= drift.effect_size,
            score=score,
        )

    def _relations(self, measured: Measured, drifted: set[str]) -> tuple[RelationResult, ...]:
        """Those that have changed by themselves, the most changed first."""
        changed = [
            relation
            for relation in measured.relations
            if self._matters(relation, measured) and not drifted.intersection(relation.columns)
        ]
        return tuple(sorted(changed, key=lambda relation: -relation.score)[:MAX_RELATIONS])

    def _told_apart(
        self,
        measured: Measured,
        columns: Sequence[ColumnResult],
        sample: Sample,
        profile: Profile,
    ) -> tuple[RelationResult, ...]:
        """What only a classifier sees: it is asked where nothing else was found."""
        if any(column.drifted for column in columns):
            return ()
        told = profile.tell_apart(sample, measured.limits)
        return () if told is None or not self._matters(told, measured) else (told,)

    def _matters(self, relation: RelationResult, measured: Measured) -> bool:
        least = self._stream.drift.effect_size * RELATION_EFFECT
        return relation.score >= measured.limits.warning and relation.effect >= least

    def _with_quality(
        self,
        result: ColumnResult,
        counts: Mapping[str, Counts],
        sample: Sample,
        profile: Profile,
    ) -> ColumnResult:
        none: Counts = (0, 0, 0)
        now = counts.get(result.column, none)
        before = profile.counts.get(result.column, none)
        quality = rising(now, len(sample), before, profile.records, level=self._quality_level)
        run = 0
        if result.column in profile.runs:
            run = longest_run(sample.columns[result.column])
            if is_stuck(run, len(sample), profile.runs[result.column]):
                quality = (*quality, "stuck")
        return msgspec.structs.replace(
            result,
            missing=now[0],
            unseen=now[1],
            out_of_range=now[2],
            stuck=run,
            quality=quality,
        )


def _values(sample: Sample, column: Watched) -> NDArray[Any] | None:
    columns = sample.columns
    if column.kind == "category":
        return columns.categories.get(column.name)
    return columns.numbers.get(column.name)
