"""The verdict on a window's records of one model: each watched column against its reference.

In: a sample, the reference out of the model's package. Out: a `DataGroup`. Limits hold for all
columns and the predictions together; a shift below the effect size is no drift.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns
from driftline.events import ColumnResult, DataGroup, Limits, RelationResult
from driftline.models.reference import Reference
from driftline.stream import Feature, Kind, Stream
from monitor.column_tests import compare
from monitor.histograms import Histograms
from monitor.quality import (
    QUALITIES,
    Counts,
    count_categories,
    count_numbers,
    is_stuck,
    longest_run,
    rising,
)
from monitor.sample import Sample
from monitor.thresholds import Calibration

# A correlation of 0.18 where there was none puts 0.05 of the records elsewhere.
RELATION_EFFECT: Final = 0.5
# A column that goes its own way leaves all that it went with.
MAX_RELATIONS: Final = 10


class Watched(NamedTuple):
    """A column that is tested; `feature` is None for derived ones."""

    name: str
    kind: Kind
    feature: Feature | None


def watched(stream: Stream) -> tuple[Watched, ...]:
    """The columns to test: declared ones unless `watch = false`, and all derived ones."""
    declared = [
        Watched(name, feature.kind, feature)
        for name, feature in stream.inputs.items()
        if feature.watch
    ]
    return (*declared, *(Watched(name, "number", None) for name in stream.derived))


class Profile:
    """A reference made ready: columns without missing values, counts, levels."""

    def __init__(self, stream: Stream, reference: Reference) -> None:
        columns = reference.columns
        self.records = len(columns)
        self.levels: dict[str, frozenset[str]] = {}
        self.values: dict[str, NDArray[Any]] = {}
        self.predictions = reference.predictions
        for column in watched(stream):
            if column.kind == "category":
                values = columns.categories.get(column.name)
                if values is not None:
                    self.levels[column.name] = frozenset(
                        (*reference.levels.get(column.name, ()), *values)
                    ) - {None}
                    self.values[column.name] = _present(values)
            elif (numbers := columns.numbers.get(column.name)) is not None:
                self.values[column.name] = _present(numbers)
        self.counts = self.count(stream, columns)
        self.runs = {name: longest_run(_of(columns, name)) for name in self.values}
        names = [name for name in self.values if name != stream.target]
        self._histograms = Histograms(
            [*(_of(columns, name) for name in names), self.predictions], paired=len(names)
        )
        self._names = [*names, stream.target]
        self._calibration = Calibration(
            self._histograms,
            rate=stream.drift.false_alarm_rate,
            block=_block(stream, reference),
        )

    def measure(self, sample: Sample) -> "Measured":
        """How far off the sample is."""
        columns = [*(_of(sample.columns, name) for name in self._names[:-1]), sample.predictions]
        thresholds = self._calibration.of(len(sample))
        counts = self._histograms.count(columns)
        distances = self._histograms.distances(counts, self._histograms.total)
        scores = thresholds.scores(distances).tolist()
        count = len(self._names)
        return Measured(
            scores=dict(zip(self._names, scores[:count], strict=True)),
            relations=[
                RelationResult((self._names[pair.places[0]], self._names[pair.places[1]]), *found)
                for pair, *found in zip(
                    self._histograms.pairs, distances[count:].tolist(), scores[count:], strict=True
                )
            ],
            limits=Limits(thresholds.warning, thresholds.alarm),
        )

    def count(self, stream: Stream, columns: Columns) -> dict[str, Counts]:
        """Missing, unseen and out-of-range values, by column."""
        counts: dict[str, Counts] = {}
        for name, kind, feature in watched(stream):
            if kind == "category" and name in columns.categories:
                known = self.levels.get(name)
                missing, unseen, outside = count_categories(
                    columns.categories[name], known if known is not None else frozenset()
                )
                counts[name] = (missing, unseen if known is not None else 0, outside)
            elif kind == "number" and name in columns.numbers:
                counts[name] = count_numbers(columns.numbers[name], feature)
        return counts


class Measured(NamedTuple):
    """How far a sample is off: by column (the predictions under the target's name), and by pair."""

    scores: Mapping[str, float]
    relations: Sequence[RelationResult]
    limits: Limits


class Judge:
    """Tests groups of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._watched = watched(stream)

    def untested(self, model: str, records: int) -> DataGroup:
        """The verdict on too few records, or without a reference."""
        return DataGroup(model=model, records=records, sampled=0, tested=False)

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
        tested = len(QUALITIES) * len(self._watched)
        quality_level = self._stream.drift.false_alarm_rate / max(1, tested)
        counts = profile.count(self._stream, sample.columns)
        columns = tuple(
            self._with_quality(result, counts, sample, profile, quality_level) for result in results
        )
        return DataGroup(
            model=model,
            records=records,
            sampled=len(sample),
            tested=True,
            columns=columns,
            prediction=prediction,
            relations=self._relations(measured, {c.column for c in columns if c.drifted}),
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
            found = compare(column.kind, test, reference, _present(current))
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
        least = self._stream.drift.effect_size * RELATION_EFFECT
        changed = [
            relation
            for relation in measured.relations
            if relation.score >= measured.limits.warning
            and relation.effect >= least
            and not drifted.intersection(relation.columns)
        ]
        return tuple(sorted(changed, key=lambda relation: -relation.score)[:MAX_RELATIONS])

    def _with_quality(
        self,
        result: ColumnResult,
        counts: Mapping[str, Counts],
        sample: Sample,
        profile: Profile,
        level: float,
    ) -> ColumnResult:
        none: Counts = (0, 0, 0)
        now = counts.get(result.column, none)
        before = profile.counts.get(result.column, none)
        quality = rising(now, len(sample), before, profile.records, level=level)
        run = 0
        if result.column in profile.runs:
            run = longest_run(_of(sample.columns, result.column))
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


def _of(columns: Columns, name: str) -> NDArray[Any]:
    return columns.numbers[name] if name in columns.numbers else columns.categories[name]


def _block(stream: Stream, reference: Reference) -> int | None:
    """The stream file's block in records, at the rate at which the reference's came."""
    block = stream.block
    if block is None:
        return None
    span = int(reference.positions[-1] - reference.positions[0])
    return max(1, round(block * (len(reference.positions) - 1) / span)) if span else 1


def _present(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f":
        keep = ~np.isnan(values)
    else:
        keep = np.array([value is not None for value in values], dtype=bool)
    present: NDArray[Any] = values[keep]
    return present
