"""Which unreadable records of the `models` topic have become dead letters, so that each does once.

Every worker of inference reads `models` whole at every start. The worker that owns partition 0 of
the features publishes the dead letters, and its commit says how far `models` was examined.
"""

from collections import deque
from typing import Final

from driftline.broker.port import Message

# Kept by the workers that do not own the partition: they may own it later.
_MAX_KEPT: Final = 1_000


class Examined:
    """How far `models` was examined, and what could not be read in it."""

    def __init__(self) -> None:
        self._unreadable: deque[tuple[Message, str]] = deque(maxlen=_MAX_KEPT)
        self._end = 0  # offset after the last record that was read
        self._until: int | None = None  # examined before this offset; None: another worker's task

    @property
    def until(self) -> int:
        """What to commit beside the offset of partition 0."""
        return self._until or 0

    def read(self, message: Message, unreadable: str | None) -> None:
        """A record of `models` was read; `unreadable` says why it could not be used."""
        self._end = message.offset + 1
        if unreadable is not None:
            self._unreadable.append((message, unreadable))

    def assigned(self, until: int) -> None:
        """Partition 0 is this worker's now, committed with this offset."""
        # Larger than all that there is: the topic was created anew.
        self._until = until if until <= self._end else 0

    def revoked(self) -> None:
        """Partition 0 is someone else's now."""
        self._until = None

    def fresh(self) -> list[tuple[Message, str]]:
        """Return the unreadable records that have not become dead letters yet, and why they are."""
        until = self._until
        if until is None or until == self._end:
            return []
        self._until = self._end
        return [(message, why) for message, why in self._unreadable if message.offset >= until]
