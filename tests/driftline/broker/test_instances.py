"""Static group members (with an instance id): which one takes over partitions, and how soon."""

import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from driftline.broker import connect
from driftline.broker.port import Broker, Consumer, NewTopic, TopicPartition
from driftline.config.stream_sections import Client
from driftline.errors import BrokerError

pytestmark = pytest.mark.kafka

# Well below the session timeout of 10 s, after which a member without an id would take over.
SOON_S = 5.0
PATIENCE_S = 30.0


class Member:
    """A consumer of a group, and its assigned partitions."""

    def __init__(self, broker: Broker, group: str, topic: str, instance: str) -> None:
        self.consumer: Consumer = broker.consumer(group, instance_id=instance)
        self.revoked = 0
        self.consumer.subscribe([topic], assigned=lambda _: None, revoked=self._revoke)

    def _revoke(self, partitions: object) -> None:
        self.revoked += 1

    @property
    def partitions(self) -> list[int]:
        return sorted(partition.partition for partition in self.consumer.assignment())

    def poll(self) -> None:
        self.consumer.poll(max_records=10, timeout_s=0.1)


@pytest.fixture(params=["kafka-python", "librdkafka"])
def broker(request: pytest.FixtureRequest, kafka_bootstrap: str) -> Broker:
    client: Client = request.param
    # A tenth of the default, so that members notice a rebalance sooner.
    return connect(client, kafka_bootstrap, {"heartbeat.interval.ms": "100"})


@pytest.fixture
def join(broker: Broker, topic_name: Callable[[], str]) -> Iterator[Callable[[str], Member]]:
    """Return a function that adds members to a group, which reads a topic of four partitions."""
    topic, group = topic_name(), f"group-{uuid.uuid4().hex[:12]}"
    broker.admin().create([NewTopic(topic, 4)])
    members: list[Member] = []

    def make(instance: str) -> Member:
        members.append(Member(broker, group, topic, instance))
        return members[-1]

    yield make
    for member in members:
        member.consumer.close()


def seconds_until(true: Callable[[], bool], *members: Member) -> float:
    """Poll these members until `true` returns True; return how long it took."""
    began_s = time.monotonic()
    while not true():
        assert time.monotonic() - began_s < PATIENCE_S
        for member in members:
            member.poll()
    return time.monotonic() - began_s


def two(join: Callable[[str], Member]) -> tuple[Member, Member]:
    first, second = join("0"), join("1")
    seconds_until(lambda: len(first.partitions) == len(second.partitions) == 2, first, second)
    return first, second


def test_a_successor_gets_a_dead_members_partitions_at_once_and_others_keep_theirs(
    join: Callable[[str], Member],
) -> None:
    dead, other = two(join)  # `dead` is no longer polled
    before = dead.partitions, other.partitions, other.revoked

    successor = join("0")
    took_s = seconds_until(lambda: bool(successor.partitions), successor, other)

    assert took_s < SOON_S
    assert (successor.partitions, other.partitions, other.revoked) == before


def test_the_older_of_two_members_with_one_id_gets_an_error(join: Callable[[str], Member]) -> None:
    older, other = two(join)
    newer = join("0")
    seconds_until(lambda: bool(newer.partitions), newer, other)

    with pytest.raises(BrokerError, match="another process"):
        seconds_until(lambda: False, older, newer, other)
    assert len(newer.partitions) == 2


def test_the_partitions_of_a_closed_member_are_reassigned_at_once(
    join: Callable[[str], Member],
) -> None:
    leaving, other = two(join)

    leaving.consumer.close()

    assert seconds_until(lambda: len(other.partitions) == 4, other) < SOON_S


def test_closing_the_older_member_takes_no_partitions_from_the_newer(
    join: Callable[[str], Member],
) -> None:
    older, other = two(join)
    newer = join("0")
    seconds_until(lambda: bool(newer.partitions), newer, other)

    older.consumer.close()
    newer.consumer.commit({})
    for _ in range(20):
        newer.poll()
        other.poll()

    assert len(newer.partitions) == len(other.partitions) == 2
    assert isinstance(next(iter(newer.consumer.assignment())), TopicPartition)
