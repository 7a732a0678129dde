"""Differences between topics and plan: keeping more is a warning, all else is an error."""

import logging
import threading
from collections.abc import Mapping

import msgspec
import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import NewTopic
from driftline.config.spans import Span
from driftline.errors import TopicMismatch
from driftline.wire.topics import MAX_RECORD_BYTES, Topics, apply, differences, require
from driftline_app.service_process import await_topics
from tests.world import STREAM

TOPICS = Topics(STREAM)
DAY_MS = 86_400_000
KEPT = {
    "retention.ms": str(30 * DAY_MS),
    "cleanup.policy": "delete",
    "max.message.bytes": str(MAX_RECORD_BYTES),
}
COMPACTED = {"cleanup.policy": "compact", "max.message.bytes": str(MAX_RECORD_BYTES)}


def recreated(name: str, config: Mapping[str, str], partitions: int | None = None) -> MemoryBroker:
    """Return a broker with all planned topics, of which one was recreated with other settings."""
    broker = MemoryBroker()
    admin = broker.admin()
    apply(admin, TOPICS)
    planned = admin.describe([name])[name].partitions
    admin.delete([name])
    admin.create([NewTopic(name, partitions or planned, 1, config)])
    return broker


MORE = [
    (TOPICS.features, KEPT | {"retention.ms": "-1"}),
    (TOPICS.features, KEPT | {"retention.ms": str(31 * DAY_MS)}),
    (TOPICS.outcomes, KEPT | {"max.message.bytes": str(MAX_RECORD_BYTES + 1)}),
    (TOPICS.models, COMPACTED | {"max.message.bytes": str(2 * MAX_RECORD_BYTES)}),
    (TOPICS.labels, KEPT | {"retention.ms": "-1", "max.message.bytes": "2000000"}),
]
WRONG = [
    (TOPICS.features, KEPT | {"retention.ms": str(7 * DAY_MS)}),
    (TOPICS.features, KEPT | {"retention.ms": "0"}),
    (TOPICS.drift, KEPT),  # by the plan, its records are kept for ever
    (TOPICS.features, KEPT | {"retention.ms": "unreadable"}),
    (TOPICS.features, KEPT | {"max.message.bytes": str(MAX_RECORD_BYTES - 1)}),
    # Kafka's default is too small for a dead letter, which contains a record and a reason.
    (TOPICS.deadletters, KEPT),
    (TOPICS.features, KEPT | {"cleanup.policy": "compact"}),
    (TOPICS.features, KEPT | {"cleanup.policy": "compact,delete"}),
    (TOPICS.models, COMPACTED | {"cleanup.policy": "delete"}),
]


@pytest.mark.parametrize(("name", "config"), MORE)
def test_a_topic_that_keeps_or_accepts_more_than_planned_may_be_used(
    name: str, config: Mapping[str, str]
) -> None:
    admin = recreated(name, config).admin()
    found = differences(admin, TOPICS)

    assert found
    assert all(difference.keeps_more for difference in found)
    assert require(admin, TOPICS) == found


@pytest.mark.parametrize(("name", "config"), WRONG)
def test_a_topic_that_keeps_or_accepts_less_than_planned_is_rejected(
    name: str, config: Mapping[str, str]
) -> None:
    admin = recreated(name, config).admin()

    assert [difference.keeps_more for difference in differences(admin, TOPICS)] == [False]
    with pytest.raises(TopicMismatch, match=f"{name}: "):
        require(admin, TOPICS)


@pytest.mark.parametrize("partitions", [1, 64])
def test_another_number_of_partitions_is_rejected(partitions: int) -> None:
    # Even more partitions are wrong: labels would no longer be in the partitions of their records.
    admin = recreated(TOPICS.features, KEPT, partitions).admin()

    with pytest.raises(TopicMismatch, match=f"partitions is {partitions}, planned"):
        require(admin, TOPICS)


def test_the_error_does_not_mention_settings_that_only_keep_more() -> None:
    config = KEPT | {"retention.ms": "-1", "cleanup.policy": "compact"}

    with pytest.raises(TopicMismatch) as raised:
        require(recreated(TOPICS.features, config).admin(), TOPICS)

    assert raised.value.message == "s.features: cleanup.policy is compact, planned delete"


def test_a_finite_retention_is_an_error_if_the_stream_file_keeps_records_for_ever() -> None:
    kafka = msgspec.structs.replace(STREAM.kafka, retention=None)
    topics = Topics(msgspec.structs.replace(STREAM, kafka=kafka))
    admin = MemoryBroker().admin()
    apply(admin, TOPICS)  # 30 days

    with pytest.raises(TopicMismatch, match=r"retention\.ms is 2592000000, planned -1"):
        require(admin, topics)


def test_a_shorter_retention_in_the_stream_file_is_a_warning() -> None:
    kafka = msgspec.structs.replace(STREAM.kafka, retention=Span.parse("7d"))
    topics = Topics(msgspec.structs.replace(STREAM, kafka=kafka))
    admin = MemoryBroker().admin()
    apply(admin, TOPICS)

    assert {difference.what for difference in require(admin, topics)} == {"retention.ms"}


def test_a_service_starts_on_a_topic_that_keeps_more_and_logs_this_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = recreated(TOPICS.features, KEPT | {"retention.ms": "-1"})
    with caplog.at_level(logging.WARNING):
        await_topics(broker, TOPICS, "inference", threading.Event(), lambda _: None)

    assert caplog.messages == [
        "s.features: retention.ms is -1, planned 2592000000: more than planned, which is allowed"
    ]


def test_a_service_does_not_start_on_a_topic_with_a_too_short_retention() -> None:
    broker = recreated(TOPICS.features, KEPT | {"retention.ms": "1000"})

    with pytest.raises(TopicMismatch, match=r"retention\.ms is 1000"):
        await_topics(broker, TOPICS, "inference", threading.Event(), lambda _: None)
