"""Track unreadable `models` records from Kafka, so that each becomes exactly one dead letter.

Every inference worker reads the whole `models` topic when it starts. Only the worker that owns
partition 0 of the features topic publishes the dead letters. That worker also commits the offset up
to which it has examined `models`.
"""

from collections import deque
from typing import Final

from driftline.broker.port import Message

# The maximum number of unreadable records to store. Workers without partition 0 also store them,
# because they may be assigned partition 0 later.
_MAX_KEPT: Final = 1_000


class Examined:
    """Unreadable `models` records, and the offset up to which they have become dead letters."""

    def __init__(self) -> None:
        self._unreadable: deque[tuple[Message, str]] = deque(maxlen=_MAX_KEPT)
        self._end = 0  # offset following the last record read
        # Unreadable records before this offset have already become dead letters. Set by
        # `on_assigned` and `fresh`; None while another worker owns partition 0.
        self._until: int | None = None

    @property
    def until(self) -> int:
        """Return the `models` offset to commit in partition 0's metadata."""
        return self._until or 0

    def read(self, message: Message, unreadable: str | None) -> None:
        """Note a `models` record. `unreadable` is the reason why it is unreadable, or None."""
        self._end = message.offset + 1
        if unreadable is not None:
            self._unreadable.append((message, unreadable))

    def on_assigned(self, until: int) -> None:
        """Take over partition 0, whose committed metadata contains the `models` offset `until`."""
        # An offset beyond the end of `models` means that the topic was recreated.
        self._until = until if until <= self._end else 0

    def on_revoked(self) -> None:
        """Give up partition 0."""
        self._until = None

    def fresh(self) -> list[tuple[Message, str]]:
        """Return the unreadable records that have not become dead letters yet, with reasons."""
        until = self._until
        if until is None or until == self._end:
            return []
        self._until = self._end
        return [(message, why) for message, why in self._unreadable if message.offset >= until]
