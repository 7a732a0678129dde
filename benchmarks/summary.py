"""Format benchmark results as text tables: medians and ranges of measured values and of ratios.

A ratio compares Driftline with another program in the same round, because the programs run under
similar conditions within a round. A range covers the values of all rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.contestants import DRIFTLINE
from benchmarks.latency import Latency
from benchmarks.services import Curve, ServiceRun
from benchmarks.swap import Swap
from benchmarks.throughput import Throughput


class Spread(msgspec.Struct, frozen=True):
    """The median, smallest and largest value over all rounds."""

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
        """Format the median, followed by the range in brackets unless all values are equal.

        >>> Spread(2.0, 1.0, 3.0).text(".1f"), Spread(2.0, 2.0, 2.0).text(".1f")
        ('2.0 (1.0–3.0)', '2.0')
        """
        if self.least == self.greatest:
            return format(self.median, form)
        return f"{self.median:{form}} ({self.least:{form}}–{self.greatest:{form}})"


class TableColumn(NamedTuple):
    """A table column: its heading, a function that returns a run's value, and the number format."""

    head: str
    value: Callable[[Any], float]
    form: str
    prefix: str = ""


_RATE: Final = TableColumn("records/s", attrgetter("records_per_s"), ",.0f")
_CPU: Final = TableColumn("µs CPU a record", attrgetter("cpu_us_per_record"), ".2f")
_PEAK: Final = TableColumn("peak MB", attrgetter("peak_mb"), ",.0f")


def throughput_table(runs: Sequence[Throughput]) -> list[list[str]]:
    """Return the table as text cells: a header, then a row for each program and number of features.

    The ratio is Driftline's throughput divided by the program's throughput in the same round.
    """
    ours = {(run.features, run.round): run.records_per_s for run in runs if run.name == DRIFTLINE}
    ratio = TableColumn(
        "Driftline is",
        lambda run: ours[run.features, run.round] / run.records_per_s,
        ".2f",
        prefix="× ",
    )
    return _table(
        [run for run in runs if (run.features, run.round) in ours],
        {"features": "features", "program": "name"},
        (_RATE, ratio, _CPU, _PEAK),
    )


def latency_table(runs: Sequence[Latency]) -> list[list[str]]:
    """Return the table as text cells: a header, then a row per program and number of features."""
    return _table(
        runs,
        {"features": "features", "program": "name"},
        (
            TableColumn("p50 ms", attrgetter("p50_ms"), ".1f"),
            TableColumn("p99 ms", attrgetter("p99_ms"), ".1f"),
            TableColumn("max ms", attrgetter("max_ms"), ".0f"),
            TableColumn("acknowledgement p99 ms", attrgetter("acknowledged_p99_ms"), ".1f"),
        ),
    )


def services_table(runs: Sequence[ServiceRun]) -> list[list[str]]:
    """Return the table as text cells: a header, then a row for each service."""
    return _table(runs, {"features": "features", "service": "service"}, (_RATE, _CPU, _PEAK))


def memory_table(curves: Sequence[Curve], records: int) -> list[list[str]]:
    """Return the table as text cells: a header, then a row for each service.

    The columns show the memory after 2%, 20% and 100% of the records.
    """
    marks = (records // 50, records // 5, records)
    head = ["service", *(f"MB at {mark:,}" for mark in marks)]
    return [head] + [
        [curve.service, *(f"{curve.at(mark):,.0f}" for mark in marks)] for curve in curves
    ]


def swap_table(runs: Sequence[Swap]) -> list[list[str]]:
    """Return the table as text cells: a header, then a row for each kind of model."""
    return _table(
        runs,
        {"candidate": "candidate", "rows": "rows"},
        (
            TableColumn("seconds", attrgetter("seconds"), ".1f"),
            TableColumn("p50 ms before the request", attrgetter("usual_p50_ms"), ".1f"),
            TableColumn("p99 before the request", attrgetter("usual_p99_ms"), ".1f"),
            TableColumn("p99 during training", attrgetter("training_p99_ms"), ".1f"),
            TableColumn("max at the swap", attrgetter("at_swap_max_ms"), ".1f"),
            TableColumn(
                "median max of a second before the request", attrgetter("usual_longest_ms"), ".1f"
            ),
            TableColumn("max before the request", attrgetter("usual_max_ms"), ".1f"),
        ),
    )


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Format the table as Markdown, padded so that the columns also line up in plain text.

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


def _table(
    runs: Sequence[Any], keys: Mapping[str, str], columns: Sequence[TableColumn]
) -> list[list[str]]:
    """Return a header, then one row for each group of runs with equal keys, in order of appearance.

    `keys` maps column headings to the names of a run's fields.
    """
    groups: dict[tuple[str, ...], list[Any]] = {}
    for run in runs:
        values = (getattr(run, field) for field in keys.values())
        key = tuple(f"{value:,}" if isinstance(value, int) else value for value in values)
        groups.setdefault(key, []).append(run)
    rows = [
        [
            *key,
            *(c.prefix + Spread.of([c.value(run) for run in group]).text(c.form) for c in columns),
        ]
        for key, group in groups.items()
    ]
    return [[*keys, *(column.head for column in columns)], *rows]
