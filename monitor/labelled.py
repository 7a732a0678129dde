"""Outcomes of one partition as arrays: what was predicted, what was true, and when that was known.

In: messages. Out: `Labelled`. What cannot be read is said in the log and left out.
"""

import logging
from collections.abc import Sequence
from itertools import compress
from operator import attrgetter, itemgetter
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Message
from driftline.codec.decoding import decode_each
from driftline.codec.values import parse_time
from driftline.events import Value, Watermark
from driftline.stream import Stream
from monitor.progress import BEFORE_ALL, Arrivals, Ints
from monitor.scored import ints, optional_ints, with_marks

log = logging.getLogger(__name__)

# `format_time` writes whole seconds, or six digits of them.
_TIME_LENGTHS: Final = {len("1970-01-01T00:00:00Z"), len("1970-01-01T00:00:00.000000Z")}


class _Outcome(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="outcome"):
    """What is needed of an outcome; the record and its scores are passed over."""

    record_id: str
    time: str | None
    row: int | None
    prediction: Value
    model: str
    label: Value
    label_time: str | None
    label_row: int | None
    revision: int


_decode = msgspec.json.Decoder(_Outcome | Watermark).decode
_value, _offset = attrgetter("value"), attrgetter("offset")
_last = itemgetter(-1)


class Labelled(msgspec.Struct, frozen=True):
    """Arrays and lists of length n; `arrivals` has the watermark records too, in their places."""

    arrivals: Arrivals
    ids: list[str]
    models: list[str]
    labels: list[Value]
    predictions: list[Value]
    offsets: Ints
    positions: Ints  # at which the labels were known
    own: Ints  # positions of the records
    rows: Ints  # BEFORE_ALL where there is none
    times_us: Ints  # as rows
    revised: NDArray[np.bool_]  # not the record's first label

    def __len__(self) -> int:
        return len(self.ids)


def read_outcomes(messages: Sequence[Message], stream: Stream) -> Labelled:
    """Decode messages of one partition, in its order."""
    found = decode_each(_decode, list(map(_value, messages)))
    for rejected in found.rejected:
        _leave_out(messages[rejected.index], rejected.reason)
    events, offsets = found.items, list(map(_offset, messages))
    if found.rejected:
        offsets = [offsets[index] for index in found.kept]
    marks: list[tuple[int, int]] = []
    if Watermark in set(map(type, events)):
        both = list(zip(offsets, events, strict=True))
        marks = [(offset, event.position) for offset, event in both if type(event) is Watermark]
        offsets = [offset for offset, event in both if type(event) is _Outcome]
        events = [event for event in events if type(event) is _Outcome]
    outcomes: list[_Outcome] = events
    by_row = stream.axis == "row"
    try:
        return _columns(outcomes, offsets, marks, by_row=by_row)
    except _NoPosition:
        good = [_has_position(outcome, by_row=by_row) for outcome in outcomes]
    return _columns(
        list(compress(outcomes, good)), list(compress(offsets, good)), marks, by_row=by_row
    )


class _NoPosition(Exception):
    """An outcome has no time, or what is no time, or no row."""


def _columns(
    outcomes: Sequence[_Outcome],
    offsets: Sequence[int],
    marks: Sequence[tuple[int, int]],
    *,
    by_row: bool,
) -> Labelled:
    def column(name: str) -> list[Any]:
        return list(map(attrgetter(name), outcomes))

    rows, times_us = optional_ints(column("row")), _times_us(column("time"))
    own = rows if by_row else times_us
    if len(own) and own.min() == BEFORE_ALL:
        raise _NoPosition
    known = optional_ints(column("label_row")) if by_row else _times_us(column("label_time"))
    positions = np.where(known > BEFORE_ALL, known, own)
    arrivals = Arrivals(ints(offsets), positions)
    return Labelled(
        arrivals if not marks else with_marks(arrivals, marks),
        column("record_id"),
        column("model"),
        column("label"),
        column("prediction"),
        arrivals.offsets,
        positions,
        own,
        rows,
        times_us,
        ints(column("revision")) > 0,
    )


def _times_us(values: Sequence[str | None]) -> Ints:
    """Microseconds since 1970, BEFORE_ALL for None. Raises _NoPosition for what is no time."""
    try:
        if None in values:
            return ints([BEFORE_ALL if value is None else parse_time(value) for value in values])
        texts: list[str] = list(values)  # type: ignore[arg-type]  # there is no None
        # numpy reads many at once in half the time, but knows no zones.
        if set(map(len, texts)) <= _TIME_LENGTHS and set(map(_last, texts)) <= {"Z"}:
            return np.array([t[:-1] for t in texts], dtype="datetime64[us]").astype(np.int64)
        return ints(list(map(parse_time, texts)))
    except ValueError as error:
        raise _NoPosition(str(error)) from error


def _has_position(outcome: _Outcome, *, by_row: bool) -> bool:
    try:
        _columns([outcome], [0], [], by_row=by_row)
    except _NoPosition as error:
        reason = str(error) or "it has none"
        log.warning("outcome of %r is left out, for its position: %s", outcome.record_id, reason)
        return False
    return True


def _leave_out(message: Message, reason: str) -> None:
    where = f"{message.topic}[{message.partition}]@{message.offset}"
    log.warning("outcome %s cannot be read, left out: %s", where, reason)
