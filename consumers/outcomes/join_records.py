"""Define the records that the outcomes join buffers, and the interface for its results."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from driftline.broker.port import Headers
from driftline.wire.events import Value

Reason = Literal["late", "orphan"]


class BufferedPrediction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A prediction in the join's buffer.

    `value` holds the prediction's bytes, as returned by `output_records.plain`. If `ahead` is set,
    the position was not accepted, and no label is too early or too late for the prediction.
    """

    offset: int
    source: int  # offset of the scored record
    position: int
    key: bytes | None
    value: bytes
    ahead: bool = False


class BufferedLabel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A label in the join's buffer.

    `at` is the position at which the label became known, or None. If `ahead` is set, `at` is
    implausibly far ahead of the preceding labels. `owner` is the offset of the prediction that the
    label belongs to. It is set only if several predictions had the label's id, because the choice
    among them depends on the low watermark at the time of the match.
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
    """Receives a join's results in the order in which to publish them."""

    def first_outcomes(
        self, predictions: Sequence[BufferedPrediction], labels: Sequence[BufferedLabel]
    ) -> None:
        """Add each prediction's first outcome, with the label at the same index. Neither sequence
        is empty."""

    def outcome(self, prediction: BufferedPrediction, label: BufferedLabel, revision: int) -> None:
        """Add the outcome of a prediction and a label that belongs to it."""

    def rejected(self, label: BufferedLabel, reason: Reason) -> None:
        """Reject a label that is too late for its record or has no record."""

    def repeated(self, label: BufferedLabel) -> None:
        """Count a label that is equal to the prediction's current label."""

    def unlabelled(self, predictions: int) -> None:
        """Count predictions that were evicted without a label."""

    def watermark(self, position: int) -> None:
        """Add a watermark: records before `position` were matched against all existing labels."""
