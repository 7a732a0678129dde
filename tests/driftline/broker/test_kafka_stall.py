"""While a broker is stopped, records wait in bounded memory, and none is lost."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from driftline.broker import Client, connect
from driftline.broker.local import LocalKafka, LocalKafkaStatus
from driftline.broker.port import NewTopic, OutgoingBatch, TopicPartition
from driftline.errors import DriftlineError
from tests.conftest import without_kafka

RECORD_BYTES = 500_000
RECORDS = 240  # 120 MB, which is nearly twice the memory limit of both clients
QUEUED_BYTES = 64 * 1024 * 1024
STILL_S = 1.5  # the sender is blocked if no record was accepted for this long
PATIENCE_S = 40.0  # less than the 60 s after which an unacknowledged record fails


@pytest.fixture
def kafka(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalKafkaStatus]:
    """Start a separate Kafka, whose process will be suspended."""
    local = LocalKafka(tmp_path / "kafka", port=0)
    try:
        running = local.up()
    except DriftlineError as error:
        without_kafka(request.config, str(error))
    yield running
    os.kill(running.pid, signal.SIGCONT)
    local.down()


def wait_until_it_waits(taken: Callable[[], int]) -> int:
    """Return how many records were accepted, once no more are accepted."""
    deadline = time.monotonic() + PATIENCE_S
    known, since = taken(), time.monotonic()
    while time.monotonic() - since < STILL_S:
        assert time.monotonic() < deadline, "it goes on taking records"
        time.sleep(0.05)
        if (now := taken()) > known:
            known, since = now, time.monotonic()
    return known


@pytest.mark.parametrize("client", ["librdkafka", "kafka-python"])
def test_a_stopped_broker_blocks_the_sender_and_no_record_is_lost(
    kafka: LocalKafkaStatus, client: Client
) -> None:
    broker = connect(client, kafka.bootstrap_servers)
    admin, producer, consumer = broker.admin(), broker.producer(), broker.consumer()
    admin.create([NewTopic("t", 1)])
    producer.send_batch(OutgoingBatch("t", 0, [None], [b"first"]))
    producer.flush()
    taken = 0

    def send() -> None:
        nonlocal taken
        for number in range(RECORDS):
            value = b"%06d" % number + bytes(RECORD_BYTES - 6)
            producer.send_batch(OutgoingBatch("t", 0, [None], [value]))
            taken += 1

    sender = threading.Thread(target=send)
    os.kill(kafka.pid, signal.SIGSTOP)
    sender.start()
    most = wait_until_it_waits(lambda: taken)
    os.kill(kafka.pid, signal.SIGCONT)
    sender.join(PATIENCE_S)
    producer.flush()
    assert most * RECORD_BYTES <= QUEUED_BYTES + RECORD_BYTES
    consumer.assign({TopicPartition("t", 0): 1})
    read: list[bytes] = []
    while len(read) < RECORDS and (batch := consumer.poll(max_records=50, timeout_s=PATIENCE_S)):
        read += [(message.value or b"")[:6] for message in batch]
    assert read == [b"%06d" % number for number in range(RECORDS)]
    for each in (admin, producer, consumer):
        each.close()
