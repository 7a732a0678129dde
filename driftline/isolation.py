"""Finds the records that make a batch fail, so that one record cannot stop a stream.

In: batches, and which of them failed. Out: smaller batches, until a batch of one record fails: this
record is a culprit. Once another record was handled after it, it is tried again; when it fails
again, and another one is handled, it becomes a dead letter. Where many culprits follow each other
the data is not to blame, and the service stops.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from driftline.broker.port import Committed, Message, Messages, TopicPartition
from driftline.errors import DataError, DriftlineError, MessageTooLarge

# More records in a row than one faulty client would spoil, few enough to stop within a second.
MAX_CULPRITS_IN_A_ROW = 20
_LONGEST_REASON = 500

_Place = tuple[str, int, int]  # topic, partition, offset


def is_caused_by_data(error: Exception) -> bool:
    """Return whether a record may be the cause of an error that a handler raised.

    Trouble with the broker, the disk, the memory or the model store would meet any record.

    >>> is_caused_by_data(KeyError("row")), is_caused_by_data(OSError("disk full"))
    (True, False)
    """
    if isinstance(error, DataError | MessageTooLarge):
        return True
    return not isinstance(error, DriftlineError | OSError | MemoryError)


class Isolation:
    """The search for culprits in the batches of one worker.

    A batch that fails is read again and handled in halves, those in quarters, and so on. Records
    outside of it keep their batches.
    """

    def __init__(self) -> None:
        self._suspect: dict[TopicPartition, range] = {}  # offsets of batches that failed
        self._limit = 0  # how many suspect records are handled at once
        self._culprits: dict[_Place, str] = {}  # → reason; while they may be read again
        self._unproven: list[Message] = []  # culprits with no handled record after them
        self._failures: Counter[_Place] = Counter()  # of single records that may be read again
        self._in_a_row = 0  # dead letters since the last record that was handled
        self._has_succeeded = False

    def chunks(self, messages: Messages) -> Iterator[Messages]:
        """Cut a batch so that suspect records are handled at most `limit` at a time, and culprits
        are alone."""
        if not self._suspect and not self._culprits:
            yield messages
            return
        found = list(messages)
        start = 0
        while start < len(found):
            suspect, end = self._is_suspect(found[start]), start + 1
            alone = _place(found[start]) in self._culprits
            while not alone and end < len(found) and self._is_suspect(found[end]) == suspect:
                if (suspect and end - start == self._limit) or _place(found[end]) in self._culprits:
                    break
                end += 1
            yield Messages(found[start:end])
            start = end

    def sets_aside(self, messages: Messages) -> bool:
        """Return whether a chunk is a culprit, which then waits for `take_proven`.

        Raises DriftlineError when so many culprits are in a row that the data is not to blame.
        """
        if not self._culprits or _place(messages[0]) not in self._culprits:
            return False
        message = messages[0]
        self._unproven.append(message)
        if self._in_a_row + len(self._unproven) > MAX_CULPRITS_IN_A_ROW:
            raise DriftlineError(
                f"{MAX_CULPRITS_IN_A_ROW} records in a row cannot be handled; the last is "
                f"{message.place}: {self._culprits[_place(message)]}",
                hint="the records are not to blame, so none of them was skipped; see the log "
                "for the first error",
            )
        return True

    def failed(self, messages: Messages, error: Exception) -> bool:
        """Note that handling these records failed; they must be read again. Returns whether it was
        the second failure of a single record."""
        if len(messages) == 1:
            place = _place(messages[0])
            reason = f"cannot be processed: {type(error).__name__}: {error}"
            self._culprits[place] = reason[:_LONGEST_REASON]
            self._failures[place] += 1
            return self._failures[place] > 1
        if not self._is_suspect(messages[0]):
            for partition, at in messages.runs:
                self._suspect_all(partition, messages[at.start].offset)
                self._suspect_all(partition, messages[at.stop - 1].offset)
        self._limit = len(messages) // 2
        return False

    def reread(self) -> None:
        """Note that records which are not committed will be read again."""
        self._unproven.clear()

    def succeeded(self, messages: Messages) -> None:
        """Note that these records were handled."""
        self._has_succeeded = True
        self._in_a_row = 0
        if self._suspect:
            for partition, at in messages.runs:
                if messages[at.stop - 1].offset + 1 >= self._suspect.get(partition, range(0)).stop:
                    self._suspect.pop(partition, None)

    @property
    def is_searching(self) -> bool:
        """Return whether records that failed may be read again."""
        return bool(self._suspect or self._failures)

    @property
    def is_unproven(self) -> bool:
        """Return whether a culprit is not proven yet. Its offset must not be committed then."""
        return bool(self._unproven)

    def try_again(self, *, is_idle: bool) -> bool:
        """Return whether records must be read again, because a culprit has failed only once: what
        made it fail may be over. Call it before `take_proven`, and when that may be called."""
        if is_idle and not self._has_succeeded:
            return False
        hasty = [at for at in self._unproven if self._failures[_place(at)] == 1]
        for message in hasty:
            del self._culprits[_place(message)]
            self._suspect_all(TopicPartition(message.topic, message.partition), message.offset)
            self._limit = 1
        return bool(hasty)

    def take_proven(self, *, is_idle: bool) -> list[tuple[Message, str]]:
        """Return the culprits that become dead letters now, with their reasons.

        Call it after records were handled, which proves that the handler works, or with `is_idle`
        when there are no more records: earlier ones are the proof then, if there were any.
        """
        if is_idle:
            if not self._has_succeeded:
                return []
            self._in_a_row += len(self._unproven)
        proven = [(message, self._culprits[_place(message)]) for message in self._unproven]
        self._unproven.clear()
        return proven

    def committed(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Forget the records before these offsets that failed: they are not read again."""
        for topic, partition, offset in list(self._failures):
            committed = offsets.get(TopicPartition(topic, partition))
            if committed is not None and offset < committed.offset:
                del self._failures[topic, partition, offset]
                self._culprits.pop((topic, partition, offset), None)

    def _suspect_all(self, partition: TopicPartition, offset: int) -> None:
        """Let the suspect offsets of a partition reach to this one."""
        known = self._suspect.get(partition, range(offset, offset))
        self._suspect[partition] = range(min(known.start, offset), max(known.stop, offset + 1))

    def _is_suspect(self, message: Message) -> bool:
        partition = TopicPartition(message.topic, message.partition)
        return message.offset in self._suspect.get(partition, range(0))


def _place(message: Message) -> _Place:
    return (message.topic, message.partition, message.offset)
