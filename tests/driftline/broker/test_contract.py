"""The contract of a broker, tested with the in-memory broker and with both Kafka clients."""

import contextlib
import gc
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import kafka
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.broker import connect
from driftline.broker.memory import MemoryBroker
from driftline.broker.partitioner import partition_for
from driftline.broker.port import (
    Broker,
    Committed,
    Consumer,
    Message,
    Messages,
    NewTopic,
    Outgoing,
    OutgoingBatch,
    Producer,
    TopicPartition,
)
from driftline.errors import (
    BrokerError,
    DeliveryFailed,
    MessageTooLarge,
    OffsetOutOfRange,
    TransactionAborted,
)

# On a busy machine, a rebalance may take seconds. No test should ever wait this long.
PATIENCE_S = 30.0

MakeTopic = Callable[..., str]


class _Failure(Exception):
    pass


@pytest.fixture(
    params=[
        "memory",
        pytest.param("kafka-python", marks=pytest.mark.kafka),
        pytest.param("librdkafka", marks=pytest.mark.kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "memory":
        return connect("memory")
    # A tenth of the default, so that members notice a rebalance sooner and tests wait less.
    properties = {"heartbeat.interval.ms": "100"}
    return connect(request.param, request.getfixturevalue("kafka_bootstrap"), properties)


@pytest.fixture
def make_topic(broker: Broker, topic_name: Callable[[], str]) -> MakeTopic:
    """Return a function that creates a topic and returns its name."""

    def make(partitions: int = 1, **config: str) -> str:
        name = topic_name()
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        admin = broker.admin()
        admin.create([NewTopic(name, partitions, config=dotted)])
        admin.close()
        return name

    return make


class Clients:
    """Creates clients that are closed at the end of a test."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._open: list[Consumer | Producer] = []

    def reader(self, topic: str, partitions: int = 1) -> Consumer:
        consumer = self._broker.consumer()
        self._open.append(consumer)
        consumer.assign({TopicPartition(topic, number): 0 for number in range(partitions)})
        return consumer

    def member(self, group: str) -> "Member":
        member = Member(self._broker.consumer(group))
        self._open.append(member.consumer)
        return member

    def producer(self, transactional_id: str | None = None) -> Producer:
        producer = self._broker.producer(transactional_id)
        self._open.append(producer)
        return producer

    def close(self) -> None:
        for client in self._open:
            client.close()


class Member:
    """A consumer in a group that records the calls of its callbacks."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.assigned: list[list[TopicPartition]] = []
        self.revoked: list[list[TopicPartition]] = []  # without empty lists
        self.revocations = 0  # with empty lists
        self.start_at: dict[TopicPartition, int] = {}
        self.found: dict[TopicPartition, Committed] = {}

    def subscribe(self, *topics: str) -> "Member":
        def assigned(partitions: object) -> None:
            gained = list(partitions)  # type: ignore[call-overload]
            self.assigned.append(gained)
            self.found = self.consumer.committed(gained)
            for partition in gained:
                if partition in self.start_at:
                    self.consumer.seek(partition, self.start_at[partition])

        def revoked(lost: Sequence[TopicPartition]) -> None:
            self.revocations += 1
            if lost:
                self.revoked.append(list(lost))

        self.consumer.subscribe(topics, assigned=assigned, revoked=revoked)
        return self


@pytest.fixture
def clients(broker: Broker) -> Iterator[Clients]:
    made = Clients(broker)
    yield made
    made.close()


def eventually(holds: Callable[[], bool], *consumers: Consumer) -> None:
    """Poll the consumers, which must return no records, until `holds` is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it took too long"
        for consumer in consumers:
            assert not consumer.poll(max_records=100, timeout_s=0.05)


def read(consumer: Consumer, count: int) -> list[Message]:
    """Poll until `count` records have arrived; fail if they do not arrive in time."""
    deadline = time.monotonic() + PATIENCE_S
    records: list[Message] = []
    while len(records) < count:
        assert time.monotonic() < deadline, f"only {len(records)} of {count} records came"
        records += consumer.poll(max_records=count - len(records), timeout_s=0.5)
    return records


def polled(consumer: Consumer, count: int) -> Sequence[Message]:
    """Return `count` records from one poll, as soon as a poll returns all of them."""
    deadline = time.monotonic() + PATIENCE_S
    while len(records := consumer.poll(max_records=count, timeout_s=0.5)) < count:
        assert time.monotonic() < deadline, f"a poll brought {len(records)} of {count} records"
        for partition in consumer.assignment():
            consumer.seek(partition, 0)
    return records


def send(producer: Producer, topic: str, *values: bytes, partition: int | None = 0) -> None:
    for value in values:
        producer.send(Outgoing(topic, value, partition=partition))


def send_now(clients: Clients, topic: str, *values: bytes, partition: int | None = 0) -> None:
    producer = clients.producer()
    send(producer, topic, *values, partition=partition)
    producer.flush()


def values(records: Sequence[Message]) -> list[bytes | None]:
    return [record.value for record in records]


def unique_group() -> str:
    return f"group-{uuid.uuid4().hex[:12]}"


class TestRecords:
    def test_are_read_exactly_as_they_were_sent(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic(partitions=3)
        before_ms = time.time() * 1000
        producer = clients.producer()
        headers = (("reason", b"why \xff"), ("reason", b""), ("größe", b"1"))
        producer.send(Outgoing(topic, b"value", b"key", 2, headers))
        producer.flush()

        (record,) = read(clients.reader(topic, 3), 1)

        assert (record.topic, record.partition, record.offset) == (topic, 2, 0)
        assert (record.key, record.value, record.headers) == (b"key", b"value", headers)
        assert before_ms - 1000 < record.timestamp_ms < time.time() * 1000 + 1000

    def test_distinguish_null_from_empty(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic = make_topic()
        producer = clients.producer()
        producer.send(Outgoing(topic, None, b"a"))
        producer.send(Outgoing(topic, b"", b""))
        producer.send(Outgoing(topic, b"c", None))
        producer.flush()

        records = read(clients.reader(topic), 3)

        assert [(r.key, r.value) for r in records] == [(b"a", None), (b"", b""), (None, b"c")]

    def test_keep_their_order_in_a_partition(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic = make_topic(partitions=2)
        producer = clients.producer()
        for number in range(1000):
            producer.send(Outgoing(topic, b"%d" % number, partition=number % 2))
        producer.flush()

        records = read(clients.reader(topic, 2), 1000)

        for partition in (0, 1):
            mine = [record for record in records if record.partition == partition]
            assert [record.offset for record in mine] == list(range(500))
            assert values(mine) == [b"%d" % number for number in range(partition, 1000, 2)]

    def test_with_a_key_go_to_the_partition_that_murmur2_gives(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic(partitions=7)
        producer = clients.producer()
        reader = clients.reader(topic, 7)

        # Each example sends its own keys, because a shared set of keys would not shrink well.
        @settings(max_examples=15, suppress_health_check=list(HealthCheck))
        @given(keys=st.lists(st.binary(max_size=40), min_size=1, max_size=30))
        def check(keys: list[bytes]) -> None:
            for key in keys:
                producer.send(Outgoing(topic, b"", key))
            producer.flush()
            for record in read(reader, len(keys)):
                assert record.key is not None
                assert record.partition == partition_for(record.key, 7), record.key

        check()

    def test_to_an_unknown_topic_are_rejected(self, clients: Clients) -> None:
        with pytest.raises(BrokerError, match="no-such-topic"):
            clients.producer().send(Outgoing("no-such-topic", b""))

    def test_to_an_unknown_partition_fail(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic = make_topic(partitions=2)
        producer = clients.producer()
        with pytest.raises(DeliveryFailed, match=topic):
            producer.send(Outgoing(topic, b"", partition=2))

    def test_in_a_batch_keep_their_order_relative_to_other_records(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, producer = make_topic(2), clients.producer()
        producer.send(Outgoing(topic, b"0", partition=1))
        producer.send_batch(OutgoingBatch(topic, 1, [b"key", None], [b"1", b"2"]))
        producer.send(Outgoing(topic, b"3", partition=1))
        producer.flush()
        records = read(clients.reader(topic, 2), 4)
        assert [(r.partition, r.key, r.value) for r in records] == [
            (1, None, b"0"), (1, b"key", b"1"), (1, None, b"2"), (1, None, b"3")
        ]  # fmt: skip

    def test_in_a_batch_to_an_unknown_partition_are_rejected(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        producer = clients.producer()
        with pytest.raises(DeliveryFailed, match="no partition 3"):
            producer.send_batch(OutgoingBatch(make_topic(), 3, [None], [b"1"]))


class TestSizes:
    def test_a_batch_with_a_record_above_the_limit_is_rejected(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, producer = make_topic(max_message_bytes="10000"), clients.producer()
        with pytest.raises(MessageTooLarge):
            producer.send_batch(OutgoingBatch(topic, 0, [None, None], [b"fits", b"x" * 10_001]))
        producer.flush()
        assert values(read(clients.reader(topic), 1)) == [b"fits"], "what stood before it is sent"

    def test_a_record_of_the_largest_allowed_size_is_delivered(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        largest = b"x" * (broker.max_message_bytes - 3)
        producer = clients.producer()
        producer.send(Outgoing(topic, largest, b"key"))
        producer.flush()
        assert values(read(clients.reader(topic), 1)) == [largest]

    def test_a_larger_record_is_rejected_before_it_is_sent(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        producer = clients.producer()
        with pytest.raises(MessageTooLarge, match=topic):
            producer.send(Outgoing(topic, b"x" * (broker.max_message_bytes + 1)))
        send(producer, topic, b"fits")
        producer.flush()
        assert values(read(clients.reader(topic), 1)) == [b"fits"]

    def test_headers_count_towards_the_size_of_a_record(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        headers = (("h", b"x" * broker.max_message_bytes),)
        with pytest.raises(MessageTooLarge):
            clients.producer().send(Outgoing(topic, b"", headers=headers))

    def test_the_limit_is_that_of_the_topic(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic(max_message_bytes="2000000")
        large = b"x" * (broker.max_message_bytes + 500_000)
        send_now(clients, topic, large)
        assert values(read(clients.reader(topic), 1)) == [large]

    def test_a_record_that_is_too_large_does_not_break_its_transaction(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        producer = clients.producer(unique_group())
        producer.begin()
        send(producer, topic, b"a")
        with pytest.raises(MessageTooLarge):
            send(producer, topic, b"x" * (broker.max_message_bytes + 1))
        send(producer, topic, b"b")
        producer.commit()
        assert values(read(clients.reader(topic), 2)) == [b"a", b"b"]


class TestPoll:
    def test_returns_the_records_that_are_available(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        reader = clients.reader(topic)
        send_now(clients, topic, b"a")
        started = time.monotonic()
        assert values(reader.poll(max_records=1000, timeout_s=PATIENCE_S)) == [b"a"]
        assert time.monotonic() - started < PATIENCE_S / 2

    def test_returns_no_more_than_asked_for(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic = make_topic()
        send_now(clients, topic, *[b"%d" % number for number in range(20)])
        reader = clients.reader(topic)
        first = read(reader, 7)
        assert values(first) == [b"%d" % number for number in range(7)]
        assert len(reader.poll(max_records=5, timeout_s=PATIENCE_S)) <= 5

    def test_returns_nothing_if_no_record_is_available(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        assert not clients.reader(make_topic()).poll(max_records=10, timeout_s=0.05)

    def test_gives_the_same_records_one_by_one_and_as_columns(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        producer = clients.producer()
        for key, value in ((b"k", b"a"), (None, b"b"), (b"l", None)):
            producer.send(Outgoing(topic, value, key, 0, headers=(("h", value or b""),)))
        producer.flush()
        found = Messages.of(polled(clients.reader(topic), 3))
        messages = list(found)
        assert [message.headers for message in messages] == [
            (("h", b"a"),), (("h", b"b"),), (("h", b""),)
        ]  # fmt: skip
        assert found.partitions == [message.partition for message in messages] == [0, 0, 0]
        assert found.topics == [message.topic for message in messages] == [topic] * 3
        assert found.offsets == [message.offset for message in messages] == [0, 1, 2]
        assert found.keys == [message.key for message in messages] == [b"k", None, b"l"]
        assert found.values == [message.value for message in messages] == [b"a", b"b", None]
        assert [found[place] for place in range(len(found))] == messages
        assert list(found[1:]) == messages[1:]
        assert found[-1:].offsets == [2]

    def test_starts_at_the_given_offsets(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic = make_topic()
        send_now(clients, topic, b"a", b"b", b"c")
        reader = clients.reader(topic)
        reader.assign({TopicPartition(topic, 0): 1})
        assert reader.assignment() == {TopicPartition(topic, 0)}
        assert reader.position(TopicPartition(topic, 0)) == 1
        assert values(read(reader, 2)) == [b"b", b"c"]
        assert reader.position(TopicPartition(topic, 0)) == 3

    def test_gives_the_end_offsets_of_partitions(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, producer = make_topic(2), clients.producer()
        producer.send_batch(OutgoingBatch(topic, 0, [None] * 5, [b"x"] * 5))
        producer.flush()
        reader = clients.reader(topic, 2)
        ends = {TopicPartition(topic, 0): 5, TopicPartition(topic, 1): 0}
        assert reader.ends(ends) == ends

    def test_continues_at_the_offset_of_a_seek_in_either_direction(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        partition = TopicPartition(topic, 0)
        send_now(clients, topic, b"a", b"b", b"c", b"d")
        reader = clients.reader(topic)
        reader.seek(partition, 2)
        assert values(read(reader, 2)) == [b"c", b"d"]
        reader.seek(partition, 1)
        assert reader.position(partition) == 1
        assert values(read(reader, 1)) == [b"b"]
        reader.seek(partition, 3)
        assert values(read(reader, 1)) == [b"d"]

    def test_does_not_read_paused_partitions(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic = make_topic(partitions=2)
        paused = TopicPartition(topic, 0)
        reader = clients.reader(topic, 2)
        reader.pause([paused])
        send_now(clients, topic, b"later", partition=0)
        send_now(clients, topic, b"now", partition=1)
        assert values(read(reader, 1)) == [b"now"]
        assert not reader.poll(max_records=10, timeout_s=0.3)
        reader.resume([paused])
        assert values(read(reader, 1)) == [b"later"]

    def test_does_not_return_records_that_were_fetched_before_a_pause(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        partition = TopicPartition(topic, 0)
        send_now(clients, topic, b"a", b"b", b"c")
        reader = clients.reader(topic)
        assert values(read(reader, 1)) == [b"a"]
        reader.pause([partition])
        assert not reader.poll(max_records=10, timeout_s=0.3)
        assert reader.position(partition) == 1
        reader.resume([partition])
        assert values(read(reader, 2)) == [b"b", b"c"]

    def test_continues_after_a_pause_at_the_same_offset_though_others_were_read(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic(partitions=2)
        paused = TopicPartition(topic, 0)
        send_now(clients, topic, b"a", b"b", b"c", partition=0)
        reader = clients.reader(topic, 2)
        assert values(read(reader, 1)) == [b"a"]
        reader.pause([paused])
        send_now(clients, topic, b"x", partition=1)
        assert values(read(reader, 1)) == [b"x"]
        reader.resume([paused])
        assert values(read(reader, 2)) == [b"b", b"c"]
        assert reader.position(paused) == 3


class TestGroup:
    def test_starts_at_the_earliest_record(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic = make_topic()
        send_now(clients, topic, b"a", b"b")
        member = clients.member(unique_group()).subscribe(topic)
        assert values(read(member.consumer, 2)) == [b"a", b"b"]
        assert member.assigned == [[TopicPartition(topic, 0)]]
        assert member.found == {}

    def test_resumes_at_its_commit_and_finds_the_metadata(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, group = make_topic(), unique_group()
        partition = TopicPartition(topic, 0)
        send_now(clients, topic, b"a", b"b", b"c")
        first = clients.member(group).subscribe(topic)
        read(first.consumer, 3)
        first.consumer.commit({partition: Committed(1, '{"published": 2, "µ": "ß"}')})
        first.consumer.close()
        assert first.revoked == [[partition]]

        second = clients.member(group).subscribe(topic)
        assert values(read(second.consumer, 2)) == [b"b", b"c"]
        assert second.found == {partition: Committed(1, '{"published": 2, "µ": "ß"}')}

    def test_may_seek_in_the_assignment_callback(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic(partitions=2)
        send_now(clients, topic, b"a", b"b", b"c", partition=0)
        send_now(clients, topic, b"x", partition=1)
        member = clients.member(unique_group())
        member.start_at = {TopicPartition(topic, 0): 2}
        member.subscribe(topic)
        assert sorted(filter(None, values(read(member.consumer, 2)))) == [b"c", b"x"]

    def test_shares_partitions_and_loses_nothing_in_a_rebalance(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        one, two, group = make_topic(partitions=4), make_topic(partitions=4), unique_group()
        first = clients.member(group).subscribe(one, two)
        eventually(lambda: bool(first.assigned), first.consumer)
        assert len(first.assigned[0]) == 8

        second = clients.member(group).subscribe(one, two)
        both = (first.consumer, second.consumer)
        eventually(lambda: bool(second.assigned) and len(first.assigned) == 2, *both)

        # Range: each member has the same partition numbers of both topics.
        for member in (first, second):
            mine = {
                topic: sorted(p.partition for p in member.assigned[-1] if p.topic == topic)
                for topic in (one, two)
            }
            assert mine[one] == mine[two]
            assert len(mine[one]) == 2
            assert member.consumer.assignment() == set(member.assigned[-1])
        assert first.consumer.assignment().isdisjoint(second.consumer.assignment())
        assert first.revoked == [sorted(first.assigned[0])]

        for number in range(4):
            send_now(clients, one, b"%d" % number, partition=number)
        got = {b: read(member.consumer, 2) for b, member in enumerate((first, second))}
        assert sorted(filter(None, values(got[0] + got[1]))) == [b"0", b"1", b"2", b"3"]

        # The remaining member reads again what the leaving member had not committed.
        second.consumer.close()
        records = read(first.consumer, 4)
        assert len(first.assigned[-1]) == 8
        assert sorted(filter(None, values(records))) == [b"0", b"1", b"2", b"3"]

    def test_an_empty_assignment_is_revoked_too(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, group = make_topic(), unique_group()
        first = clients.member(group).subscribe(topic)
        eventually(lambda: len(first.assigned) == 1, first.consumer)
        second = clients.member(group).subscribe(topic)
        both = (first.consumer, second.consumer)
        eventually(lambda: len(first.assigned) == 2 and bool(second.assigned), *both)
        (without,) = (member for member in (first, second) if not member.assigned[-1])

        assigned, revocations = len(without.assigned), without.revocations
        third = clients.member(group).subscribe(topic)
        eventually(lambda: len(without.assigned) > assigned, *both, third.consumer)
        assert without.revocations > revocations

    def test_can_commit_while_partitions_are_revoked(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, group = make_topic(), unique_group()
        partition = TopicPartition(topic, 0)
        send_now(clients, topic, b"a", b"b")
        consumer = broker.consumer(group)
        consumer.subscribe(
            [topic],
            assigned=lambda gained: None,
            revoked=lambda lost: consumer.commit({partition: Committed(1, "on the way out")}),
        )
        read(consumer, 2)
        consumer.close()
        consumer.close()
        admin = broker.admin()
        assert admin.group_offsets(group) == {partition: Committed(1, "on the way out")}
        admin.close()

    def test_a_subscription_to_an_unknown_topic_is_rejected(self, clients: Clients) -> None:
        with pytest.raises(BrokerError, match="no-such-topic"):
            clients.member(unique_group()).subscribe("no-such-topic")

    def test_an_error_in_a_callback_is_raised_by_poll(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        def assigned(partitions: object) -> None:
            raise RuntimeError("state cannot be built")

        consumer = clients.member(unique_group()).consumer
        consumer.subscribe([make_topic()], assigned=assigned, revoked=lambda lost: None)
        with pytest.raises(RuntimeError, match="state cannot be built"):
            eventually(lambda: False, consumer)

    @pytest.mark.parametrize("failing", ["assigned", "revoked"])
    def test_an_error_in_a_callback_is_freed(
        self, failing: str, broker: Broker, make_topic: MakeTopic
    ) -> None:
        """Its traceback references the clients, whose threads end only once they are freed."""
        failures: list[weakref.ref[_Failure]] = []
        gained: list[object] = []

        def fail(partitions: object) -> None:
            failure = _Failure()
            failures.append(weakref.ref(failure))
            raise failure

        callbacks: dict[str, Any] = {"assigned": gained.append, "revoked": lambda lost: None}
        consumer = broker.consumer(unique_group())
        consumer.subscribe([make_topic()], **callbacks | {failing: fail})
        with contextlib.suppress(_Failure):
            eventually(lambda: bool(gained), consumer)
            consumer.close()
        consumer.abandon()
        del consumer
        gc.collect()
        assert [failure() for failure in failures] == [None]


class TestTransactions:
    def test_are_visible_only_after_their_commit(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        reader, producer = clients.reader(topic), clients.producer(unique_group())
        producer.begin()
        send(producer, topic, b"a", b"b")
        producer.flush()
        assert not reader.poll(max_records=10, timeout_s=0.3)
        producer.commit()
        assert values(read(reader, 2)) == [b"a", b"b"]

    def test_are_never_visible_if_they_are_aborted(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        reader, producer = clients.reader(topic), clients.producer(unique_group())
        for value, keep in ((b"a", True), (b"b", False), (b"c", True)):
            producer.begin()
            send(producer, topic, value)
            producer.flush()
            if keep:
                producer.commit()
            else:
                producer.abort()
        producer.abort()
        assert values(read(reader, 2)) == [b"a", b"c"]

    def test_delay_later_records_of_other_producers_until_their_end(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        reader, producer = clients.reader(topic), clients.producer(unique_group())
        producer.begin()
        send(producer, topic, b"first")
        producer.flush()
        send_now(clients, topic, b"second")
        assert not reader.poll(max_records=10, timeout_s=0.3)
        producer.abort()
        assert values(read(reader, 1)) == [b"second"]

    def test_commit_offsets_with_metadata(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        source, target, group = make_topic(), make_topic(), unique_group()
        partition = TopicPartition(source, 0)
        send_now(clients, source, b"a", b"b")
        member = clients.member(group).subscribe(source)
        read(member.consumer, 2)
        producer = clients.producer(unique_group())
        producer.begin()
        send(producer, target, b"A")
        producer.send_offsets({partition: Committed(1, "kept")}, member.consumer.group_metadata())
        producer.commit()
        assert member.consumer.committed([partition]) == {partition: Committed(1, "kept")}

        producer.begin()
        producer.send_offsets({partition: Committed(2, "lost")}, member.consumer.group_metadata())
        producer.abort()
        assert member.consumer.committed([partition]) == {partition: Committed(1, "kept")}
        admin = broker.admin()
        assert admin.group_offsets(group) == {partition: Committed(1, "kept")}
        admin.close()

    def test_reject_offsets_of_an_unknown_topic(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        member = clients.member(unique_group()).subscribe(make_topic())
        eventually(lambda: bool(member.assigned), member.consumer)
        producer = clients.producer(unique_group())
        producer.begin()
        with pytest.raises(BrokerError, match="no-such-topic"):
            producer.send_offsets(
                {TopicPartition("no-such-topic", 0): Committed(1)},
                member.consumer.group_metadata(),
            )
        producer.abort()

    def test_of_an_older_producer_are_fenced(self, clients: Clients, make_topic: MakeTopic) -> None:
        topic, name = make_topic(), unique_group()
        older, newer = clients.producer(name), clients.producer(name)
        older.begin()
        send(older, topic, b"older")
        older.flush()
        newer.begin()
        send(newer, topic, b"newer")
        newer.commit()

        def too_late() -> None:  # one client notices when it sends, another when it commits
            send(older, topic, b"too late")
            older.commit()

        with pytest.raises(TransactionAborted, match=name):
            too_late()
        older.abort()
        with pytest.raises(TransactionAborted, match=name):
            older.begin()
        assert values(read(clients.reader(topic), 1)) == [b"newer"]

    def test_of_an_evicted_member_cannot_commit_its_offsets(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, group = make_topic(), unique_group()
        partition = TopicPartition(topic, 0)
        first = clients.member(group).subscribe(topic)
        eventually(lambda: bool(first.assigned), first.consumer)
        stale = first.consumer.group_metadata()
        second = clients.member(group).subscribe(topic)
        eventually(
            lambda: bool(second.assigned) and len(first.assigned) == 2,
            first.consumer,
            second.consumer,
        )
        producer = clients.producer(unique_group())
        producer.begin()

        def stale_commit() -> None:
            producer.send_offsets({partition: Committed(1)}, stale)
            producer.commit()

        with pytest.raises(TransactionAborted):
            stale_commit()
        producer.abort()
        assert second.consumer.committed([partition]) == {}

    def test_can_be_started_again_after_an_abort(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        producer = clients.producer(unique_group())
        for _ in range(3):
            producer.begin()
            send(producer, topic, b"no")
            producer.abort()
        producer.begin()
        send(producer, topic, b"yes")
        producer.commit()
        assert values(read(clients.reader(topic), 1)) == [b"yes"]

    def test_are_aborted_by_close_if_they_are_still_open(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        producer = broker.producer(unique_group())
        producer.begin()
        send(producer, topic, b"left open")
        producer.flush()
        producer.close()
        producer.close()
        send_now(clients, topic, b"next")
        assert values(read(clients.reader(topic), 1)) == [b"next"]

    def test_let_a_reader_reach_the_end_despite_their_markers(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        producer = clients.producer(unique_group())
        for finish in (producer.commit, producer.commit, producer.abort):
            producer.begin()
            send(producer, topic, b"x")
            finish()
        reader, partition = clients.reader(topic), TopicPartition(topic, 0)
        read(reader, 2)
        end = reader.ends([partition])[partition]
        assert end >= 4  # the marker of the abort may follow
        eventually(lambda: reader.position(partition) >= end, reader)

    def test_end_with_a_marker_that_has_an_offset_and_that_readers_skip(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        partition = TopicPartition(topic, 0)
        producer, reader = clients.producer(unique_group()), clients.reader(topic)
        for value in (b"a", b"b"):
            producer.begin()
            send(producer, topic, value)
            producer.commit()
        assert [record.offset for record in read(reader, 2)] == [0, 2]
        admin = broker.admin()
        eventually(lambda: reader.position(partition) == 4, reader)
        assert admin.offsets(topic)[partition].end == 4
        admin.close()

    def test_must_begin_before_records_are_sent(
        self, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        with pytest.raises(BrokerError):
            clients.producer().begin()
        with pytest.raises(BrokerError):
            send(clients.producer(unique_group()), topic, b"outside")


class TestDeletedRecords:
    def delete(self, broker: Broker, topic: str, before: int) -> None:
        """Delete the records of the first partition before an offset, as retention does."""
        if isinstance(broker, MemoryBroker):
            broker.truncate(TopicPartition(topic, 0), before)
            return
        client = kafka.KafkaAdminClient(bootstrap_servers=broker._servers)  # type: ignore[attr-defined]
        client.delete_records({kafka.TopicPartition(topic, 0): before})
        client.close()

    def test_raise_an_error_for_a_group_member(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, group = make_topic(), unique_group()
        at = TopicPartition(topic, 0)
        send_now(clients, topic, *(b"%d" % number for number in range(10)))
        first = clients.member(group).subscribe(topic).consumer
        read(first, 10)
        first.commit({at: Committed(2)})
        first.close()
        self.delete(broker, topic, 5)

        second = clients.member(group).subscribe(topic).consumer
        for _ in range(2):
            with pytest.raises(OffsetOutOfRange) as raised:
                read(second, 1)
            assert (raised.value.topic, raised.value.partition) == (topic, 0)
        assert second.position(at) == 2
        second.seek(at, 5)
        assert values(read(second, 5)) == [b"5", b"6", b"7", b"8", b"9"]

    def test_are_skipped_by_a_consumer_without_a_group(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        send_now(clients, topic, *(b"%d" % number for number in range(10)))
        self.delete(broker, topic, 8)
        alone = clients.reader(topic)
        assert values(read(alone, 2)) == [b"8", b"9"]

    def test_a_member_without_a_commit_starts_at_the_earliest_remaining_record(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        send_now(clients, topic, *(b"%d" % number for number in range(10)))
        self.delete(broker, topic, 8)
        member = clients.member(unique_group()).subscribe(topic).consumer
        assert values(read(member, 2)) == [b"8", b"9"]

    def test_a_topic_that_is_created_again_has_another_id(
        self, broker: Broker, make_topic: MakeTopic
    ) -> None:
        topic = make_topic()
        admin = broker.admin()
        before = admin.topic_ids([topic, "there.is.none"])
        admin.delete([topic])
        admin.create([NewTopic(topic, 1)])
        after = admin.topic_ids([topic])
        admin.close()
        assert before.keys() == after.keys() == {topic}
        assert before[topic]
        assert before != after


class TestAdmin:
    def test_creates_describes_and_deletes_topics(
        self, broker: Broker, topic_name: Callable[[], str]
    ) -> None:
        admin, name = broker.admin(), topic_name()
        admin.create([NewTopic(name, 3, config={"retention.ms": "12345"})])
        info = admin.describe([name, "no-such-topic"])[name]
        assert (info.name, info.partitions) == (name, 3)
        assert info.config["retention.ms"] == "12345"
        assert info.config["cleanup.policy"] == "delete"
        assert info.config["max.message.bytes"] == "1048588"
        assert name in admin.describe()
        with pytest.raises(BrokerError, match=name):
            admin.create([NewTopic(name, 3)])
        admin.delete([name, "no-such-topic"])
        assert admin.describe([name]) == {}
        admin.close()
        admin.close()

    def test_rejects_an_invalid_topic_name(self, broker: Broker) -> None:
        admin = broker.admin()
        with pytest.raises(BrokerError, match="a/b"):
            admin.create([NewTopic("a/b", 1)])
        admin.close()

    def test_gives_the_range_of_readable_offsets(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic = make_topic(partitions=2)
        send_now(clients, topic, b"a", b"b", partition=1)
        producer = clients.producer(unique_group())
        producer.begin()
        send(producer, topic, b"not yet", partition=1)
        producer.flush()
        admin = broker.admin()
        expected = {TopicPartition(topic, 0): (0, 0), TopicPartition(topic, 1): (0, 2)}
        assert admin.offsets(topic) == expected
        producer.commit()
        expected[TopicPartition(topic, 1)] = (0, 4)
        eventually(lambda: admin.offsets(topic) == expected)
        with pytest.raises(BrokerError, match="no-such-topic"):
            admin.offsets("no-such-topic")
        admin.close()

    def test_gives_no_offsets_for_an_unknown_group(self, broker: Broker) -> None:
        admin = broker.admin()
        assert admin.group_offsets(unique_group()) == {}
        admin.close()

    def test_counts_the_members_of_a_group(
        self, broker: Broker, clients: Clients, make_topic: MakeTopic
    ) -> None:
        topic, group = make_topic(partitions=1), unique_group()
        admin = broker.admin()
        assert admin.group_members(group) == 0
        members = [clients.member(group).subscribe(topic).consumer for _ in range(2)]
        eventually(lambda: admin.group_members(group) == 2, *members)
        admin.close()
