"""Read Kafka topics with kafka-python, and run rebalance callbacks in the calling thread.

Input: topics to read as a group member, or partitions with start offsets. Output: committed
messages.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import kafka.errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.future import Future

from driftline.broker.bounded import let_go
from driftline.broker.kafka_python_values import (
    ANSWER_TIMEOUT_MS,
    PROGRESS_TIMEOUT_MS,
    committed_of,
    kafka_offsets,
    kafka_partition,
    translated,
    unsupported_codec,
)
from driftline.broker.limits import TopicLimits, fenced_instance
from driftline.broker.port import Committed, Message, Rebalanced, TopicPartition
from driftline.errors import BrokerUnavailable, OffsetOutOfRange


class KafkaPythonConsumer:
    """Implement `port.Consumer` with a kafka.KafkaConsumer."""

    def __init__(self, client: Any, limits: TopicLimits, *, static: bool = False) -> None:
        self._client = client
        self._limits = limits
        self._static = static  # True if the consumer has an instance id
        self._callbacks: _Callbacks | None = None  # set by `subscribe`
        self._closed = False

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        for topic in topics:
            self._limits.partitions(topic)
        self._callbacks = _Callbacks(self._client, assigned, revoked)
        with translated("subscribe"):
            self._client.subscribe(topics=list(topics), listener=self._callbacks)
            for topic in topics:
                # Fetch metadata now. Without it, a group's first leader would assign no partitions.
                self._client.partitions_for_topic(topic)

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._limits.check_exist(offsets)
        with translated("assign"):
            self._client.assign([kafka_partition(partition) for partition in offsets])
            for partition, offset in offsets.items():
                self._client.seek(kafka_partition(partition), offset)

    def poll(self, *, max_records: int, timeout_s: float) -> list[Message]:
        poll = self._client.poll if self._callbacks is None else self._callbacks.poll
        self._fetch_again_what_was_parked()
        with translated("poll"):
            try:
                batches = poll(timeout_ms=timeout_s * 1000, max_records=max_records)
            except kafka_errors.OffsetOutOfRangeError as error:
                raise OffsetOutOfRange(*next(iter(error.args[0]))) from error
            except kafka_errors.UnsupportedCodecError as error:
                # The error does not identify the batch, but the client still references the batch
                # (kafka-python 3.0.12).
                batch = self._client._fetcher._next_partition_records
                place = "{}[{}]@{}".format(*batch.topic_partition, batch.next_fetch_offset)
                raise unsupported_codec(f"read {place}", error) from error
        if self._static and self._is_fenced():
            raise fenced_instance()
        return [
            Message(
                record.topic,
                record.partition,
                record.offset,
                record.key,
                record.value,
                tuple((name, value or b"") for name, value in record.headers),
                record.timestamp,
            )
            for records in batches.values()
            for record in records
        ]

    def assignment(self) -> frozenset[TopicPartition]:
        if self._callbacks is not None:
            return frozenset(self._callbacks.held)
        return frozenset(TopicPartition(*partition) for partition in self._client.assignment())

    def position(self, partition: TopicPartition) -> int:
        with translated("position"):
            offset = self._client.position(kafka_partition(partition), timeout_ms=ANSWER_TIMEOUT_MS)
        if offset is None:
            raise BrokerUnavailable(f"the broker returned no start offset for {partition}")
        return int(offset)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        with translated("seek"):
            self._client.seek(kafka_partition(partition), offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        with translated("pause"):
            self._client.pause(*map(kafka_partition, partitions))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        with translated("resume"):
            self._client.resume(*map(kafka_partition, partitions))

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        result = {}
        with translated("read committed offsets"):
            for partition in partitions:
                known = self._client.committed(
                    kafka_partition(partition), metadata=True, timeout_ms=ANSWER_TIMEOUT_MS
                )
                if known is not None and known.offset >= 0:
                    result[partition] = committed_of(known)
        return result

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        with translated("commit offsets"):
            self._client.commit(kafka_offsets(offsets), timeout_ms=ANSWER_TIMEOUT_MS)

    def group_metadata(self) -> object:
        return self._client.group_metadata()

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        with translated("fetch the log ends"):
            found = self._client.end_offsets(
                list(map(kafka_partition, partitions)), timeout_ms=PROGRESS_TIMEOUT_MS
            )
        return {TopicPartition(*partition): int(offset) for partition, offset in found.items()}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._callbacks is not None:
                self._callbacks.close()
        finally:
            if self._static:
                # The client leaves its group only if it has no instance id (kafka-python 3.0.12).
                # So pretend that it has no instance id. The leave request contains the member id,
                # so it cannot remove a successor that has the same instance id.
                self._client._coordinator.is_dynamic_member = lambda: True
            with translated("close"):
                self._client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)

    def abandon(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._callbacks is not None:
            self._callbacks.abandon()
        let_go(partial(self._client.close, autocommit=False, timeout_ms=1000))

    def _fetch_again_what_was_parked(self) -> None:
        """Make the client refetch the records that it set aside while their partition was paused.

        Otherwise, after `resume`, the client would rarely return these records, and it would fetch
        no other records from the partition. (In kafka-python 3.0.12, `fetched_records` checks for
        set-aside records only if its current batch is None, not if that batch is used up.)
        """
        parked = self._client._fetcher._paused_partition_records
        for partition in parked.keys() - self._client.paused():
            del parked[partition]

    def _is_fenced(self) -> bool:
        """Return whether another consumer has taken over this consumer's instance id. The only sign
        of a takeover is that the client's heartbeats stop (kafka-python 3.0.12)."""
        member = self._client._coordinator
        return (
            member.stable()
            and not member._heartbeat_enabled
            and not member.rejoining
            and not member.rejoin_needed
        )


class _Callbacks(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Run rebalance callbacks in the calling thread.

    While the client's `poll` blocks, the client calls this listener in its I/O thread, where
    `committed` and `commit` cannot be called. Therefore a worker thread polls and puts the result
    into `_events`. The I/O thread also puts callbacks into `_events`, and waits until they have
    run. The calling thread handles all events, so `revoked` can commit before partitions are lost.
    """

    def __init__(self, client: Any, assigned: Rebalanced, revoked: Rebalanced) -> None:
        self._client = client
        self._assigned = assigned
        self._revoked = revoked
        # The assigned partitions. Set by `_take`; cleared by `_give_up` and `abandon`.
        self.held: list[TopicPartition] = []
        # Set by `_take`, reset by `_give_up`. The client also reports a revocation before it first
        # joins a group.
        self._is_assigned = False
        self._given_up: list[TopicPartition] = []  # the most recently revoked partitions
        # Input of the worker thread. `poll` adds its timeout and record limit; `abandon` adds None,
        # which ends the thread.
        self._requests: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()
        # Use a daemon thread, so that the process can exit even while a poll hangs.
        threading.Thread(target=self._work, name="driftline-poll", daemon=True).start()
        self._events: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._result: list[Any] = []  # the last poll's records; set by `_finish`, removed by `poll`
        # Set when a poll is requested, reset when the poll's result is read from `_events`.
        self._polling = False
        self._closing = False  # set by `abandon`, so that no more callbacks are called

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        await self._hand_over(self._take, assigned)

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        if self._is_assigned:
            await self._hand_over(self._give_up, revoked)

    async def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        await self.on_partitions_revoked(lost)

    async def _hand_over(self, callback: Rebalanced, partitions: Iterable[Any]) -> None:
        if self._closing:
            return
        done = Future()
        names = sorted(TopicPartition(*partition) for partition in partitions)
        self._events.put(partial(self._run, callback, names, done))
        await done

    def _take(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in map(kafka_partition, set(partitions).intersection(self._given_up)):
            # When a client gets a partition back, it restores the partition's old position and
            # paused state (kafka-python 3.0.12). Instead, resume the partition at its committed
            # offset, as other clients do.
            known = self._client.committed(partition, timeout_ms=ANSWER_TIMEOUT_MS)
            if known is None:
                self._client.seek_to_beginning(partition)
            else:
                self._client.seek(partition, known)
            self._client.resume(partition)
        for partition in map(kafka_partition, set(partitions).difference(self._given_up)):
            if self._client.committed(partition, timeout_ms=ANSWER_TIMEOUT_MS) is None:
                self._client.seek_to_beginning(partition)
        self.held = list(partitions)
        self._is_assigned = True
        self._assigned(partitions)

    def _give_up(self, partitions: Sequence[TopicPartition]) -> None:
        self._given_up, self.held = list(partitions), []
        self._is_assigned = False
        self._revoked(partitions)

    def _run(self, callback: Rebalanced, partitions: list[TopicPartition], done: Any) -> None:
        try:
            callback(partitions)
        finally:
            # The client's futures may be completed only in its I/O thread. There is no public API
            # for running code in that thread (kafka-python 3.0.12).
            self._client._net.call_soon_threadsafe(lambda: done.success(None))

    def poll(self, *, timeout_ms: float, max_records: int) -> Mapping[Any, Any]:
        # After an interrupt (Ctrl-C), the previous poll may still be running. Wait for it instead
        # of starting another poll, so that its records are not lost.
        if not self._polling:
            self._polling = True
            self._requests.put((timeout_ms, max_records))
        failure: Exception | None = None
        while self._polling:
            try:
                event = self._events.get(timeout=(timeout_ms + 2 * ANSWER_TIMEOUT_MS) / 1000)
            except queue.Empty:
                raise BrokerUnavailable("cannot poll: the client does not respond") from None
            try:
                event()
            except Exception as error:  # noqa: BLE001 - raised again below
                failure = failure or error
        if failure is not None:
            raise failure
        records: Mapping[Any, Any] = self._result.pop()
        return records

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            self._poll(*request)

    def _poll(self, timeout_ms: float, max_records: int) -> None:
        try:
            answer = partial(
                self._finish,
                self._client.poll(timeout_ms=timeout_ms, max_records=max_records),
                None,
            )
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            answer = partial(self._finish, {}, error)
        self._events.put(answer)

    def _finish(self, records: Mapping[Any, Any], error: Exception | None) -> None:
        self._polling = False
        self._result = [records]
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for any pending poll, call `revoked`, and end the worker thread."""
        try:
            if self._polling:
                self.poll(timeout_ms=0, max_records=1)
            if self._is_assigned:
                self._give_up(self.held)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the worker thread and call no more callbacks."""
        self._closing = True
        self.held = []
        self._requests.put(None)
