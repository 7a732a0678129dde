"""Find the records that make a batch fail, so that one record cannot stop a stream.

Input: batches, and which of them failed. Output: smaller chunks, until a single record fails. This
record is called a culprit. It is tried again after another record was handled. If it fails again,
it becomes a dead letter after another record was handled. If too many records in a row are
culprits, the data is not the cause, and the service stops.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from driftline.broker.port import Committed, Message, Messages, TopicPartition
from driftline.errors import DataError, DriftlineError, MessageTooLarge

# A faulty client rarely writes more bad records in a row. A broken service reaches this limit
# within a second.
MAX_CULPRITS_IN_A_ROW = 20
_LONGEST_REASON = 500

_Place = tuple[str, int, int]  # topic, partition, offset


def is_caused_by_data(error: Exception) -> bool:
    """Return whether a record may have caused an error that a handler raised.

    Errors of the broker, the disk, the memory or the model store do not depend on the record.

    >>> is_caused_by_data(KeyError("row")), is_caused_by_data(OSError("disk full"))
    (True, False)
    """
    if isinstance(error, DataError | MessageTooLarge):
        return True
    return not isinstance(error, DriftlineError | OSError | MemoryError)


class Isolation:
    """Search for culprits in the batches of one worker, by bisection.

    A failed batch is read again and handled in halves, then in quarters, and so on, until single
    records fail. Then the records around this culprit may form large chunks again: to find k
    culprits among n records takes about k log n calls. The loop calls, for each chunk of a batch:

    1. `quarantines`: skip the chunk if it is a culprit.
    2. Otherwise handle the chunk. If that fails: `failed`, then rewind and read again.
    3. `try_again`: if an earlier culprit failed only once, rewind and read again.
    4. `take_proven`: send earlier culprits as dead letters, before the results of this chunk.
    5. `succeeded`.
    """

    def __init__(self) -> None:
        # Offsets of failed batches. `succeeded` removes a range once its last record was handled.
        self._suspect: dict[TopicPartition, range] = {}
        # Largest chunk of suspect records, or 0 for any size; set by `failed` and `try_again`.
        self._limit = 0
        # Single records that failed, and why. `try_again` and `committed` remove them.
        self._culprits: dict[_Place, str] = {}
        # Skipped culprits; emptied by `take_proven`, or by `reread`, after which they come again.
        self._unproven: list[Message] = []
        # How often single records failed. `committed` removes them, as they are not read again.
        self._failures: Counter[_Place] = Counter()
        self._in_a_row = 0  # dead letters since the last handled record; reset by `succeeded`
        self._has_succeeded = False  # set by the first handled record, never reset

    def chunks(self, messages: Messages) -> Iterator[Messages]:
        """Split a batch into chunks of at most `_limit` suspect records, or one culprit."""
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

    def quarantines(self, messages: Messages) -> bool:
        """Return whether a chunk is a culprit. The culprit then waits for `take_proven`.

        Raises DriftlineError if too many culprits are in a row for the data to be the cause.
        """
        if not self._culprits or _place(messages[0]) not in self._culprits:
            return False
        message = messages[0]
        self._unproven.append(message)
        if self._in_a_row + len(self._unproven) > MAX_CULPRITS_IN_A_ROW:
            raise DriftlineError(
                f"{MAX_CULPRITS_IN_A_ROW} records in a row cannot be handled; the last is "
                f"{message.place}: {self._culprits[_place(message)]}",
                hint="so the data is probably not the cause, and no record was skipped; see the "
                "log for the first error",
            )
        return True

    def failed(self, messages: Messages, error: Exception) -> bool:
        """Record that handling these records failed. Return whether this is the second failure of a
        single record. They must be read again."""
        if len(messages) == 1:
            place = _place(messages[0])
            reason = f"cannot be processed: {type(error).__name__}: {error}"
            self._culprits[place] = reason[:_LONGEST_REASON]
            self._failures[place] += 1
            self._limit = 0  # `chunks` keeps the culprit apart
            return self._failures[place] > 1
        if not self._is_suspect(messages[0]):
            for partition, at in messages.runs:
                self._suspect_all(partition, messages[at.start].offset)
                self._suspect_all(partition, messages[at.stop - 1].offset)
        self._limit = len(messages) // 2
        return False

    def reread(self) -> None:
        """Record that all records that are not committed will be read again."""
        self._unproven.clear()

    def succeeded(self, messages: Messages) -> None:
        """Record that these records were handled."""
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
        """Return whether a skipped culprit is not a dead letter yet."""
        return bool(self._unproven)

    def try_again(self, *, is_idle: bool) -> bool:
        """Return whether records must be read again because a culprit failed only once, perhaps
        for a temporary cause. Call this before each `take_proven`."""
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

        Call this after records were handled, because that proves that the handler works. Call it
        with `is_idle` if there are no more records. Then any earlier success is sufficient.
        """
        if is_idle:
            if not self._has_succeeded:
                return []
            self._in_a_row += len(self._unproven)
        proven = [(message, self._culprits[_place(message)]) for message in self._unproven]
        self._unproven.clear()
        return proven

    def committed(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Remove failed records below these committed offsets. They are not read again."""
        for topic, partition, offset in list(self._failures):
            committed = offsets.get(TopicPartition(topic, partition))
            if committed is not None and offset < committed.offset:
                del self._failures[topic, partition, offset]
                self._culprits.pop((topic, partition, offset), None)

    def _suspect_all(self, partition: TopicPartition, offset: int) -> None:
        """Extend the suspect offsets of a partition to this one."""
        known = self._suspect.get(partition, range(offset, offset))
        self._suspect[partition] = range(min(known.start, offset), max(known.stop, offset + 1))

    def _is_suspect(self, message: Message) -> bool:
        partition = TopicPartition(message.topic, message.partition)
        return message.offset in self._suspect.get(partition, range(0))


def _place(message: Message) -> _Place:
    return (message.topic, message.partition, message.offset)
