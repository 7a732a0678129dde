"""Find the records in a batch that make the handler fail, so that no record can stop the stream.

Input: batches, and whether handling each chunk failed. Output: smaller and smaller chunks, until a
single record fails. Such a record is called a bad record (in names, a culprit). It is retried after
another record has been handled. If it fails again, it becomes a dead letter after another record
has been handled. If too many records in a row fail, the data is probably not to blame, so the
service stops.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from driftline.broker.port import Committed, Message, Messages, TopicPartition
from driftline.errors import DataError, DriftlineError, MessageTooLarge

# A faulty client rarely writes more than this many consecutive bad records. A broken service
# reaches this limit within a second.
MAX_CULPRITS_IN_A_ROW = 20
_LONGEST_REASON = 500

_Place = tuple[str, int, int]  # topic, partition, offset


def is_caused_by_data(error: Exception) -> bool:
    """Return whether a record may have caused an error that a handler raised.

    Broker, disk, memory and model store errors do not depend on the record.

    >>> is_caused_by_data(KeyError("row")), is_caused_by_data(OSError("disk full"))
    (True, False)
    """
    if isinstance(error, DataError | MessageTooLarge):
        return True
    return not isinstance(error, DriftlineError | OSError | MemoryError)


class DeferredFailed(Exception):
    """Records that the handler had deferred cannot be handled, for the reason in `__cause__`.

    For any other error, the loop would blame the records that it has just passed to the handler.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        super().__init__(f"{len(messages)} deferred records cannot be handled")
        self.messages = messages


def reason_of(error: Exception) -> str:
    """Return the type and text of an error, or of its cause if it is a DeferredFailed."""
    cause = error.__cause__ if isinstance(error, DeferredFailed) else error
    return f"{type(cause).__name__}: {cause}"


@contextmanager
def blaming(messages: Sequence[Message]) -> Iterator[None]:
    """Raise DeferredFailed for these records if their data causes an error in the `with` block."""
    try:
        yield
    except Exception as error:
        if is_caused_by_data(error):
            raise DeferredFailed(messages) from error
        raise


class Isolation:
    """Search one worker's batches for bad records by bisection.

    A failed batch is read again and handled in halves, then in quarters, and so on, until single
    records fail. The records around each bad record may then form large chunks again, so finding k
    bad records among n records takes about k log n handler calls. For each chunk of a batch, the
    loop does the following:

    1. Call `quarantines`. If it returns True, skip the chunk, which is a bad record.
    2. Handle the chunk. If this fails, call `failed`, rewind and read again.
    3. Call `try_again`. If it returns True, an earlier bad record has failed only once, so rewind
       and read again.
    4. Call `take_proven`, and send the returned bad records as dead letters before the chunk's
       results.
    5. Call `succeeded`.
    """

    def __init__(self) -> None:
        # Offset ranges of failed batches. `succeeded` removes a range once all of it is handled.
        self._suspect: dict[TopicPartition, range] = {}
        # The largest number of suspect records in a chunk, or 0 for no limit. Set by `failed` and
        # `try_again`.
        self._limit = 0
        # A record that failed when handled alone → the reason. `try_again` and `committed` remove
        # entries.
        self._culprits: dict[_Place, str] = {}
        # Skipped bad records. Cleared by `take_proven`, and by `reread` because the records will be
        # read again.
        self._unproven: list[Message] = []
        # The number of times that each record has failed when handled alone. `committed` removes
        # records that will not be read again.
        self._failures: Counter[_Place] = Counter()
        self._in_a_row = 0  # dead letters since the last handled record; reset by `succeeded`
        self._has_succeeded = False  # set when the first record is handled; never reset

    def chunks(self, messages: Messages) -> Iterator[Messages]:
        """Split a batch into chunks. A chunk is one bad record, at most `_limit` suspect records,
        or any number of other records."""
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
        """Return whether a chunk is a bad record, and store it until `take_proven` returns it.

        Raises DriftlineError after more than `MAX_CULPRITS_IN_A_ROW` consecutive bad records,
        because the data is then probably not the cause.
        """
        if not self._culprits or _place(messages[0]) not in self._culprits:
            return False
        message = messages[0]
        self._unproven.append(message)
        if self._in_a_row + len(self._unproven) > MAX_CULPRITS_IN_A_ROW:
            raise DriftlineError(
                f"{MAX_CULPRITS_IN_A_ROW} records in a row cannot be handled; the last is "
                f"{message.place}: {self._culprits[_place(message)]}",
                hint="the data is probably not the cause, so no record was skipped; see the log "
                "for the first error",
            )
        return True

    def failed(self, messages: Messages, error: Exception) -> bool:
        """Register these records as failed. The caller must make sure that they are read again.
        Return whether a single record has now failed for the second time."""
        if len(messages) == 1:
            place = _place(messages[0])
            self._culprits[place] = f"cannot be processed: {reason_of(error)}"[:_LONGEST_REASON]
            self._failures[place] += 1
            self._limit = 0  # no limit, because `chunks` isolates the bad record
            return self._failures[place] > 1
        if not self._is_suspect(messages[0]):
            for partition, at in messages.runs:
                self._suspect_all(partition, messages[at.start].offset)
                self._suspect_all(partition, messages[at.stop - 1].offset)
        self._limit = len(messages) // 2
        return False

    def reread(self) -> None:
        """Prepare for all uncommitted records to be read again."""
        self._unproven.clear()

    def succeeded(self, messages: Messages) -> None:
        """Register these records as handled."""
        self._has_succeeded = True
        self._in_a_row = 0
        if self._suspect:
            for partition, at in messages.runs:
                if messages[at.stop - 1].offset + 1 >= self._suspect.get(partition, range(0)).stop:
                    self._suspect.pop(partition, None)

    @property
    def is_searching(self) -> bool:
        """Return whether failed records may still be read again."""
        return bool(self._suspect or self._failures)

    @property
    def is_unproven(self) -> bool:
        """Return whether any skipped bad record has not yet become a dead letter."""
        return bool(self._unproven)

    def try_again(self, *, is_idle: bool) -> bool:
        """Return whether records must be read again because a bad record has failed only once,
        perhaps due to a temporary problem. Call this before each `take_proven`."""
        if is_idle and not self._has_succeeded:
            return False
        hasty = [at for at in self._unproven if self._failures[_place(at)] == 1]
        for message in hasty:
            del self._culprits[_place(message)]
            self._suspect_all(TopicPartition(message.topic, message.partition), message.offset)
            self._limit = 1
        return bool(hasty)

    def take_proven(self, *, is_idle: bool) -> list[tuple[Message, str]]:
        """Return the bad records that now become dead letters, each with the reason why it failed.

        Call this after records have been handled, because their success proves that the handler
        works. If no more records are available, set `is_idle`; any earlier success is then
        sufficient.
        """
        if is_idle:
            if not self._has_succeeded:
                return []
            self._in_a_row += len(self._unproven)
        proven = [(message, self._culprits[_place(message)]) for message in self._unproven]
        self._unproven.clear()
        return proven

    def committed(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Forget failed records below these committed offsets, because they are not read again."""
        for topic, partition, offset in list(self._failures):
            committed = offsets.get(TopicPartition(topic, partition))
            if committed is not None and offset < committed.offset:
                del self._failures[topic, partition, offset]
                self._culprits.pop((topic, partition, offset), None)

    def _suspect_all(self, partition: TopicPartition, offset: int) -> None:
        """Extend a partition's range of suspect offsets to include this offset."""
        known = self._suspect.get(partition, range(offset, offset))
        self._suspect[partition] = range(min(known.start, offset), max(known.stop, offset + 1))

    def _is_suspect(self, message: Message) -> bool:
        partition = TopicPartition(message.topic, message.partition)
        return message.offset in self._suspect.get(partition, range(0))


def _place(message: Message) -> _Place:
    return (message.topic, message.partition, message.offset)
