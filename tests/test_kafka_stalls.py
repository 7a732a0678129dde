"""While a real Kafka is stalled, requests that only read end after a limit, not after a minute."""

from collections.abc import Callable, Iterator

import pytest

from driftline.broker import librdkafka_admin, librdkafka_consumer
from driftline.broker.bounded import call_within
from driftline.broker.librdkafka import LibrdkafkaBroker
from driftline.broker.port import Admin, Consumer, NewTopic, TopicPartition
from driftline.errors import BrokerUnavailable, DriftlineError
from tests.conftest import without_kafka
from tests.faults.cluster import Cluster

PARTITION = TopicPartition("topic", 0)
# Far above the limit of 1 s that the test sets, and far below librdkafka's own limit of 60 s.
PATIENCE_S = 20.0

REQUESTS: dict[str, Callable[[Admin, Consumer], object]] = {
    "topic ids": lambda admin, _: admin.topic_ids(["topic"]),
    "offsets": lambda admin, _: admin.offsets("topic"),
    "description": lambda admin, _: admin.describe(["topic"]),
    "committed offsets": lambda _, consumer: consumer.committed([PARTITION]),
}


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.up()
    except DriftlineError as error:
        without_kafka(request.config, str(error))
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_gets_no_response_ends_soon(
    name: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = LibrdkafkaBroker(cluster.servers)
    admin, consumer = broker.admin(), broker.consumer("group")
    if not admin.describe(["topic"]):
        admin.create([NewTopic("topic", 1)])
    for module in (librdkafka_admin, librdkafka_consumer):
        monkeypatch.setattr(module, "READ_TIMEOUT_S", 1.0)
    cluster.nodes[0].stall()
    try:
        with pytest.raises(BrokerUnavailable):
            call_within(PATIENCE_S, REQUESTS[name], admin, consumer)
    finally:
        cluster.nodes[0].resume()
        consumer.abandon()
        admin.close()
