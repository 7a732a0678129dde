"""The loop: poll, handle, produce, commit. The only place that knows about delivery.

A service is a `Handler` and this loop. The handler turns records into records and says which input
offsets it still needs; the loop moves them between it and the broker, so that no record is lost and
no result is published twice (exactly-once), or none is lost (at-least-once).
"""

import logging
import threading
from collections.abc import Mapping, Sequence

from driftline.broker.port import (
    Broker,
    Committed,
    Consumer,
    Message,
    Messages,
    Outgoing,
    OutgoingBatch,
    Producer,
    TopicPartition,
)
from driftline.clock import Clock
from driftline.errors import BrokerUnavailable, TransactionAborted
from driftline.handler import GroupView, Handler, Output
from driftline.stream import Delivery

log = logging.getLogger(__name__)

# A transaction of one record costs 11 ms at the median; of 200 ms of batches, next to nothing.
COMMIT_INTERVAL_S = 0.2
# Without transactions results are seen at once, and each commit waits for all acknowledgements:
# rarely enough not to be felt, often enough that a killed worker repeats little.
AT_LEAST_ONCE_INTERVAL_S = 1.0
# How often a handler is told where its group stands: a round trip, and a metric for people.
LOOK_INTERVAL_S = 1.0
# An abandoned transaction hides other workers' records from readers until it times out.
TRANSACTION_TIMEOUT_S = 10.0
# A fenced or aborted transaction is rebuilt; so many in a row mean that two workers share a slot.
MAX_ABORTS_IN_A_ROW = 5


class Loop:
    """Runs one handler on one broker. Each `step` is:

    1. Read what is new in the followed topics; the first step reads them to their end.
    2. Pause the partitions that the handler holds back now, resume those that it does no more.
    3. Poll; inside, partitions may be assigned or revoked. Before partitions go, step 6 is done
       for them while this worker may still commit.
    4. Let the handler handle the batch; about once a second, and when partitions were assigned,
       tell it where its group stands; then let it tick.
    5. Send what it returned. With exactly-once, the first record opens a transaction.
    6. When `commit_interval_s` has passed since the last commit: with exactly-once, put the
       offsets to hold into the transaction and commit it; with at-least-once, wait until all
       records are acknowledged, then commit the offsets.

    If a transaction is aborted, nothing of it was visible: the handler forgets its partitions and
    is assigned them again at the committed offsets.
    """

    def __init__(
        self,
        handler: Handler,
        broker: Broker,
        *,
        group: str,
        delivery: Delivery,
        clock: Clock,
        slot: int = 0,
        max_records: int = 5000,
        commit_interval_s: float | None = None,
    ) -> None:
        self._handler = handler
        self._broker = broker
        self._clock = clock
        self._exactly_once = delivery == "exactly_once"
        self._transactional_id = f"{group}-{slot}" if self._exactly_once else None
        self._client_id = f"{group}-{slot}"
        self._max_records = max_records
        if commit_interval_s is None:
            commit_interval_s = (
                COMMIT_INTERVAL_S if self._exactly_once else AT_LEAST_ONCE_INTERVAL_S
            )
        self._commit_interval_s = commit_interval_s
        self._in_transaction = False
        self._dirty = False  # something was handled or sent since the last commit
        self._last_commit_s = clock.monotonic()
        self._next_look_s = self._last_commit_s + LOOK_INTERVAL_S
        self._paused: frozenset[TopicPartition] = frozenset()
        self._aborts = 0
        self._positions: dict[TopicPartition, int] = {}  # next offset to handle
        self._all_partitions: tuple[TopicPartition, ...] | None = None  # of the inputs
        self._followed: Consumer | None = None
        self._producer = self._new_producer()
        # A worker that is killed and started again in its slot has its partitions at once.
        self._consumer = broker.consumer(
            group, client_id=self._client_id, instance_id=self._client_id
        )
        self._consumer.subscribe(
            handler.inputs, assigned=self._on_assigned, revoked=self._on_revoked
        )

    def step(self, timeout_s: float) -> bool:
        """One turn, waiting up to `timeout_s` for records. Returns whether anything happened.

        Raises BrokerError when the broker cannot be reached or refuses, and whatever the handler
        raises; the process then ends, and its successor starts from the committed offsets.
        """
        try:
            busy = self._follow()
            self._pause_or_resume()
            messages = self._consumer.poll(max_records=self._max_records, timeout_s=timeout_s)
            messages = self._put_back(Messages.of(messages))
            output: list[Outgoing | OutgoingBatch] = []
            if messages:
                self._note(messages)
                output.extend(self._handler.handle(messages))
            self._look()
            output.extend(self._handler.tick())
            self._send(output)
            self._dirty = self._dirty or bool(messages)
            if self._clock.monotonic() - self._last_commit_s >= self._commit_interval_s:
                self._commit()
            return busy or bool(messages) or bool(output)
        except TransactionAborted as error:
            self._recover(error)
            return True

    def run(self, stop: threading.Event, *, max_wait_s: float) -> None:
        """Step until `stop` is set, then commit and close."""
        try:
            while not stop.is_set():
                self.step(max_wait_s)
            self._commit()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group, abort an open transaction, free the handler. Safe to call twice."""
        self._handler.close()
        for client in (self._followed, self._consumer, self._producer):
            if client is not None:
                client.close()

    def _note(self, messages: Messages) -> None:
        """Move the positions on, to behind the last record of each partition."""
        for partition, at in messages.runs:
            self._positions[partition] = messages[at.stop - 1].offset + 1

    def _look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + LOOK_INTERVAL_S
        partitions = sorted(self._consumer.assignment())
        try:
            positions = {partition: self._consumer.position(partition) for partition in partitions}
            ends = self._consumer.ends(partitions)
            self._handler.look(GroupView(positions, ends, self._committed_of_all))
        except BrokerUnavailable as error:
            # Whoever only reads can wait for the broker; it is asked again next time.
            log.warning("where the group stands is not known now: %s", error.message)

    def _committed_of_all(self) -> Mapping[TopicPartition, Committed]:
        if self._all_partitions is None:
            admin = self._broker.admin()
            try:
                described = admin.describe(self._handler.inputs)
            finally:
                admin.close()
            self._all_partitions = tuple(
                TopicPartition(topic, number)
                for topic, info in described.items()
                for number in range(info.partitions)
            )
        return self._consumer.committed(self._all_partitions)

    # ---- following ------------------------------------------------------------------------------

    def _follow(self) -> bool:
        if not self._handler.follows:
            return False
        if self._followed is None:
            self._follow_to_end()
            return True
        if messages := self._followed.poll(max_records=self._max_records, timeout_s=0):
            self._send(self._handler.follow(messages))
        return bool(messages)

    def _follow_to_end(self) -> None:
        admin = self._broker.admin()
        try:
            ranges = {
                partition: offsets
                for topic in self._handler.follows
                for partition, offsets in admin.offsets(topic).items()
            }
        finally:
            admin.close()
        consumer = self._broker.consumer(client_id=f"{self._client_id}-follow")
        self._followed = consumer
        consumer.assign({partition: offsets.start for partition, offsets in ranges.items()})
        while any(consumer.position(p) < offsets.end for p, offsets in ranges.items()):
            self._send(
                self._handler.follow(consumer.poll(max_records=self._max_records, timeout_s=0.05))
            )

    # ---- partitions -----------------------------------------------------------------------------

    def _on_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self._resume(partitions, seek=False)

    def _resume(self, partitions: Sequence[TopicPartition], *, seek: bool) -> None:
        """Let the handler take these partitions up where the group has committed them."""
        resume = self._committed(partitions)
        starts = dict(self._handler.assigned(resume) or {})
        for partition, at in resume.items():
            if seek or partition in starts:
                self._consumer.seek(partition, starts.get(partition, at.offset))
            self._positions[partition] = starts.get(partition, at.offset)
        self._next_look_s = self._clock.monotonic()  # the handler knows nothing of these yet

    def _on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        if self._consumer_can_commit(partitions):
            try:
                self._commit()
            except TransactionAborted as error:
                # What was not committed is redone by the partitions' next owner.
                log.warning("transaction lost while handing over partitions: %s", error.message)
                self._in_transaction = False
                self._producer.close()
                self._producer = self._new_producer()
        for partition in partitions:
            self._positions.pop(partition, None)
        self._paused -= frozenset(partitions)
        self._handler.revoked(partitions)

    def _consumer_can_commit(self, partitions: Sequence[TopicPartition]) -> bool:
        return any(partition in self._positions for partition in partitions)

    def _committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]:
        found = self._consumer.committed(partitions)
        return {partition: found.get(partition, Committed(0)) for partition in partitions}

    def _pause_or_resume(self) -> None:
        held = self._handler.held_back(self._consumer.assignment())
        if held == self._paused:
            return
        if released := self._paused - held:
            self._consumer.resume(released)
        if fresh := held - self._paused:
            self._consumer.pause(fresh)
        self._paused = held

    def _put_back(self, messages: Messages) -> Messages:
        """Undo a poll for partitions that were assigned in it and are held back. Returns the rest.

        They are paused at the next step; those that were held back before it are paused already.
        """
        held = self._handler.held_back(self._consumer.assignment()) - self._paused
        if not held:
            return messages
        first: dict[TopicPartition, int] = {}
        kept: list[Message] = []
        for partition, at in messages.runs:
            if partition in held:
                first.setdefault(partition, messages[at.start].offset)
            else:
                kept.extend(messages[at])
        for partition, offset in first.items():
            self._consumer.seek(partition, offset)
        return Messages(kept)

    # ---- delivery -------------------------------------------------------------------------------

    def _new_producer(self) -> Producer:
        producer = self._broker.producer(
            self._transactional_id,
            transaction_timeout_s=TRANSACTION_TIMEOUT_S,
            client_id=self._client_id,
        )
        if self._exactly_once:
            # Fence a predecessor now: while its transaction is open, the offsets that it was about
            # to commit make whoever asks for the committed ones wait for its timeout.
            producer.begin()
            producer.abort()
        return producer

    def _send(self, records: Output) -> None:
        if not records:
            return
        self._begin()
        for record in records:
            if isinstance(record, OutgoingBatch):
                self._producer.send_batch(record)
            else:
                self._producer.send(record)
        self._dirty = True

    def _begin(self) -> None:
        if self._exactly_once and not self._in_transaction:
            self._producer.begin()
            self._in_transaction = True

    def _commit(self) -> None:
        self._last_commit_s = self._clock.monotonic()
        if not self._dirty:
            return
        holds = self._handler.holds()
        offsets = {
            partition: holds.get(partition, Committed(offset))
            for partition, offset in self._positions.items()
        }
        if self._exactly_once:
            self._begin()
            if offsets:
                self._producer.send_offsets(offsets, self._consumer.group_metadata())
            self._producer.commit()
            self._in_transaction = False
        else:
            self._producer.flush()
            if offsets:
                self._consumer.commit(offsets)
        self._dirty = False
        self._aborts = 0

    def _recover(self, error: TransactionAborted) -> None:
        self._aborts += 1
        if self._aborts > MAX_ABORTS_IN_A_ROW:
            raise error
        log.warning("transaction aborted, rebuilding from the committed offsets: %s", error.message)
        self._in_transaction = False
        self._dirty = False
        self._producer.close()
        self._producer = self._new_producer()
        partitions = sorted(self._positions)
        self._handler.revoked(partitions)
        self._resume(partitions, seek=True)
