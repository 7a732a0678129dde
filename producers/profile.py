"""Profile a data set before it is streamed: its columns, classes and likely problems.

Input: a data source, its target column and, if known, its time, id and key columns. Output: a
`DataProfile` of the first `MAX_ROWS` rows. This module does not change the data.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import islice, pairwise
from typing import Any, Final, Literal

import msgspec

from driftline.config.stream_sections import Kind, Task
from driftline.errors import DataError
from driftline.wire.values import text
from producers.clocks import TimeColumn, are_times, look_at_clock
from producers.metric_choice import MetricChoice, metric_for_classes, metric_for_numbers
from producers.rows import RowSource
from producers.shaping import as_number

# Maximum number of rows to profile: enough to contain every kind of value. For a larger file, the
# profile's `total` is the number of all rows.
MAX_ROWS: Final = 500_000
# A numeric target with more distinct values than this is treated as a regression target.
MAX_CLASSES: Final = 20
# Treat a text column as an id, not a feature, if more than this share of its texts are distinct.
_NEAR_UNIQUE: Final = 0.5
# Treat a column with at most this many distinct texts as a category, even in a small data set.
_FEW: Final = 100
# Treat a text column as numeric if at most this share of its cells are not numbers. Records
# with such cells become dead letters.
_MAX_BROKEN: Final = 0.05

_CODES: Final = re.compile(
    r"(^|[_ ])(code|type|category|kind|zip|zipcode|postcode|region|class)($|[_ ])", re.IGNORECASE
)
_CALENDAR: Final = re.compile(
    r"(year|yr|quarter|season|month|mnth|week|day|weekday|day_?of_?(week|month|year)|hour|hr"
    r"|minute|period|holiday|working_?day)",
    re.IGNORECASE,
)

# A column can be a clock even if up to this share of its steps are decreases, because a clock may
# be set back now and then.
_CLOCK_FALLS: Final = 0.001

Use = Literal["feature", "target", "time", "id", "key", "dropped", "left_out"]


class Column(msgspec.Struct, frozen=True):
    """One column: how the stream file uses it, and what its values look like."""

    name: str
    use: Use
    kind: Kind
    distinct: int
    missing: int
    watch: bool = True
    notes: tuple[str, ...] = ()


class DataProfile(msgspec.Struct, frozen=True):
    """The profile of a data set.

    rows: the number of rows in the profile. `total` is the number of all rows (None if unknown).
    records: the number of feature records among the rows in the profile.
    own_labels: whether later rows, with the same ids as the records, contain the labels.
    """

    source: str
    rows: int
    total: int | None
    records: int
    columns: tuple[Column, ...]
    target: str
    task: Task
    classes: tuple[str, ...]
    baseline: Literal["prior", "previous_label"]
    time: TimeColumn | None
    id: str | None
    key: str | None
    own_labels: bool
    notes: tuple[str, ...]
    metric: MetricChoice

    @property
    def features(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.use == "feature")

    @property
    def missing(self) -> bool:
        """True if any feature has missing values."""
        return any(column.missing for column in self.features)


def look(
    source: RowSource,
    target: str,
    *,
    time: str | None = None,
    id: str | None = None,
    key: str | None = None,
    drop: Sequence[str] = (),
) -> DataProfile:
    """Profile a data set. Raises DataError if a column does not exist or there are no rows."""
    table, rows, unreadable = _read(source)
    _require(table, source, (target, time, id, key, *drop))
    notes: list[str] = []
    if unreadable:
        notes.append(f"{unreadable} lines cannot be parsed as rows: they will be dead-lettered")
    for option, name in (("--time", time), ("--id", id)):
        if name == target:
            raise DataError(f"{option} {name}: this column is the target", hint="omit this option")
    task, classes, baseline, metric = _target(table[target], source.textual, notes)
    own_labels, records = _identity(table, id, target, rows, notes)
    uses: dict[str, Use] = {
        **dict.fromkeys(drop, "dropped"),
        **{name: "key" for name in (key,) if name},
        **{name: "time" for name in (time,) if name},
        **{name: "id" for name in (id,) if name},
        target: "target",
    }
    columns = tuple(
        _column(name, values, uses.get(name), source.textual) for name, values in table.items()
    )
    clock = None
    if time is not None:
        clock = look_at_clock(time, table[time])
        notes.extend(clock.notes)
    _warn(columns, table, records, notes)
    return DataProfile(
        source=source.name,
        rows=rows,
        total=rows if rows < MAX_ROWS else source.count(),
        records=records,
        columns=columns,
        target=target,
        task=task,
        classes=classes,
        baseline=baseline,
        time=clock,
        id=id,
        key=key,
        own_labels=own_labels,
        notes=tuple(notes),
        metric=metric,
    )


def _read(source: RowSource) -> tuple[dict[str, list[Any]], int, int]:
    table: dict[str, list[Any]] = {}
    rows = unreadable = 0
    for row in islice(source.rows(), MAX_ROWS):
        if isinstance(row, bytes):
            unreadable += 1
            continue
        for name in row.keys() - table.keys():
            table[name] = [None] * rows
        for name, values in table.items():
            value = row.get(name)
            # `value != value` is true for NaN.
            values.append(None if value == "" or value != value else value)
        rows += 1
    if unreadable and not rows:
        raise DataError(
            f"{source.name}: none of the {unreadable} lines can be parsed as a row",
            hint='check the file type; standard input ("-") must be JSON Lines',
        )
    if not rows:
        raise DataError(f"{source.name}: no rows")
    order = next(row for row in source.rows() if not isinstance(row, bytes))
    return (
        {name: table[name] for name in (*order, *(table.keys() - order.keys()))},
        rows,
        unreadable,
    )


def _require(table: dict[str, list[Any]], source: RowSource, names: Sequence[str | None]) -> None:
    for name in names:
        if name is not None and name not in table:
            raise DataError(
                f"{source.name}: no column {name!r}", hint=f"columns: {', '.join(table)}"
            )


# ---- target and identity -------------------------------------------------------------------------


def _target(
    values: list[Any], textual: bool, notes: list[str]
) -> tuple[Task, tuple[str, ...], Literal["prior", "previous_label"], MetricChoice]:
    known = [value for value in values if value is not None]
    if not known:
        raise DataError("the target is empty in all rows")
    numbers = [number for value in known if (number := _float(value, textual)) is not None]
    distinct = Counter(map(text, known))
    # If most values are numbers and nearly all are different, the others are probably mistakes.
    others = len(known) - len(numbers)
    numeric = not others or (others < len(numbers) and len(distinct) > max(_FEW, MAX_CLASSES))
    if numeric and others:
        notes.append(
            f"{others} of {len(known)} values of the target are not numbers: they will be "
            "dead-lettered"
        )
    whole = numeric and all(number.is_integer() for number in numbers)
    if len(known) < len(values):
        notes.append(f"the target is missing in {len(values) - len(known)} of {len(values)} rows")
    if numeric and not (whole and len(distinct) <= MAX_CLASSES):
        mean = sum(numbers) / len(numbers)
        spread = sum(abs(value - mean) for value in numbers) / len(numbers)
        steps = [abs(b - a) for a, b in pairwise(numbers)]
        follows = bool(steps) and sum(steps) / len(steps) < spread
        choice = metric_for_numbers(numbers)
        return "regression", (), "previous_label" if follows else "prior", choice
    if len(distinct) < 2:
        notes.append("the target has only one class: there is nothing to learn")
    if len(distinct) > _FEW:
        notes.append(f"the target has {len(distinct)} classes: is it the right column?")
    share = distinct.most_common(1)[0][1] / len(known)
    same = sum(a == b for a, b in pairwise(known)) / max(1, len(known) - 1)
    # The baseline predicts the previous label if that is clearly more accurate than predicting the
    # most frequent label.
    return (
        "classification",
        tuple(sorted(distinct)),
        "previous_label" if same > share + 0.05 else "prior",
        metric_for_classes(list(map(text, known))),
    )


def _identity(
    table: dict[str, list[Any]], id: str | None, target: str, rows: int, notes: list[str]
) -> tuple[bool, int]:
    """Return whether later rows contain the labels of earlier rows, and the number of records."""
    if id is None:
        return False, rows
    waiting: dict[str, bool] = {}  # id → whether its label is still missing
    brought = again = repeated = missing = 0
    for value, label in zip(table[id], table[target], strict=True):
        if value is None:
            missing += 1
            continue
        name = text(value)
        if name not in waiting:
            waiting[name] = label is None
        elif label is None:
            repeated += 1
        elif waiting[name]:
            waiting[name] = False
            brought += 1
        else:
            again += 1
    if missing:
        notes.append(f"{id} is missing in {missing} rows: they will be dead-lettered")
    if brought:
        notes.append(
            f"{brought} ids occur first without and later with {target}: "
            "the later row is used as the label"
        )
    if again and brought:
        notes.append(f"{again} rows repeat the label of an id: they are treated as revised labels")
    elif again:
        repeated += again
    if repeated:
        notes.append(f"{repeated} rows repeat an id: they are treated as duplicate records")
    return brought > 0, rows - brought - (again if brought else 0)


# ---- columns -------------------------------------------------------------------------------------


def _column(name: str, values: list[Any], use: Use | None, textual: bool) -> Column:
    known = [value for value in values if value is not None]
    notes: list[str] = []
    distinct = len(set(map(text, known)))
    kind = _kind(name, known, distinct, textual, notes)
    missing = len(values) - len(known)
    watch = True
    if use is None:
        use = "feature"
        if distinct <= 1:
            use = "left_out"
            notes.append("constant" if known else "empty")
        elif kind == "category" and are_times(known):
            use = "left_out"
            notes.append("contains times: is it the event time (--time)?")
        elif kind == "category" and distinct > _FEW and distinct > _NEAR_UNIQUE * len(known):
            use = "left_out"
            notes.append(_mixed(known, textual) or "most rows have different texts: is it an id?")
        elif distinct > max(_FEW, 0.01 * len(known)) and _grows(known, kind, textual):
            use = "left_out"
            notes.append("increases throughout, like a clock or a counter: is it --time or --id?")
        elif _CALENDAR.fullmatch(name):
            watch = False
            notes.append("a calendar column, which changes even without drift")
        elif kind == "category" and distinct > _FEW:
            notes.append("only the 100 most frequent values are distinguished")
    if missing:
        notes.append(f"missing in {missing / len(values):.1%}")
    return Column(name, use, kind, distinct, missing, watch, tuple(notes))


def _kind(name: str, known: list[Any], distinct: int, textual: bool, notes: list[str]) -> Kind:
    broken = sum(_float(value, textual) is None for value in known)
    numeric = broken <= (_MAX_BROKEN * len(known) if textual else 0) and broken < len(known)
    if not numeric:
        return "category"
    if textual and any(value[:1] == "0" and value[1:2].isdigit() for value in known):
        notes.append("treated as a code because of leading zeros")
        return "category"
    if broken:
        notes.append(f"{broken} cells are not numbers")
    numbers = (_float(value, textual) for value in known)
    whole = distinct <= MAX_CLASSES and all(n is None or n.is_integer() for n in numbers)
    if whole and distinct > 2:
        if _CODES.search(name):
            notes.append(f"{distinct} codes")
            return "category"
        notes.append(f'{distinct} whole numbers; set kind = "category" if they are codes')
    return "number"


def _float(value: Any, textual: bool) -> float | None:
    """Return a cell's value as a number, or None if it is not a finite number."""
    if textual and isinstance(value, str):
        value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return float(value) if math.isfinite(value) else None


def _mixed(known: list[Any], textual: bool) -> str:
    """Describe a column in which most values, but not all, are numbers. Return "" for others."""
    others = [value for value in known if _float(value, textual) is None]
    if not textual or not 0 < len(others) < len(known) / 2:
        return ""
    share = 1.0 - len(others) / len(known)
    return f"{share:.0%} of the values are numbers; the others are not, such as {others[0]!r}"


def _grows(known: list[Any], kind: Kind, textual: bool) -> bool:
    """Return whether a column increases overall and hardly ever decreases, as a clock does."""
    values: list[Any]
    if kind == "number":
        values = [number for value in known if (number := _float(value, textual)) is not None]
    else:
        values = [text(value) for value in known]
    falls = sum(a > b for a, b in pairwise(values))
    return falls <= _CLOCK_FALLS * len(values) and bool(values[0] < values[-1])


def _warn(
    columns: tuple[Column, ...], table: dict[str, list[Any]], records: int, notes: list[str]
) -> None:
    if records < 1000:
        notes.append(f"only {records} records, too few for meaningful windows and tests")
    # If a column is constant during the warm-up, the first model cannot learn its effect.
    for column in columns:
        if column.use != "feature" or not column.watch:
            continue
        values = table[column.name]
        still = next(
            (place for place, value in enumerate(values) if value != values[0]), len(values)
        )
        if still >= max(100, len(values) // 10):
            notes.append(f"{column.name} does not change in the first {still} rows")
