"""Publish records to Kafka with kafka-python, optionally in transactions.

Input: records, and offsets to commit in a transaction. Output: acknowledged records, or errors.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kafka import errors as kafka_errors

from driftline.broker.bounded import call_within, let_go
from driftline.broker.kafka_python_values import ANSWER_TIMEOUT_MS, kafka_offsets, translated
from driftline.broker.limits import (
    TopicLimits,
    fenced_instance,
    not_allowed,
    record_bytes,
    unpacked,
)
from driftline.broker.partitioner import partition_for
from driftline.broker.port import Committed, Outgoing, OutgoingBatch, TopicPartition
from driftline.broker.transactions import (
    TRANSACTION_ANSWER_TIMEOUT_S,
    check_can_begin,
    raise_failed,
)
from driftline.errors import BrokerUnavailable, DeliveryFailed, TransactionAborted

_log = logging.getLogger(__name__)

# The client's own queue is unbounded. When either of these limits is exceeded, `send` waits until
# the older half of the queued records has been acknowledged.
_MAX_UNCONFIRMED = 20_000
_MAX_UNCONFIRMED_BYTES = 64 * 1024 * 1024
# Longer than the 60 s delivery timeout, within which a record is acknowledged or fails.
_SETTLED_TIMEOUT_S = 90.0


class KafkaPythonProducer:
    """Implement `port.Producer` with a kafka.KafkaProducer."""

    def __init__(
        self,
        client: Any,
        transactional_id: str | None,
        limits: TopicLimits,
        *,
        answer_timeout_s: float = TRANSACTION_ANSWER_TIMEOUT_S,
        gapless: bool = False,
    ) -> None:
        self._client = client
        self._gapless = gapless
        self._has_gap = False  # set when a gapless producer loses a record; stops all later writes
        self._answer_timeout_s = answer_timeout_s
        self._id = transactional_id
        self._flush_timeout_s = (
            _SETTLED_TIMEOUT_S if transactional_id is None else TRANSACTION_ANSWER_TIMEOUT_S
        )
        self._limits = limits
        self._unconfirmed: deque[tuple[str, int, Any]] = deque()  # topic, size in bytes, future
        self._unconfirmed_bytes = 0
        self._failed: list[str] = []  # errors from `_confirm`; cleared by `raise_failed` or `abort`
        self._ready = False  # set by the first `begin`
        self._in_transaction = False
        self._dead = False  # set when an abort fails or a call hangs; prevents new transactions
        self._closed = False

    def send(self, record: Outgoing) -> None:
        self._limits.check(record)
        if self._has_gap:
            self._confirm(0)
            raise_failed(self._failed)
            raise DeliveryFailed(f"{record.topic}: an earlier record was not written")
        partition = record.partition
        if partition is None and record.key is not None:
            partition = partition_for(record.key, self._limits.partitions(record.topic))
        with self._translated("send"):
            future = self._client.send(
                record.topic,
                value=record.value,
                key=record.key,
                partition=partition,
                headers=list(record.headers),
            )
        if self._gapless:
            future.add_errback(self._stop_writing)
        size = record_bytes(record)
        self._unconfirmed.append((record.topic, size, future))
        self._unconfirmed_bytes += size
        if (
            len(self._unconfirmed) > _MAX_UNCONFIRMED
            or self._unconfirmed_bytes > _MAX_UNCONFIRMED_BYTES
        ):
            self._confirm(len(self._unconfirmed) // 2)

    def _stop_writing(self, error: BaseException) -> None:
        """Stop the client after a record has failed, before it sends another record.

        The client calls this in its sender thread.
        """
        self._has_gap = True
        self._client._sender.force_close()

    def send_batch(self, batch: OutgoingBatch) -> None:
        for record in unpacked(batch):
            self.send(record)

    def flush(self) -> None:
        with self._translated("flush"):
            # Without a timeout, `flush` may wait forever after the coordinator is lost
            # (kafka-python 3.0.12).
            self._client.flush(timeout=self._flush_timeout_s)
        self._confirm(0)
        raise_failed(self._failed)

    def begin(self) -> None:
        check_can_begin(self._id, is_open=self._in_transaction)
        with self._translated("begin a transaction"):
            if not self._ready:
                self._answered("begin a transaction", self._client.init_transactions)
                self._ready = True
            self._client.begin_transaction()
        self._in_transaction = True

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        for partition in offsets:
            # Raise an error for an unknown topic; otherwise, the client waits for it forever.
            self._limits.partitions(partition.topic)
        with self._translated("send offsets"):
            self._answered(
                "send offsets",
                self._client.send_offsets_to_transaction,
                kafka_offsets(offsets),
                group_metadata,
            )

    def commit(self) -> None:
        try:
            self.flush()
        except DeliveryFailed as error:
            raise TransactionAborted(
                f"cannot commit for {self._id!r}: {error.message}", hint=error.hint
            ) from error
        with self._translated("commit"):
            self._answered("commit", self._client.commit_transaction)
        self._in_transaction = False

    def abort(self) -> None:
        if not self._in_transaction:
            return
        self._in_transaction = False
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._failed.clear()
        if self._dead:
            return
        try:
            self._answered("abort", self._client.abort_transaction)
        except (kafka_errors.KafkaError, BrokerUnavailable) as error:
            # The coordinator aborts the transaction: immediately if this producer has been fenced,
            # otherwise when the transaction times out.
            self._dead = True
            _log.warning("could not abort %s's transaction; it will time out: %r", self._id, error)

    def close(self) -> None:
        if self._closed:
            return
        self.abort()
        self._closed = True
        try:
            self._client.close(timeout=ANSWER_TIMEOUT_MS / 1000)
        except kafka_errors.KafkaError as error:
            _log.warning("the producer was closed with unsent records: %r", error)

    def abandon(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._unconfirmed.clear()

        def close() -> None:
            self._client._sender.force_close()  # so that `close` does not wait for unsent records
            self._client.close(timeout=1)

        let_go(close)

    def _confirm(self, keep: int) -> None:
        """Wait until all but the newest `keep` records are acknowledged or have failed."""
        while len(self._unconfirmed) > keep:
            topic, size, future = self._unconfirmed.popleft()
            self._unconfirmed_bytes -= size
            if future.succeeded():
                continue
            try:
                future.get(timeout=_SETTLED_TIMEOUT_S)
            except kafka_errors.AuthorizationError as error:
                raise not_allowed(f"write to topic {topic!r}", repr(error)) from error
            except kafka_errors.KafkaError as error:
                self._failed.append(f"{topic}: {error!r}")

    def _answered(self, doing: str, call: Callable[..., object], *arguments: object) -> None:
        """Make a call with a timeout, because the call may never return (kafka-python 3.0.12).

        Raises whatever the call raises, or BrokerUnavailable after the timeout. After a timeout, it
        is unknown whether the transaction was committed, and the producer is unusable.
        """
        try:
            call_within(self._answer_timeout_s, call, *arguments)
        except TimeoutError as error:
            self._dead = True
            raise BrokerUnavailable(
                f"cannot {doing} for {self._id!r}: no answer within {self._answer_timeout_s:g} s",
                hint="the committed offsets show whether the transaction was committed; resume "
                "from them once the broker is available",
            ) from error

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Convert the client's errors to Driftline's errors. If the producer is transactional, most
        errors become TransactionAborted."""
        if self._id is None:
            with translated(doing):
                yield
            return
        try:
            if self._dead:
                raise kafka_errors.ProducerFencedError("an earlier abort failed")
            yield
        except kafka_errors.FencedInstanceIdError as error:
            raise fenced_instance() from error
        except kafka_errors.AuthorizationError as error:
            raise not_allowed(f"{doing} as {self._id!r}", repr(error)) from error
        except (kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError) as error:
            raise BrokerUnavailable(f"cannot {doing} for {self._id!r}: {error!r}") from error
        except (kafka_errors.KafkaError, ValueError) as error:
            raise TransactionAborted(
                f"cannot {doing} for {self._id!r}: {error!r}",
                hint="abort and rebuild from the committed offsets; if begin fails as well, another"
                " producer has taken over the transactional id",
            ) from error
