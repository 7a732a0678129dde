"""The join's buffered predictions and labels, and the interface that receives its results."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from driftline.broker.port import Headers
from driftline.wire.events import Value

Reason = Literal["late", "orphan"]


class BufferedPrediction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A prediction until it is evicted. `value` is its bytes from `output_records.plain`.
    If `ahead`, its position is not accepted, and no label is too early or too late for it."""

    offset: int
    source: int  # offset of the scored record
    position: int
    key: bytes | None
    value: bytes
    ahead: bool = False


class BufferedLabel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A label until it is evicted.

    `at` is the position at which it became known, or None. If `ahead`, `at` is implausibly far
    ahead of the labels before it. `owner` is the offset of the prediction that it belongs to. It is
    set only if several predictions had its id, because the choice depends on when they met.
    """

    offset: int
    at: int | None
    label: Value
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    ahead: bool = False
    owner: int | None = None


class Results(Protocol):
    """Receives the results of a join in the order in which they are to be published."""

    def first_outcomes(
        self, predictions: Sequence[BufferedPrediction], labels: Sequence[BufferedLabel]
    ) -> None:
        """Add the first outcome of each prediction, with the label at the same index; n >= 1."""

    def outcome(self, prediction: BufferedPrediction, label: BufferedLabel, revision: int) -> None:
        """Add the outcome of a prediction and a label that belongs to it."""

    def rejected(self, label: BufferedLabel, reason: Reason) -> None:
        """Reject a label that is too late for its record, or has no record."""

    def repeated(self, label: BufferedLabel) -> None:
        """Count a label that repeats the known one."""

    def unlabelled(self, predictions: int) -> None:
        """Count predictions that were evicted without a label."""

    def watermark(self, position: int) -> None:
        """Add a watermark: records before this position were joined with all existing labels."""
