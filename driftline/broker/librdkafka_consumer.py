"""Read Kafka topics with librdkafka, either as a group member or from given offsets."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from driftline.broker.bounded import call_within, let_go
from driftline.broker.librdkafka_records import Fetched, fatal_error, records_of
from driftline.broker.librdkafka_values import (
    ANSWER_TIMEOUT_S,
    PROGRESS_TIMEOUT_S,
    READ_TIMEOUT_S,
    ClientErrors,
    ck,
    committed_of,
    kafka_offsets,
    kafka_partition,
    translated,
)
from driftline.broker.limits import TopicLimits
from driftline.broker.port import Committed, Message, Rebalanced, TopicPartition
from driftline.errors import BrokerError, OffsetOutOfRange

_log = logging.getLogger(__name__)

_LARGEST_BATCH = 1_000_000  # the largest number of records that `consume` can return
# Leaving a group takes milliseconds. If the broker is unreachable, the session times out instead.
_LEAVE_TIMEOUT_S = 5.0


class LibrdkafkaConsumer:
    """Implement `port.Consumer` with a confluent_kafka.Consumer."""

    def __init__(
        self,
        client: Any,
        group: str | None,
        limits: TopicLimits,
        errors: ClientErrors,
        instance_id: str | None = None,
    ) -> None:
        self._client = client
        self._errors = errors
        self._group = group
        self._limits = limits
        self._instance_id = instance_id
        # The last start offset of each assigned partition. None means the committed offset, or the
        # earliest offset if none is committed. Cleared by a revocation.
        self._starts: dict[TopicPartition, int | None] = {}
        self._paused: set[TopicPartition] = set()  # cleared by a revocation
        # True while `assigned` runs. Meanwhile, seeks and pauses only set fields for `_restart`.
        self._assigning = False
        self._revoking = False  # True while `revoked` runs, when only the calling thread may commit
        self._rebalances = 0  # number of rebalances; `poll` checks whether it has changed
        self._revoked: Rebalanced | None = None  # set by `subscribe`
        # Raised by a rebalance callback. `_raise_failure` raises it again and resets it.
        self._failure: BaseException | None = None
        self._closed = False
        self._abandoned = False
        # Partition with a position outside its log. Set by `poll`, reset by `seek` and `_restart`.
        self._out_of_range: TopicPartition | None = None

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        for topic in topics:
            self._limits.partitions(topic)
        self._revoked = revoked

        def on_assign(client: Any, partitions: list[Any]) -> None:
            if self._closed:
                return
            self._rebalances += 1
            gained = sorted(TopicPartition(p.topic, p.partition) for p in partitions)
            self._starts = dict.fromkeys(gained)
            if self._failure is not None:
                return  # `poll` raises the failure; its caller then rewinds or abandons
            self._assigning = True
            try:
                assigned(gained)  # may call `seek`, which changes `_starts`
            finally:
                self._assigning = False
            self._restart()

        # The client gives up the partitions only after this callback, so `revoked` can commit. The
        # callback also runs during `close`. After `abandon`, it does not call `revoked`.
        def on_revoke(client: Any, partitions: list[Any]) -> None:
            self._rebalances += 1
            lost = sorted(TopicPartition(p.topic, p.partition) for p in partitions)
            self._revoking = True
            try:
                if not self._abandoned and self._failure is None:
                    revoked(lost)
            finally:
                self._revoking = False
                self._starts = {}
                self._paused.clear()

        with translated("subscribe"):
            self._client.subscribe(
                list(topics), on_assign=self._safe(on_assign), on_revoke=self._safe(on_revoke)
            )

    def _safe(self, callback: Callable[[Any, list[Any]], None]) -> Callable[[Any, list[Any]], None]:
        """Return a callback that stores its exception in `_failure` instead of raising it.

        confluent-kafka 2.16 never releases an exception raised by a rebalance callback. The
        exception's traceback would keep this client, the producer and their threads alive.
        """

        def call(client: Any, partitions: list[Any]) -> None:
            try:
                callback(client, partitions)
            except BaseException as error:  # noqa: BLE001 - raised again by `_raise_failure`
                self._failure = self._failure or error

        return call

    def _raise_failure(self) -> None:
        """Raise the exception of a rebalance callback, if there is one."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback references this frame, so they would form a cycle

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._limits.check_exist(offsets)
        self._starts = dict(offsets)
        self._paused.clear()
        self._restart()

    def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Message]:
        if self._out_of_range is not None:
            raise OffsetOutOfRange(*self._out_of_range)
        count = min(max_records, _LARGEST_BATCH)
        before = self._rebalances
        deadline_s = time.monotonic() + timeout_s
        while True:
            with translated("poll"):
                try:
                    records = self._fetch(count, deadline_s)
                finally:
                    self._raise_failure()
            self._note_out_of_range(records)
            # After a fatal error, the client returns no more records. It reports the error to its
            # error callback, `_errors`, or as a record (see `records_of`).
            if self._errors.fatal is not None:
                raise fatal_error(self._errors.fatal)
            messages = Fetched(records_of(records, self._group))
            if self._rebalances != before:
                # The records may predate the rebalance. Drop them and read again from `_starts`.
                if messages and self._starts:
                    self._restart()
                return []
            if not messages and self._out_of_range is not None:
                raise OffsetOutOfRange(*self._out_of_range)
            if messages or time.monotonic() >= deadline_s:
                return messages  # empty if only notices arrived, such as a partition's end

    def _fetch(self, count: int, deadline_s: float) -> Sequence[Any]:
        # With a timeout, `consume` would wait for `count` records. Therefore wait only for the
        # first record, then fetch the records that have already arrived.
        records: list[Any] = self._client.consume(count, 0)
        left_s = deadline_s - time.monotonic()
        if records or left_s <= 0 or self._failure is not None:
            return records
        first = self._client.poll(left_s)
        return [] if first is None else [first, *self._client.consume(count - 1, 0)]

    def _note_out_of_range(self, records: Sequence[Any]) -> None:
        """Store an out-of-range error, so that `poll` first returns the records fetched with it."""
        for record in records:
            error = record.error()
            if error is not None and error.code() == ck.KafkaError._AUTO_OFFSET_RESET:
                partition = TopicPartition(record.topic(), record.partition())
                if partition in self._starts:
                    self._out_of_range = partition

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._starts)

    def position(self, partition: TopicPartition) -> int:
        start = self._starts[self._own(partition)]
        with translated("position"):
            if not self._assigning:
                offset: int = self._client.position([kafka_partition(partition)])[0].offset
                if offset >= 0:
                    return offset
            if start is not None:
                return start
            known = self.committed([partition])
            if known:
                return known[partition].offset
            return self._first(partition)

    def _first(self, partition: TopicPartition) -> int:
        with translated("fetch the log start"):
            first: int = self._client.get_watermark_offsets(
                kafka_partition(partition), READ_TIMEOUT_S
            )[0]
        return first

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._starts[self._own(partition)] = offset
        if self._out_of_range == partition:
            self._out_of_range = None
        if self._assigning:
            return
        with translated("seek"), contextlib.suppress(ck.KafkaException):
            # The client itself sets no limit for this call.
            call_within(ANSWER_TIMEOUT_S, self._client.seek, kafka_partition(partition, offset))
            return
        # The client rejects a seek while the partition is starting. Restart all partitions instead.
        for other in self._starts:
            if other != partition:
                self._starts[other] = self.position(other)
        self._restart()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = [self._own(partition) for partition in partitions]
        self._paused.update(wanted)
        if not self._assigning:
            with translated("pause"):
                self._client.pause([kafka_partition(partition) for partition in wanted])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = [self._own(partition) for partition in partitions]
        self._paused.difference_update(wanted)
        if not self._assigning:
            with translated("resume"):
                self._client.resume([kafka_partition(partition) for partition in wanted])

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        self._need_group()
        wanted = [kafka_partition(partition) for partition in partitions]
        if not wanted:
            return {}
        with translated("read committed offsets"):
            return committed_of(self._client.committed(wanted, timeout=READ_TIMEOUT_S))

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        self._need_group()
        if not offsets:
            return
        with translated("commit offsets"):
            commit = partial(
                self._client.commit, offsets=kafka_offsets(offsets), asynchronous=False
            )
            # If the session times out during `commit`, the call never returns (librdkafka 2.16).
            # While `revoked` runs, only the calling thread may commit, so no timeout is possible.
            answer = commit() if self._revoking else call_within(ANSWER_TIMEOUT_S, commit)
            for position in answer:
                if position.error is not None:
                    raise ck.KafkaException(position.error)

    def group_metadata(self) -> object:
        self._need_group()
        return self._client.consumer_group_metadata()

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        wanted = [kafka_partition(partition, ck.OFFSET_END) for partition in partitions]
        if not wanted:
            return {}
        with translated("fetch the log ends"):
            # With OFFSET_END as the timestamp, this request returns the last stable offsets.
            found = self._client.offsets_for_times(wanted, timeout=PROGRESS_TIMEOUT_S)
            for each in found:
                if each.error is not None:
                    raise ck.KafkaException(each.error)
        return {TopicPartition(each.topic, each.partition): each.offset for each in found}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                if self._instance_id is not None and self._revoked is not None:
                    self._leave()
            finally:
                with translated("close"):
                    try:
                        self._client.close()
                    finally:
                        self._starts = {}
                        self._raise_failure()

    def abandon(self) -> None:
        if self._closed:
            return
        self._closed = self._abandoned = True
        self._starts = {}
        self._failure = None
        # The client's threads end when the last reference to it is dropped. Drop this reference
        # now, because the callbacks keep this object alive in a reference cycle.
        client, self._client = self._client, None
        let_go(client.close)

    def _leave(self) -> None:
        """Leave the group, which the client itself does only if it has no instance id."""
        try:
            self._client.unsubscribe()
            deadline_s = time.monotonic() + _LEAVE_TIMEOUT_S
            while self._client.memberid() and time.monotonic() < deadline_s:
                self._client.poll(0.02)  # calls `revoked`, then gives up the partitions
                self._raise_failure()
        except ck.KafkaException as error:
            # Another process has taken over the instance id, or the broker is unreachable.
            _log.info("could not leave the group as %s: %s", self._instance_id, error.args[0].str())

    def _need_group(self) -> None:
        if self._group is None:
            raise BrokerError("this consumer has no group", hint="create it with a group name")

    def _own(self, partition: TopicPartition) -> TopicPartition:
        if partition not in self._starts:
            raise BrokerError(f"partition not assigned: {partition.topic}-{partition.partition}")
        return partition

    def _restart(self) -> None:
        """Make the client restart each partition at its offset in `_starts`."""
        self._out_of_range = None
        unknown = [partition for partition, start in self._starts.items() if start is None]
        if unknown:
            found = self.committed(unknown)
            for partition in unknown:
                at = found.get(partition)
                self._starts[partition] = self._first(partition) if at is None else at.offset
        with translated("assign"):
            self._client.assign(
                [kafka_partition(partition, start) for partition, start in self._starts.items()]
            )
            if self._paused:
                self._client.pause([kafka_partition(partition) for partition in self._paused])
