"""Summarise runs in tables: medians, and ratios to Driftline with their spread.

A ratio compares two programs in the same round, because they then ran shortly after each other
under similar conditions. The spread is the least and the greatest value of the rounds.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

import msgspec

from benchmarks.contestants import DRIFTLINE
from benchmarks.latency import Latency
from benchmarks.services import Curve, ServiceRun
from benchmarks.swap import Swap
from benchmarks.throughput import Throughput

Run = TypeVar("Run", Throughput, Latency)


class Spread(msgspec.Struct, frozen=True):
    """The median, least and greatest value of the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one or more values.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, least=1.0, greatest=3.0)
        """
        return cls(median(values), min(values), max(values))

    def text(self, form: str) -> str:
        """Format the median, with the least and greatest value in brackets if they differ.

        >>> Spread(2.0, 1.0, 3.0).text(".1f"), Spread(2.0, 2.0, 2.0).text(".1f")
        ('2.0 (1.0–3.0)', '2.0')
        """
        if self.least == self.greatest:
            return format(self.median, form)
        return f"{self.median:{form}} ({self.least:{form}}–{self.greatest:{form}})"


class ThroughputRow(msgspec.Struct, frozen=True):
    """The throughput of one program with one number of features.

    driftline_is: Driftline's records per second divided by this program's in the same round.
    """

    features: int
    name: str
    records_per_s: Spread
    driftline_is: Spread
    cpu_us_per_record: Spread
    peak_mb: Spread


class LatencyRow(msgspec.Struct, frozen=True):
    """The latency of one program with one number of features."""

    features: int
    name: str
    p50_ms: Spread
    p99_ms: Spread
    max_ms: Spread
    acknowledged_p99_ms: Spread


def throughput_rows(runs: Sequence[Throughput]) -> list[ThroughputRow]:
    """Return a row for each program and number of features, in the order of their first runs."""
    ours = {(r.features, r.round): r.records_per_s for r in runs if r.name == DRIFTLINE}
    return [
        ThroughputRow(
            features,
            name,
            _spread(group, lambda run: run.records_per_s),
            _spread(group, lambda run: ours[run.features, run.round] / run.records_per_s),
            _spread(group, lambda run: run.cpu_us_per_record),
            _spread(group, lambda run: run.peak_mb),
        )
        for (features, name), group in _grouped(
            [run for run in runs if (run.features, run.round) in ours]
        ).items()
    ]


def latency_rows(runs: Sequence[Latency]) -> list[LatencyRow]:
    """Return a row for each program and number of features, in the order of their first runs."""
    return [
        LatencyRow(
            features,
            name,
            _spread(group, lambda run: run.p50_ms),
            _spread(group, lambda run: run.p99_ms),
            _spread(group, lambda run: run.max_ms),
            _spread(group, lambda run: run.acknowledged_p99_ms),
        )
        for (features, name), group in _grouped(runs).items()
    ]


def throughput_table(rows: Sequence[ThroughputRow]) -> list[list[str]]:
    """Return the table as text cells; the first row is the header."""
    head = ["features", "program", "records/s", "Driftline is", "µs CPU a record", "peak MB"]
    return [head] + [
        [
            str(row.features),
            row.name,
            row.records_per_s.text(",.0f"),
            "× " + row.driftline_is.text(".2f"),
            row.cpu_us_per_record.text(".2f"),
            row.peak_mb.text(",.0f"),
        ]
        for row in rows
    ]


def latency_table(rows: Sequence[LatencyRow]) -> list[list[str]]:
    """Return the table as text cells; the first row is the header."""
    head = ["features", "program", "p50 ms", "p99 ms", "longest ms", "p99 of acknowledging"]
    return [head] + [
        [
            str(row.features),
            row.name,
            row.p50_ms.text(".1f"),
            row.p99_ms.text(".1f"),
            row.max_ms.text(".0f"),
            row.acknowledged_p99_ms.text(".1f"),
        ]
        for row in rows
    ]


def services_table(runs: Sequence[ServiceRun]) -> list[list[str]]:
    """Return the table as text cells: a header, then a row for each service."""
    head = ["features", "service", "records/s", "µs CPU a record", "peak MB"]
    groups: dict[tuple[int, str], list[ServiceRun]] = {}
    for run in runs:
        groups.setdefault((run.features, run.service), []).append(run)
    return [head] + [
        [
            str(features),
            service,
            _spread(group, lambda run: run.records_per_s).text(",.0f"),
            _spread(group, lambda run: run.cpu_us_per_record).text(".2f"),
            _spread(group, lambda run: run.peak_mb).text(",.0f"),
        ]
        for (features, service), group in groups.items()
    ]


def memory_table(curves: Sequence[Curve], records: int) -> list[list[str]]:
    """Return the table as text cells: a header, then each service's memory after a fiftieth, a
    fifth and all of the records."""
    marks = (records // 50, records // 5, records)
    head = ["service", *(f"MB at {mark:,}" for mark in marks)]
    return [head] + [
        [curve.service, *(f"{curve.at(mark):,.0f}" for mark in marks)] for curve in curves
    ]


def swap_table(runs: Sequence[Swap]) -> list[list[str]]:
    """Return the table as text cells: a header, then a row for each kind of model."""
    head = [
        "candidate",
        "rows",
        "seconds",
        "usual p50 ms",
        "usual p99",
        "training p99",
        "longest in the second of the swap",
        "of a usual second",
        "longest of all usual",
    ]
    groups: dict[str, list[Swap]] = {}
    for run in runs:
        groups.setdefault(run.candidate, []).append(run)
    return [head] + [
        [
            candidate,
            f"{group[0].rows:,}",
            _spread(group, lambda run: run.seconds).text(".1f"),
            _spread(group, lambda run: run.usual_p50_ms).text(".1f"),
            _spread(group, lambda run: run.usual_p99_ms).text(".1f"),
            _spread(group, lambda run: run.training_p99_ms).text(".1f"),
            _spread(group, lambda run: run.at_swap_max_ms).text(".1f"),
            _spread(group, lambda run: run.usual_longest_ms).text(".1f"),
            _spread(group, lambda run: run.usual_max_ms).text(".1f"),
        ]
        for candidate, group in groups.items()
    ]


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Format the table as Markdown with aligned columns, so that its source is readable too.

    >>> print(aligned([["program", "records/s"], ["by_hand", "200,000"]]))
    | program | records/s |
    |---------|----------:|
    | by_hand |   200,000 |
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numeric = [table[1][i][:1] in "×0123456789–" for i in range(len(widths))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        + " |"
        for row in table
    ]
    rule = "|".join(
        "-" * (width + 1) + (":" if right else "-")
        for width, right in zip(widths, numeric, strict=True)
    )
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _grouped(runs: Sequence[Run]) -> dict[tuple[int, str], list[Run]]:
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.features, run.name), []).append(run)
    return groups


def _spread(runs: Sequence[Any], value: Callable[[Any], float]) -> Spread:
    return Spread.of([value(run) for run in runs])
