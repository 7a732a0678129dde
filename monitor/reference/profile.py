"""Prepare the arrays of a model's reference for comparison with samples from windows.

Input: the reference from the model's package, then samples from windows. Output: calibrated scores
for a sample's distances from the reference, and its missing, unseen and out-of-range values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from driftline.wire.window_events import DependenceDrift, Limits
from monitor.bottom_k_sample import Sample
from monitor.reference.domain_classifier import DomainClassifier
from monitor.reference.histograms import Histograms
from monitor.reference.quality import (
    Faults,
    before,
    faults_of_categories,
    faults_of_numbers,
    levels_seen_once,
    longest_run,
)
from monitor.reference.thresholds import ThresholdCalibration
from monitor.watched_columns import present, watched

# Units of seasons by axis, in positions: a record number, or a day, hour, minute, second,
# millisecond and microsecond.
UNITS: Final = {
    "row": (1,),
    "time": (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000, 1),
}


class Measured(NamedTuple):
    """A sample's scores by column name, and its results by column pair. The predictions' score is
    stored under the target's name."""

    scores: Mapping[str, float]
    pairs: Sequence[DependenceDrift]
    limits: Limits


class ReferenceProfile:
    """A prepared reference: columns without missing values, faults, category levels and
    thresholds."""

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
                    self.values[column.name] = present(values)
            elif (numbers := columns.numbers.get(column.name)) is not None:
                self.values[column.name] = present(numbers)
        faults = self.faults(stream, columns)
        for name in self.levels:
            missing, _, outside = faults[name]
            faults[name] = missing, levels_seen_once(columns[name]), outside
        self.before = {name: before(own) for name, own in faults.items()}
        self.runs = {name: longest_run(columns[name]) for name in self.values}
        names = [name for name in self.values if name != stream.target]
        self._histograms = Histograms(
            [*(columns[name] for name in names), self.predictions],
            paired=len(names),
            positions=reference.positions,
            units=UNITS[stream.axis],
        )
        self._names = [*names, stream.target]
        asks = stream.drift.classifier and names
        # If the classifier is used, it gets half of the false-alarm rate, and all other tests share
        # the other half.
        rate = stream.drift.false_alarm_rate / (2 if asks else 1)
        self._calibration = ThresholdCalibration(
            self._histograms,
            rate=rate,
            block=_block(stream, reference),
        )
        self._classifier = (
            DomainClassifier(
                self._histograms, columns=len(names), rate=rate, block=self._calibration.block
            )
            if asks
            else None
        )

    def domain_classifier_drift(self, sample: Sample, limits: Limits) -> DependenceDrift | None:
        """Return the domain classifier's result, or None if it is not an alarm. An effect equal to
        the classifier's own limit gets the score `limits.alarm`."""
        columns = self._columns(sample)
        drift = self._classifier.test(columns, sample.positions) if self._classifier else None
        if drift is None or drift.excess < 1.0 or limits.alarm is None:
            return None
        return DependenceDrift(self._named(drift.places), drift.effect, drift.excess * limits.alarm)

    def _named(self, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._names[place] for place in places)

    def _columns(self, sample: Sample) -> list[NDArray[Any]]:
        return [*(sample.columns[name] for name in self._names[:-1]), sample.predictions]

    def measure(self, sample: Sample) -> Measured:
        """Measure a sample's distance from the reference."""
        columns = self._columns(sample)
        thresholds = self._calibration.of(len(sample))
        counts = self._histograms.count(columns, sample.positions)
        distances = self._histograms.distances(counts, self._histograms.total)
        scores = thresholds.scores(distances).tolist()
        count = len(self._names)
        return Measured(
            scores=dict(zip(self._names, scores[:count], strict=True)),
            pairs=[
                DependenceDrift((self._names[pair.places[0]], self._names[pair.places[1]]), *found)
                for pair, *found in zip(
                    self._histograms.pairs, distances[count:].tolist(), scores[count:], strict=True
                )
            ],
            limits=Limits(
                thresholds.warning,
                thresholds.alarm,
                uncalibrated=self._named(self._calibration.uncalibrated),
                insensitive=self._named(np.flatnonzero(thresholds.insensitive).tolist()),
            ),
        )

    def faults(self, stream: Stream, columns: Columns) -> dict[str, Faults]:
        """Return which values are missing, unseen or out of range, by column."""
        found: dict[str, Faults] = {}
        for name, kind, feature in watched(stream):
            if kind == "category" and name in columns.categories:
                values = columns.categories[name]
                known = self.levels.get(name)
                found[name] = faults_of_categories(values, known or frozenset(values))
            elif kind == "number" and name in columns.numbers:
                found[name] = faults_of_numbers(columns.numbers[name], feature)
        return found


def _block(stream: Stream, reference: Reference) -> int | None:
    """Return the stream file's block length, converted to records at the reference's average record
    rate. Return None if the stream file contains no block length."""
    block = stream.block
    if block is None:
        return None
    span = int(reference.positions[-1] - reference.positions[0])
    return max(1, round(block * (len(reference.positions) - 1) / span)) if span else 1
