"""Decode one partition's outcomes from Kafka messages into arrays of predictions and labels.

Input: messages from `outcomes`. Output: `Labelled`. Unreadable outcomes are logged and skipped.
"""

from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Message, Messages
from driftline.config.stream import Stream
from driftline.learning.metrics import Answers, used_scores
from driftline.wire.batch_decoding import decode_each
from driftline.wire.events import Count, RowNumber, Value, Watermark
from monitor.panes import BEFORE_ALL, Arrivals, Ints
from monitor.partition_windows.read_events import (
    Marks,
    Positions,
    flags,
    ints,
    optional_ints,
    read_events,
    times_us,
    with_marks,
)


class _Outcome(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="outcome"):
    """The fields of an outcome that the monitor needs. The record and its scores are not
    decoded, unless the metric needs them."""

    record_id: str
    time: str | None
    row: RowNumber | None
    prediction: Value
    model: str
    label: Value
    label_time: str | None
    label_row: RowNumber | None
    revision: Count
    ahead: bool = False


class _ScoredOutcome(_Outcome, frozen=True, gc=False, tag_field="type", tag="outcome"):
    """The fields of an outcome that a metric of probabilities needs."""

    scores: dict[str, float] | None = None


_decode = msgspec.json.Decoder(_Outcome | Watermark).decode
_decode_scored = msgspec.json.Decoder(_ScoredOutcome | Watermark).decode


class Labelled(msgspec.Struct, frozen=True):
    """Outcomes as arrays and lists of length n. `arrivals` also contains the watermark records."""

    arrivals: Arrivals
    ids: list[str]
    models: list[str]
    labels: list[Value]
    answers: Answers
    offsets: Ints
    positions: Ints  # position of each label, or of its record if the label has no position
    own: Ints  # position of each record
    rows: Ints  # BEFORE_ALL if missing
    times_us: Ints  # in microseconds, BEFORE_ALL if missing
    revised: NDArray[np.bool_]  # True if the label is not the first label for its record

    def __len__(self) -> int:
        return len(self.ids)


def read_outcomes(messages: Sequence[Message], stream: Stream) -> Labelled:
    """Decode one partition's messages, which must be in log order."""
    found = Messages.of(messages)
    decode = _decode_scored if stream.judged_by.needs_scores else _decode
    decoded = decode_each(decode, found.values)
    return read_events(found, decoded, partial(_columns, stream=stream))


def _columns(
    outcomes: Sequence[_Outcome], offsets: Sequence[int], marks: Marks, *, stream: Stream
) -> Labelled:
    by_row = stream.axis == "row"
    own = Positions.of(
        [outcome.row for outcome in outcomes],
        [outcome.time for outcome in outcomes],
        by_row=by_row,
    )
    known = (
        optional_ints([outcome.label_row for outcome in outcomes])
        if by_row
        else times_us([outcome.label_time for outcome in outcomes])
    )
    positions = np.where(known > BEFORE_ALL, known, own.on_axis)
    arrivals = Arrivals(
        ints(offsets), positions, ahead=flags([outcome.ahead for outcome in outcomes])
    )
    labels = [outcome.label for outcome in outcomes]
    scores = (getattr(outcome, "scores", None) for outcome in outcomes)
    used = used_scores(stream.judged_by, labels, scores)
    return Labelled(
        with_marks(arrivals, marks),
        [outcome.record_id for outcome in outcomes],
        [outcome.model for outcome in outcomes],
        labels,
        Answers([outcome.prediction for outcome in outcomes], used),
        arrivals.offsets,
        positions,
        own.on_axis,
        own.rows,
        own.times_us,
        ints([outcome.revision for outcome in outcomes]) > 0,
    )
