"""The verdict on a window's records of one model: each watched column against its reference.

In: a sample, the reference out of the model's package. Out: a `DataGroup`. All
columns and the predictions are corrected for together; a shift below the effect size is no drift.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns
from driftline.events import ColumnResult, DataGroup
from driftline.models.reference import Reference
from driftline.stream import Feature, Kind, Stream
from monitor.column_tests import Comparison, compare, significant
from monitor.quality import QUALITIES, Counts, count_categories, count_numbers, rising
from monitor.sample import Sample


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
        drift = self._stream.drift
        found = [
            (
                column.name,
                column.kind,
                self._compare(column.kind, profile.values.get(column.name), current),
            )
            for column in self._watched
            for current in [_values(sample, column)]
        ]
        kind: Kind = "category" if self._stream.task == "classification" else "number"
        found.append(
            (
                self._stream.target,
                kind,
                self._compare(kind, profile.predictions, sample.predictions),
            )
        )
        results = self._results(found)
        quality_level = drift.false_alarm_rate / max(1, len(QUALITIES) * len(self._watched))
        counts = profile.count(self._stream, sample.columns)
        columns = tuple(
            self._with_quality(result, counts, len(sample), profile, quality_level)
            for result in results[:-1]
        )
        return DataGroup(
            model=model,
            records=records,
            sampled=len(sample),
            tested=True,
            columns=columns,
            prediction=results[-1],
        )

    def _compare(
        self, kind: Kind, reference: NDArray[Any] | None, current: NDArray[Any] | None
    ) -> Comparison | None:
        if reference is None or current is None:
            return None
        drift = self._stream.drift
        test = drift.number_test if kind == "number" else drift.category_test
        return compare(kind, test, reference, _present(current))

    def _results(self, found: list[tuple[str, Kind, Comparison | None]]) -> list[ColumnResult]:
        drift = self._stream.drift
        p_values = [
            comparison.p_value
            for _, _, comparison in found
            if comparison is not None and comparison.p_value is not None
        ]
        verdicts = iter(significant(p_values, drift.false_alarm_rate))
        results = []
        for name, kind, comparison in found:
            if comparison is None:
                test = drift.number_test if kind == "number" else drift.category_test
                results.append(ColumnResult(name, kind, test, None, 0.0, drifted=False))
                continue
            # A distance has no p-value: the effect size alone decides.
            counts_as_change = comparison.p_value is None or next(verdicts)
            results.append(
                ColumnResult(
                    name,
                    kind,
                    comparison.test,
                    comparison.p_value,
                    comparison.effect,
                    drifted=counts_as_change and comparison.effect >= drift.effect_size,
                )
            )
        return results

    def _with_quality(
        self,
        result: ColumnResult,
        counts: Mapping[str, Counts],
        records: int,
        profile: Profile,
        level: float,
    ) -> ColumnResult:
        none: Counts = (0, 0, 0)
        now = counts.get(result.column, none)
        before = profile.counts.get(result.column, none)
        return msgspec.structs.replace(
            result,
            missing=now[0],
            unseen=now[1],
            out_of_range=now[2],
            quality=rising(now, records, before, profile.records, level=level),
        )


def _values(sample: Sample, column: Watched) -> NDArray[Any] | None:
    columns = sample.columns
    if column.kind == "category":
        return columns.categories.get(column.name)
    return columns.numbers.get(column.name)


def _present(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f":
        keep = ~np.isnan(values)
    else:
        keep = np.array([value is not None for value in values], dtype=bool)
    present: NDArray[Any] = values[keep]
    return present
