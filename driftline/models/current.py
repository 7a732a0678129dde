"""Decide which record of a key is current, for signed and unsigned pointers and freezes.

The signed record with the largest `sequence` is current, and of equal ones the first in the log.
So the result does not depend on how much of the log compaction has removed.

Unsigned records of earlier versions (decision 21) have no sequence. Such a pointer becomes current
if it names the current one as its predecessor. They are ignored once a signed record was read.
"""

from typing import Generic, TypeVar

import msgspec

from driftline.wire.events import Freeze, RolePointer, event_id

T = TypeVar("T", RolePointer, Freeze)


class Current(Generic[T]):
    """The current record of one key: the champion's pointer or the freeze."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.is_signed = False
        # True if a later record has the same sequence and names another model or freeze.
        self._contested = False
        # True if the value is an unsigned pointer whose predecessor was not read, maybe because
        # compaction has removed it.
        self._unconfirmed = False

    @property
    def next_sequence(self) -> int:
        """Return the sequence for the record that replaces the current one."""
        return 1 if self.value is None else self.value.sequence + 1

    def take(self, event: T, *, signed: bool) -> str | None:
        """Apply the next record of the log. Return why it is rejected, or None."""
        if not signed:
            return self._take_unsigned(event)
        if event.sequence < 1:
            return "signed, but without a sequence"
        if self.value is None or not self.is_signed or event.sequence > self.value.sequence:
            self.value, self.is_signed, self._contested = event, True, False
            return None
        if event.sequence == self.value.sequence:
            if _means(event) == _means(self.value):
                return None  # the event is a copy of the current record
            self._contested = True  # if compaction removes the first, the other becomes current
        return f"stale: its sequence is {event.sequence}, the current one is {self.value.sequence}"

    def remember(self, event: T) -> bool:
        """Make a record that a reader saw earlier current, unless the log has one at least as new.

        Return whether it became current.
        """
        if self.value is not None and self.value.sequence >= event.sequence:
            return False
        self.value, self.is_signed = event, event.sequence > 0
        return True

    def again(self, *, outdated: bool) -> T | None:
        """Return a copy of the current record with the next sequence, or None if none is needed.

        A copy is needed if the current record is unsigned or compaction may remove it. `outdated`
        means that it is not the newest record of its key.
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
        """Accept an unsigned pointer that names the current one as its predecessor.

        So of two pointers with the same predecessor, the first in the log wins.

        Compaction keeps only the newest record of a key, which may be a pointer that was rejected.
        So the first pointer that is read is unconfirmed: the next one replaces it if it names any
        predecessor. A pointer that names itself is a copy of the current one, and confirms it.
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
