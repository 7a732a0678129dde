"""The kafka-python adapter ends a wait for a broker that is gone; the client would wait forever."""

import threading
from collections.abc import Iterator

import pytest

from driftline.broker.kafka_python_producer import KafkaPythonProducer
from driftline.broker.limits import TopicLimits
from driftline.broker.port import TopicInfo
from driftline.errors import BrokerUnavailable


class SilentClient:
    """A client whose broker has stopped responding after the start of a transaction."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.asked: list[str] = []

    def init_transactions(self) -> None: ...

    def begin_transaction(self) -> None: ...

    def flush(self, timeout: float) -> None: ...

    def close(self, timeout: float) -> None:
        self.asked.append("close")

    def commit_transaction(self) -> None:
        self.asked.append("commit")
        self.back.wait()

    def abort_transaction(self) -> None:
        self.asked.append("abort")
        self.back.wait()


@pytest.fixture
def client() -> Iterator[SilentClient]:
    silent = SilentClient()
    yield silent
    silent.back.set()


@pytest.fixture
def producer(client: SilentClient) -> KafkaPythonProducer:
    limits = TopicLimits(lambda topic: TopicInfo(topic, 1, {}))
    made = KafkaPythonProducer(client, "s.outcomes-0", limits, answer_timeout_s=0.05)
    made.begin()
    return made


def test_a_commit_without_a_response_fails_and_explains_its_unknown_result(
    producer: KafkaPythonProducer,
) -> None:
    with pytest.raises(BrokerUnavailable, match=r"cannot commit for 's.outcomes-0'") as raised:
        producer.commit()
    assert "committed offsets" in raised.value.hint


def test_no_request_is_sent_after_a_commit_without_a_response(
    producer: KafkaPythonProducer, client: SilentClient
) -> None:
    with pytest.raises(BrokerUnavailable):
        producer.commit()

    producer.close()

    assert client.asked == ["commit", "close"]


def test_an_abort_without_a_response_does_not_prevent_close(
    producer: KafkaPythonProducer, client: SilentClient
) -> None:
    producer.close()

    assert client.asked == ["abort", "close"]
