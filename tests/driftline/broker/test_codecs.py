"""Both Kafka clients read compressed batches, and name what is missing if they cannot."""

import uuid
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import kafka.codec
import pytest
from kafka.errors import UnsupportedCodecError

from driftline.broker import connect
from driftline.broker.kafka_python_consumer import KafkaPythonConsumer
from driftline.broker.librdkafka_records import records_of
from driftline.broker.librdkafka_values import ck
from driftline.broker.limits import TopicLimits
from driftline.broker.port import Broker, Consumer, Message, NewTopic, Outgoing, TopicPartition
from driftline.broker.scan import ranges, scan
from driftline.config.stream_sections import Client
from driftline.errors import UnsupportedCodec

CODECS = ("gzip", "snappy", "lz4", "zstd")
CLIENTS: tuple[Client, ...] = ("kafka-python", "librdkafka")
# Repetitive and larger than a block of the codecs, so that the clients do compress it.
VALUES = [b"%d " % number * 500 for number in range(100)]

MakeTopic = Callable[..., str]


@pytest.fixture
def make_topic(kafka_bootstrap: str, topic_name: Callable[[], str]) -> MakeTopic:
    """Return a function that creates a topic whose batches `writer` compresses with `codec`."""

    def make(codec: str, writer: Client | None = None) -> str:
        name = topic_name()
        # Without a client, the broker compresses, with the codecs that Java clients have.
        config = {} if writer else {"compression.type": codec}
        properties = {"compression.type": codec} if writer else {}
        broker = connect(writer or "librdkafka", kafka_bootstrap, properties)
        admin, producer = broker.admin(), broker.producer()
        admin.create([NewTopic(name, 1, config=config)])
        for value in VALUES:
            producer.send(Outgoing(name, value, partition=0))
        producer.flush()
        producer.close()
        admin.close()
        return name

    return make


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make kafka-python believe that zstandard is not installed."""
    monkeypatch.setattr(kafka.codec, "zstd", None)


def read(broker: Broker, topic: str) -> list[bytes | None]:
    return [message.value for batch in scan(broker, ranges(broker, [topic])) for message in batch]


@pytest.mark.kafka
@pytest.mark.parametrize("reads", CLIENTS)
@pytest.mark.parametrize("writes", [*CLIENTS, None])
@pytest.mark.parametrize("codec", CODECS)
def test_compressed_records_are_read(
    codec: str,
    writes: Client | None,
    reads: Client,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
) -> None:
    assert read(connect(reads, kafka_bootstrap), make_topic(codec, writes)) == VALUES


def polled(consumer: Consumer) -> Sequence[Message]:
    """Return the first records."""
    while not (found := consumer.poll(max_records=10, timeout_s=1)):
        pass
    return found


@pytest.mark.kafka
@pytest.mark.usefixtures("without_zstd")
@pytest.mark.parametrize("is_member", [False, True])
def test_kafka_python_names_the_missing_package_and_the_records(
    is_member: bool, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic("zstd", "librdkafka")
    consumer = connect("kafka-python", kafka_bootstrap).consumer(
        f"group-{uuid.uuid4().hex[:12]}" if is_member else None
    )
    if is_member:
        consumer.subscribe([topic], assigned=lambda _: None, revoked=lambda _: None)
    else:
        consumer.assign({TopicPartition(topic, 0): 0})
    with pytest.raises(UnsupportedCodec) as raised:
        polled(consumer)
    consumer.abandon()

    expected = f"cannot read {topic}[0]@0 with zstd compression: zstandard is not installed"
    assert raised.value.message == expected
    assert raised.value.hint == "pip install zstandard"


@pytest.mark.kafka
@pytest.mark.usefixtures("without_zstd")
def test_kafka_python_names_the_missing_package_for_writing(kafka_bootstrap: str) -> None:
    broker = connect("kafka-python", kafka_bootstrap, {"compression.type": "zstd"})
    with pytest.raises(UnsupportedCodec, match="cannot write with zstd compression") as raised:
        broker.producer()
    assert raised.value.hint == "pip install zstandard"


def test_an_unknown_codec_is_not_an_outage_for_kafka_python() -> None:
    class Reader:
        _fetcher = SimpleNamespace(
            _paused_partition_records={},
            _next_partition_records=SimpleNamespace(topic_partition=("in", 1), next_fetch_offset=7),
        )

        def paused(self) -> set[TopicPartition]:
            return set()

        def poll(self, **_: object) -> None:
            raise UnsupportedCodecError("Unrecognized compression type: 5")

    consumer = KafkaPythonConsumer(Reader(), TopicLimits(lambda _: None))
    with pytest.raises(UnsupportedCodec, match=r"cannot read in\[1\]@7: .* type: 5") as raised:
        consumer.poll(max_records=1, timeout_s=0)
    assert "librdkafka" in raised.value.hint


def test_a_codec_that_librdkafka_was_built_without_is_not_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Notice:
        def error(self) -> object:
            return ck.KafkaError(ck.KafkaError._NOT_IMPLEMENTED, "Decompression (codec 0x4) failed")

        def topic(self) -> str:
            return "in"

        def partition(self) -> int:
            return 1

    monkeypatch.setattr(ck, "Message", Notice)
    with pytest.raises(UnsupportedCodec, match=r"cannot read in\[1\]: .*codec 0x4") as raised:
        records_of([Notice()], "group")
    assert "kafka-python" in raised.value.hint
