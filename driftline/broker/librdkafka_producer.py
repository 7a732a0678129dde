"""Publish records to Kafka with librdkafka, optionally in transactions.

Input: records, and offsets to commit in a transaction. Output: acknowledged records, or errors.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice, repeat
from operator import length_hint
from typing import Any

from driftline.broker.bounded import call_within, end_elsewhere, let_go
from driftline.broker.librdkafka_values import ANSWER_TIMEOUT_S, ck, is_forbidden, kafka_offsets
from driftline.broker.limits import TopicLimits, fenced_instance, not_allowed, unpacked
from driftline.broker.port import Committed, Outgoing, OutgoingBatch, TopicPartition
from driftline.broker.transactions import (
    TRANSACTION_ANSWER_TIMEOUT_S,
    check_can_begin,
    raise_failed,
)
from driftline.errors import (
    AccessDenied,
    BrokerError,
    BrokerUnavailable,
    DeliveryFailed,
    TransactionAborted,
)

_log = logging.getLogger(__name__)

# Longer than the 60 s delivery timeout, so that the client reports delivery failures first.
_DELIVERED_TIMEOUT_S = 75.0
_GRACE_S = 1.0  # extra time for a call to return after its own timeout


class LibrdkafkaProducer:
    """Implement `port.Producer` with a confluent_kafka.Producer."""

    def __init__(self, client: Any, transactional_id: str | None, limits: TopicLimits) -> None:
        self._client = client
        self._id = transactional_id
        self._limits = limits
        self._failed: list[str] = []  # errors from `_delivered`; cleared by `flush` and `abort`
        self._denied: AccessDenied | None = None  # the last ACL error, set by `_delivered`
        self._ready = False  # set by the first `begin`
        self._in_transaction = False
        self._fatal: BaseException | None = None  # set when the client becomes unusable
        self._closed = False

    def send(self, record: Outgoing) -> None:
        self._limits.check(record)
        partition = -1 if record.partition is None else record.partition
        headers = list(record.headers) if record.headers else None
        while True:
            try:
                self._client.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=partition,
                    headers=headers,
                    on_delivery=self._delivered,
                )
                return
            except BufferError:
                pass  # the queue is full
            except ck.KafkaException as error:
                raise self._error("send", error) from error
            self._make_room()

    def send_batch(self, batch: OutgoingBatch) -> None:
        if not self._limits.fits(batch):
            for record in unpacked(batch):
                self.send(record)
            return
        topic, partition = batch.topic, batch.partition
        values = iter(batch.values)
        sent = 0
        while sent < len(batch.values):
            # `map` loops in C, with positional arguments. It takes two thirds as long as a Python
            # loop with keyword arguments. `produce_batch` is no faster.
            calls = map(
                self._client.produce,
                repeat(topic), values, islice(batch.keys, sent, None), repeat(partition),
                repeat(self._delivered),
            )  # fmt: skip
            try:
                deque(calls, maxlen=0)
                break
            except BufferError:
                sent = len(batch.values) - length_hint(values)
            except ck.KafkaException as error:
                raise self._error("send", error) from error
            at = sent - 1  # the record that did not fit into the queue
            self.send(Outgoing(topic, batch.values[at], batch.keys[at], partition))
        self._serve(self._client.poll, 0)  # removes acknowledged records from the queue

    def _make_room(self) -> None:
        """Make room in the queue: wait until half of the queued records are acknowledged."""
        enough = len(self._client) // 2
        deadline_s = time.monotonic() + _DELIVERED_TIMEOUT_S
        while len(self._client) > enough:
            self._serve(self._client.poll, 0.1)
            self._check_time(deadline_s)

    def flush(self) -> None:
        deadline_s = time.monotonic() + _DELIVERED_TIMEOUT_S
        while self._serve(self._client.flush, 1.0) > 0:
            self._check_time(deadline_s)
        if self._denied is not None:
            raise self._denied
        raise_failed(self._failed)

    def _serve(self, call: Callable[[float], int], timeout_s: float) -> int:
        """Let the client run callbacks. Raises DeliveryFailed after a fatal error."""
        try:
            return call(timeout_s)
        except (ck.KafkaException, SystemError) as error:
            # The client raises a fatal error between two callbacks (confluent-kafka 2.16). If the
            # second callback then fails with a SystemError, the fatal error is that error's cause.
            self._fatal = self._fatal or (
                error if isinstance(error, ck.KafkaException) else error.__cause__
            )
            raise DeliveryFailed(
                f"records were not written: {self._fatal}",
                hint="records after the last committed offset may be lost; read them again",
            ) from error

    def _check_time(self, deadline_s: float) -> None:
        if time.monotonic() > deadline_s:
            raise BrokerUnavailable(
                f"records were not acknowledged within {_DELIVERED_TIMEOUT_S:.0f} s",
                hint="check that the broker is running and that enough replicas are in sync",
            )

    def begin(self) -> None:
        check_can_begin(self._id, is_open=self._in_transaction)
        if not self._ready:
            self._call(
                "begin a transaction", self._client.init_transactions, TRANSACTION_ANSWER_TIMEOUT_S
            )
            self._ready = True
        self._call("begin a transaction", self._client.begin_transaction)
        self._in_transaction = True

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        for partition in offsets:
            self._limits.partitions(partition.topic)
        self._call(
            "send offsets",
            self._client.send_offsets_to_transaction,
            kafka_offsets(offsets),
            group_metadata,
            TRANSACTION_ANSWER_TIMEOUT_S,
        )

    def commit(self) -> None:
        self._call("commit", self._client.commit_transaction, TRANSACTION_ANSWER_TIMEOUT_S)
        self._in_transaction = False

    def abort(self) -> None:
        if not self._in_transaction:
            return
        self._in_transaction = False
        self._failed.clear()
        if self._fatal is not None:
            return  # the client is unusable; the coordinator will abort the transaction
        try:
            self._call("abort", self._client.abort_transaction, TRANSACTION_ANSWER_TIMEOUT_S)
        except BrokerError as error:
            # The coordinator aborts the transaction: immediately if this producer has been fenced,
            # otherwise when the transaction times out.
            _log.warning("could not abort %s's transaction; it will time out: %s", self._id, error)

    def close(self) -> None:
        if self._closed:
            return
        self.abort()
        self._closed = True
        if self._fatal is not None:  # the client now rejects every call
            end_elsewhere(self._taken())
            return
        try:
            if left := self._client.flush(ANSWER_TIMEOUT_S):
                _log.warning("the producer was closed with %d unsent records", left)
        except ck.KafkaException as error:  # a fatal error, such as missing permissions
            _log.warning("the producer was closed after an error: %s", error.args[0].str())
        let_go(self._client.close)

    def abandon(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Destroy the client by dropping the last reference to it. Do not call its `close` method,
        # which would retry the abort forever.
        client = self._taken()
        end_elsewhere(client)
        let_go(partial(_drop_records, client))

    def _taken(self) -> Any:
        """Return the client and drop this object's references to it."""
        client, self._client = self._client, None
        self._fatal = self._denied = None  # these errors' tracebacks reference the client
        return client

    def _delivered(self, error: Any, record: Any) -> None:
        if error is not None:
            if is_forbidden(error):
                self._denied = not_allowed(f"write to topic {record.topic()!r}", error.str())
            self._failed.append(f"{record.topic()}: {error.str()}")

    def _call(self, doing: str, call: Callable[..., object], *arguments: object) -> None:
        """Make a call, and repeat it while it fails with a retriable error.

        If the call does not return in time, the producer becomes unusable. `send_offsets` may
        ignore its own timeout while the group has no coordinator (librdkafka 2.16).
        """
        deadline = time.monotonic() + TRANSACTION_ANSWER_TIMEOUT_S
        if self._fatal is not None:
            # Another call would only report a conflict with the failed call.
            raise self._error(doing, self._fatal)
        while True:
            try:
                call_within(TRANSACTION_ANSWER_TIMEOUT_S + _GRACE_S, call, *arguments)
            except TimeoutError as error:
                self._fatal = ck.KafkaException(ck.KafkaError(ck.KafkaError._TIMED_OUT))
                raise BrokerUnavailable(
                    f"cannot {doing} for {self._id!r}: {error}",
                    hint="the committed offsets show whether the transaction was committed; resume "
                    "from them once the broker is available",
                ) from error
            except ck.KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise self._error(doing, error) from error
            else:
                return
            self._client.poll(0.1)

    def _error(self, doing: str, error: Any) -> BrokerError:
        reason = error.args[0]
        if reason.fatal():
            self._fatal = error
        if reason.code() == ck.KafkaError.FENCED_INSTANCE_ID:
            return fenced_instance()
        if is_forbidden(reason):
            as_id = "" if self._id is None else f" as {self._id!r}"
            return self._denied or not_allowed(f"{doing}{as_id}", reason.str())
        if self._id is None:
            return BrokerError(f"cannot {doing}: {reason.str()}")
        if reason.retriable() and not self._in_transaction:
            return BrokerUnavailable(f"cannot {doing} for {self._id!r}: {reason.str()}")
        return TransactionAborted(
            f"cannot {doing} for {self._id!r}: {reason.str()}",
            hint="abort and rebuild from the committed offsets; if begin fails as well, another"
            " producer has taken over the transactional id",
        )


def _drop_records(client: Any) -> None:
    """Drop all unwritten records, and run their callbacks, which would otherwise not be freed."""
    client.purge(blocking=False)
    client.poll(0)
