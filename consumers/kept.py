"""What the join keeps of predictions and labels, and what it says when they meet."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from driftline.broker.port import Headers
from driftline.events import Value

Reason = Literal["late", "orphan"]


class KeptPrediction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A prediction until it is forgotten. `value`: its bytes, as `publication.plain` gives them.
    `ahead`: its position is not believed, and no label is too early or too late for it."""

    offset: int
    source: int  # offset of the scored record
    position: int
    key: bytes | None
    value: bytes
    ahead: bool = False


class KeptLabel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A label until it is evicted.

    `at` is the position at which it was known, or None. `ahead`: `at` is implausibly far ahead of
    the labels before it. `owner` is the offset of the prediction that it met, where several had
    its id: which one it is in time for depends on the moment.
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
    """What a join finds, in the order in which it is to be published."""

    def first_outcomes(
        self, predictions: Sequence[KeptPrediction], labels: Sequence[KeptLabel]
    ) -> None:
        """Each belongs to its neighbour in the other list, and is the first to do so; n >= 1."""

    def outcome(self, prediction: KeptPrediction, label: KeptLabel, revision: int) -> None:
        """They belong together."""

    def refused(self, label: KeptLabel, reason: Reason) -> None:
        """It came too late for its record, or no record came for it."""

    def repeated(self, label: KeptLabel) -> None:
        """It says what was known."""

    def unlabelled(self, predictions: int) -> None:
        """So many were forgotten without a label."""

    def watermark(self, position: int) -> None:
        """What came before this position was joined, as far as labels were there."""
