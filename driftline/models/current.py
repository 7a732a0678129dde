"""Decide which pointer and freeze record are current, given the `models` topic's records in order.

The signed record with the highest `sequence` is current. If several records have this `sequence`,
the first one in the log is current. The result therefore does not depend on how many records
compaction has removed.

Unsigned records from earlier versions (decision 21) have no `sequence`. An unsigned pointer becomes
current if it names the current pointer as its predecessor. Once a signed record has been read,
unsigned records are ignored.
"""

from typing import Generic, TypeVar

import msgspec

from driftline.wire.events import Freeze, RolePointer, event_id

T = TypeVar("T", RolePointer, Freeze)


class Current(Generic[T]):
    """The current record for one key: the pointer to the champion, or the freeze record."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.is_signed = False
        # True if a later record with the same `sequence` points to another model, or has another
        # value of `frozen`.
        self._contested = False
        # True if the value is an unsigned pointer whose predecessor was not read, perhaps because
        # compaction removed the predecessor.
        self._unconfirmed = False

    @property
    def next_sequence(self) -> int:
        """Return the sequence number for a record that replaces the current record."""
        return 1 if self.value is None else self.value.sequence + 1

    def take(self, event: T, *, signed: bool) -> str | None:
        """Apply the log's next record. Return the reason if it is rejected, otherwise None."""
        if not signed:
            return self._take_unsigned(event)
        if event.sequence < 1:
            return "signed, but without a sequence number"
        if self.value is None or not self.is_signed or event.sequence > self.value.sequence:
            self.value, self.is_signed, self._contested = event, True, False
            return None
        if event.sequence == self.value.sequence:
            if _means(event) == _means(self.value):
                return None  # the event is a copy of the current record
            self._contested = True  # compaction may make this event current
        return f"stale: its sequence is {event.sequence}, the current one is {self.value.sequence}"

    def remember(self, event: T) -> bool:
        """Replace the current record with `event` if `event` is newer. Return whether it is newer.

        A reader saw `event` earlier, but the topic may no longer contain it.
        """
        if self.value is not None and self.value.sequence >= event.sequence:
            return False
        self.value, self.is_signed = event, event.sequence > 0
        return True

    def again(self, *, outdated: bool) -> T | None:
        """Return a copy of the current record with the next sequence number.

        Return None if no copy is needed. A copy is needed if the current record is unsigned, or if
        compaction may remove it. `outdated` means that the current record is not the newest record
        for its key.
        """
        event = self.value
        if event is None or (self.is_signed and not outdated and not self._contested):
            return None
        sequence = self.next_sequence
        if isinstance(event, RolePointer):
            id = event_id("role", event.role, event.digest, event.id, sequence)
            return msgspec.structs.replace(event, id=id, replaces=event.id, sequence=sequence)
        return msgspec.structs.replace(
            event, id=event_id("freeze", event.id, sequence), sequence=sequence
        )

    def _take_unsigned(self, event: T) -> str | None:
        if event.sequence or self.is_signed:
            return "unsigned"
        if isinstance(event, RolePointer) and isinstance(self.value, RolePointer):
            return self._follow(event, self.value)
        self.value = event
        self._unconfirmed = True
        return None

    def _follow(self, event: RolePointer, current: RolePointer) -> str | None:
        """Accept an unsigned pointer that names the current pointer as its predecessor.

        Therefore, if two pointers name the same predecessor, the first one in the log wins.

        Compaction keeps only the newest record for a key, which may be a rejected pointer. The
        first pointer in the log is therefore unconfirmed: it is replaced by the next pointer that
        names a predecessor, even if that predecessor is a different pointer. A pointer that names
        itself as its predecessor is a copy of the current pointer and confirms it.
        """
        restates = event.replaces == event.id
        confirmed = event.replaces == current.id
        if event.id == current.id:
            self._unconfirmed = self._unconfirmed and not restates
        elif confirmed or (self._unconfirmed and event.replaces is not None):
            self.value = event  # type: ignore[assignment]  # T is RolePointer here
            self._unconfirmed = not (confirmed or restates)
        else:
            return f"it replaces {event.replaces}, which is not the current pointer"
        return None


def _means(event: RolePointer | Freeze) -> object:
    return event.digest if isinstance(event, RolePointer) else event.frozen
