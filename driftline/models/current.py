"""Which record of a key counts: the rule for signed pointers and freezes, and for older ones.

Signed records count by their `sequence`: the largest counts, and of equal ones the first in the
log. So it does not matter how much of the log compaction has left. Records from before signatures
(decision 21) count by the pointer that they name, and only until a signed record was read.
"""

from typing import Generic, TypeVar

import msgspec

from driftline.events import Freeze, RolePointer, event_id

T = TypeVar("T", RolePointer, Freeze)


class Current(Generic[T]):
    """The record of one key that counts. `take` returns why a record does not, or None."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.is_signed = False
        self._contested = False  # a later record has the same sequence and means something else
        self._unconfirmed = False  # unsigned: its predecessor may be compacted away

    @property
    def next_sequence(self) -> int:
        """The sequence of the record that replaces this one."""
        return 1 if self.value is None else self.value.sequence + 1

    def take(self, event: T, *, signed: bool) -> str | None:
        """Take in the next record of the log; an unsigned one only while those may count."""
        if not signed:
            return self._take_unsigned(event)
        if event.sequence < 1:
            return "signed, but without a sequence"
        if self.value is None or not self.is_signed or event.sequence > self.value.sequence:
            self.value, self.is_signed, self._contested = event, True, False
            return None
        if event.sequence == self.value.sequence:
            if _means(event) == _means(self.value):
                return None  # the same once more
            self._contested = True  # where compaction takes the first, the other one counts
        return f"stale: its sequence is {event.sequence}, the current one's {self.value.sequence}"

    def remember(self, event: T) -> bool:
        """Take in what was seen earlier, unless the log has as new a record; return whether."""
        if self.value is not None and self.value.sequence >= event.sequence:
            return False
        self.value, self.is_signed = event, event.sequence > 0
        return True

    def again(self, *, outdated: bool) -> T | None:
        """Return the same choice as a new record, if the one that counts is not signed or will be
        lost to compaction."""
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
        """Of two unsigned pointers that replace the same one, the first in the log counts.

        Compaction keeps the newest even if it came too late, and a later copy of the current one
        that replaces itself. So the first one read yields to any whose predecessor is not seen.
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
