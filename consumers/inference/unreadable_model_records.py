"""Track which unreadable records of `models` are dead letters, so that each becomes only one.

Every worker of inference reads all of `models` at every start. The worker that owns partition 0 of
the features topic publishes the dead letters and commits how far `models` was examined.
"""

from collections import deque
from typing import Final

from driftline.broker.port import Message

# Workers that do not own partition 0 keep the records too, because they may own it later.
_MAX_KEPT: Final = 1_000


class Examined:
    """The unreadable records of `models`, and which of them are dead letters already."""

    def __init__(self) -> None:
        self._unreadable: deque[tuple[Message, str]] = deque(maxlen=_MAX_KEPT)
        self._end = 0  # offset after the last record that was read
        # Unreadable records before this offset are dead letters. Set by `on_assigned` and `fresh`,
        # None while another worker owns partition 0.
        self._until: int | None = None

    @property
    def until(self) -> int:
        """Return the offset of `models` to commit in the metadata of partition 0."""
        return self._until or 0

    def read(self, message: Message, unreadable: str | None) -> None:
        """Note a record of `models`. `unreadable` is the reason if it cannot be used."""
        self._end = message.offset + 1
        if unreadable is not None:
            self._unreadable.append((message, unreadable))

    def on_assigned(self, until: int) -> None:
        """Take over partition 0, whose metadata has this offset of `models`."""
        # An offset beyond the topic's end means that the topic was created again.
        self._until = until if until <= self._end else 0

    def on_revoked(self) -> None:
        """Give up partition 0."""
        self._until = None

    def fresh(self) -> list[tuple[Message, str]]:
        """Return the unreadable records that are not dead letters yet, with their reasons."""
        until = self._until
        if until is None or until == self._end:
            return []
        self._until = self._end
        return [(message, why) for message, why in self._unreadable if message.offset >= until]
