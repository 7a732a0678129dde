"""Convert one partition's decoded Kafka messages (predictions or outcomes) to aligned arrays.

Input: messages from one partition, with their decoded events. Output: arrays with one element per
event. Unreadable events and events without a position are logged and skipped.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Message, Messages
from driftline.logs import alike
from driftline.wire.batch_decoding import Decoded
from driftline.wire.events import Gap, Watermark
from driftline.wire.values import bounded_time, parse_time
from monitor.panes import BEFORE_ALL, Arrivals, Ints

log = logging.getLogger(__name__)

# `format_time` writes times either in whole seconds or with six decimals.
_TIME_LENGTHS: Final = {len("1970-01-01T00:00:00Z"), len("1970-01-01T00:00:00.000000Z")}
_last = itemgetter(-1)

Read = TypeVar("Read")
Marks = Sequence[tuple[int, Watermark]]
"""Watermark records with their offsets."""


class NoPosition(Exception):
    """Raised if an event has no position: its row is missing, or its time is missing or invalid."""


class Positions(NamedTuple):
    """Arrays of length n. `on_axis` contains rows or times, depending on the axis of the stream's
    windows."""

    on_axis: Ints
    rows: Ints  # BEFORE_ALL if missing
    times_us: Ints  # in microseconds, BEFORE_ALL if missing

    @classmethod
    def of(
        cls, rows: Sequence[int | None], times: Sequence[str | None], *, by_row: bool
    ) -> "Positions":
        """Build an instance from rows and times. Raises NoPosition if a position is missing or a
        time is invalid."""
        known_rows, known_times = optional_ints(rows), times_us(times)
        on_axis = known_rows if by_row else known_times
        if on_axis.min(initial=0) == BEFORE_ALL:
            raise NoPosition("its row is null" if by_row else "its time is null")
        return cls(on_axis, known_rows, known_times)


def read_events(
    found: Messages, decoded: Decoded[Any], place: Callable[[list[Any], list[int], Marks], Read]
) -> Read:
    """Return `place(events, offsets, watermarks)` for one partition's decoded messages. If `place`
    raises NoPosition, test each event separately, and leave out all events without a position."""
    for rejected in decoded.rejected:
        _log_skipped(found[rejected.index], rejected.reason)
    events, places, offsets = decoded.items, decoded.kept, found.offsets
    if decoded.rejected:
        offsets = [offsets[place] for place in places]
    marks: list[tuple[int, Watermark]] = []
    if Watermark in set(map(type, events)):
        is_mark = [type(event) is Watermark for event in events]
        marks = list(compress(zip(offsets, events, strict=True), is_mark))
        is_event = [not mark for mark in is_mark]
        events, places, offsets = _some(is_event, events, places, offsets)
    try:
        return place(events, offsets, marks)
    except NoPosition:
        good = [
            _can_be_placed(place, event, found[at])
            for event, at in zip(events, places, strict=True)
        ]
    events, _, offsets = _some(good, events, places, offsets)
    return place(events, offsets, marks)


def _some(
    which: list[bool], events: list[Any], places: list[int], offsets: list[int]
) -> tuple[list[Any], list[int], list[int]]:
    return (
        list(compress(events, which)),
        list(compress(places, which)),
        list(compress(offsets, which)),
    )


def _can_be_placed(
    place: Callable[[list[Any], list[int], Marks], object], event: Any, message: Message
) -> bool:
    try:
        place([event], [message.offset], [])
    except NoPosition as error:
        _log_skipped(message, str(error))
        return False
    return True


def _log_skipped(message: Message, reason: str) -> None:
    """Log that a message is skipped, and why."""
    about = alike(f"{message.topic} {reason}")
    log.warning("skipping unreadable event %s: %s", message.place, reason, extra=about)


def with_marks(arrivals: Arrivals, marks: Marks) -> Arrivals:
    """Merge the watermark records `marks` into `arrivals`, ordered by offset."""
    if not marks:
        return arrivals
    offsets = np.concatenate([arrivals.offsets, ints([offset for offset, _ in marks])])
    reached = optional_ints([mark.position for _, mark in marks])
    positions = np.concatenate([arrivals.positions, reached])
    is_mark = np.arange(len(offsets)) >= len(arrivals.offsets)
    order = np.argsort(offsets)
    ahead = arrivals.ahead
    if ahead is not None:
        ahead = np.concatenate([ahead, np.zeros(len(marks), dtype=bool)])[order]
    lost = ints([sum(map(_lost, mark.gaps)) for _, mark in marks])
    lost = np.concatenate([np.zeros_like(arrivals.offsets), lost])[order]
    dead_letters = [mark.dead_letter for _, mark in marks]
    own = [None if letter is None else letter.position for letter in dead_letters]
    are_letters = ints([letter is not None for letter in dead_letters])
    are_letters = np.concatenate([np.zeros_like(arrivals.offsets), are_letters])[order]
    sources = arrivals.sources
    if sources is not None:
        sources = np.concatenate([sources, ints([_source(mark) for _, mark in marks])])[order]
    logs = [(offset, mark.log) for offset, mark in marks if mark.log is not None]
    return Arrivals(
        offsets[order],
        positions[order],
        is_mark[order],
        sources,
        are_letters > 0,
        np.concatenate([arrivals.positions, optional_ints(own)])[order],
        lost,
        ahead,
        tuple((int(np.searchsorted(offsets[order], offset)), log) for offset, log in logs),
    )


def _source(mark: Watermark) -> int:
    """Return the offset of the last feature record that a watermark record reports as a dead letter
    or as lost, or -1."""
    if mark.dead_letter is not None:
        return mark.dead_letter.offset
    return max((gap.end - 1 for gap in mark.gaps if gap.end is not None), default=-1)


def _lost(gap: Gap) -> int:
    """Return the number of records lost in a gap, or 1 if the number is unknown."""
    return 1 if gap.end is None else gap.end - gap.start


def times_us(values: Sequence[str | None]) -> Ints:
    """Return times (n,) in microseconds since 1970, with BEFORE_ALL for None. Raises NoPosition if
    a time is invalid."""
    if values.count(None) == len(values):
        return np.full(len(values), BEFORE_ALL)
    try:
        if None in values:
            return ints([BEFORE_ALL if value is None else parse_time(value) for value in values])
        texts: list[str] = list(values)  # type: ignore[arg-type]  # no element is None
        # One call to NumPy is twice as fast as calling `parse_time` for each time, but supports no
        # time zones.
        if set(map(len, texts)) <= _TIME_LENGTHS and set(map(_last, texts)) <= {"Z"}:
            found = np.array([t[:-1] for t in texts], dtype="datetime64[us]").astype(np.int64)
            bounded_time(int(found.min()))  # NumPy also accepts years that RFC 3339 forbids
            bounded_time(int(found.max()))
            return found
        return ints(list(map(parse_time, texts)))
    except ValueError as error:
        raise NoPosition(str(error)) from error


def flags(values: Sequence[bool]) -> NDArray[np.bool_] | None:
    """Return a bool array (n,), or None if all values are False, which is the usual case."""
    return np.array(values, dtype=bool) if True in values else None


def ints(values: Sequence[int]) -> Ints:
    """Return an int64 array (n,), even for an empty list."""
    return np.array(values, dtype=np.int64)


def optional_ints(values: Sequence[int | None]) -> Ints:
    """Return an int64 array (n,), with BEFORE_ALL for None."""
    if None in values:
        values = [BEFORE_ALL if value is None else value for value in values]
    return np.array(values, dtype=np.int64)


def largest(values: Ints, known: int | None = None) -> int | None:
    """Return the largest of `values` and `known`. Missing values are ignored; if all are missing,
    return None."""
    found = int(values.max(initial=BEFORE_ALL))
    return max(
        (value for value in (known, found) if value is not None and value > BEFORE_ALL),
        default=None,
    )


def by_model(models: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each model in `models`, which must not be empty, with a mask (n,) of its events."""
    first = models[0]
    if models.count(first) == len(models):
        yield first, np.ones(len(models), dtype=bool)
        return
    codes: dict[str, int] = {}
    of = np.array([codes.setdefault(model, len(codes)) for model in models])
    for model, code in codes.items():
        yield model, of == code
