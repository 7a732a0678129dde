"""Create, delete and describe Kafka topics, and describe consumer groups, with librdkafka.

Input: topic and group names. Output: topic settings, offsets, checkpoints and member counts.
Internal topics are never listed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from driftline.broker.bounded import end_elsewhere
from driftline.broker.librdkafka_values import (
    READ_TIMEOUT_S,
    ck,
    ck_admin,
    committed_of,
    translated,
)
from driftline.broker.limits import unknown_topic, wait_until
from driftline.broker.port import Committed, NewTopic, OffsetRange, TopicInfo, TopicPartition
from driftline.errors import BrokerError

_URL_SAFE = str.maketrans("+/", "-_")
# Longer than the client's own limits, which are 60 s at most.
_LONGEST_ANSWER_S = 75.0


class LibrdkafkaAdmin:
    """Implement `port.Admin` with a confluent_kafka.admin.AdminClient.

    `consumer` creates a consumer that reads a group's offsets.
    """

    def __init__(self, client: Any, consumer: Callable[[str], Any]) -> None:
        self._client = client
        self._consumer = consumer

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        counts = self._partitions(topics)
        if not counts:
            return {}
        with translated("describe topics"):
            answers = self._client.describe_configs(
                [ck_admin.ConfigResource(ck_admin.ResourceType.TOPIC, name) for name in counts],
                request_timeout=READ_TIMEOUT_S,
            )
            result = {}
            for resource, answer in answers.items():
                try:
                    entries = _result(answer)
                except ck.KafkaException as error:
                    if error.args[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                        continue  # the topic was deleted after it was listed
                    raise
                name = resource.name
                config = {key: entry.value or "" for key, entry in entries.items()}
                result[name] = TopicInfo(name, counts[name], config)
            return result

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        names = list(topics)
        if not names:
            return {}
        result = {}
        with translated("describe topics"):
            for name, answer in self._described(names):
                try:
                    # The client returns standard base64, but Kafka uses the URL-safe variant.
                    result[name] = str(_result(answer).topic_id).translate(_URL_SAFE)
                except ck.KafkaException as error:
                    if error.args[0].code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise
        return result

    def create(self, topics: Iterable[NewTopic]) -> None:
        wanted = {topic.name: topic for topic in topics}
        if not wanted:
            return
        answers = self._client.create_topics(
            [
                ck_admin.NewTopic(
                    topic.name,
                    num_partitions=topic.partitions,
                    replication_factor=topic.replication_factor,
                    config=dict(topic.config),
                )
                for topic in wanted.values()
            ]
        )
        for name, answer in answers.items():
            with translated(f"create topic {name!r}"):
                _result(answer)
        wait_until(lambda: self._have_leaders(wanted), f"topics {sorted(wanted)} have no leaders")

    def delete(self, topics: Iterable[str]) -> None:
        names = list(topics)
        if not names:
            return
        for name, answer in self._client.delete_topics(names).items():
            with translated(f"delete topic {name!r}"):
                try:
                    _result(answer)
                except ck.KafkaException as error:
                    if error.args[0].code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise
        wait_until(lambda: not self._partitions(names), f"topics {names} still exist")

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        found: dict[TopicPartition, OffsetRange] = {}

        def listed() -> bool:
            try:
                found.update(self._offsets(topic))
            except ck.KafkaException as error:
                # A newly elected leader may not know yet that it is the leader.
                if error.args[0].code() != ck.KafkaError.NOT_LEADER_FOR_PARTITION:
                    raise
                return False
            return True

        with translated("list offsets"):
            wait_until(listed, f"partitions of topic {topic} have no leaders")
        return found

    def _offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        count = self._partitions([topic]).get(topic)
        if count is None:
            raise unknown_topic(topic)
        starts, ends = (
            self._client.list_offsets(
                {ck.TopicPartition(topic, number): spec for number in range(count)},
                isolation_level=ck.IsolationLevel.READ_COMMITTED,
                request_timeout=READ_TIMEOUT_S,
            )
            for spec in (ck_admin.OffsetSpec.earliest(), ck_admin.OffsetSpec.latest())
        )
        return {
            TopicPartition(topic, at.partition): OffsetRange(
                _result(starts[at]).offset, _result(ends[at]).offset
            )
            for at in starts
        }

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        partitions = [
            ck.TopicPartition(topic, number)
            for topic, count in self._partitions(None).items()
            for number in range(count)
        ]
        if not partitions:
            return {}
        # Do not use the admin client here. Its request causes a segmentation fault when the group's
        # coordinator moves (librdkafka 2.16, confluent-kafka-javascript#374).
        client = self._consumer(group)
        try:
            with translated("list group offsets"):
                return committed_of(client.committed(partitions, timeout=READ_TIMEOUT_S))
        finally:
            client.close()

    def group_members(self, group: str) -> int:
        try:
            with translated("describe the group"):
                found = self._client.describe_consumer_groups(
                    [group], request_timeout=READ_TIMEOUT_S
                )[group]
                return len(_result(found).members)
        except BrokerError as error:
            if _is(error, ck.KafkaError.GROUP_ID_NOT_FOUND):
                return 0
            raise

    def close(self) -> None:
        """Free the client. Drop the reference to it here, because after a failed request, a cycle
        of the request's future and its exception keeps this object alive."""
        client, self._client = self._client, None
        if client is not None:
            end_elsewhere(client, after_s=0.0)

    def _partitions(self, topics: Iterable[str] | None) -> dict[str, int]:
        """Return the partition counts of these topics, or of all topics if `topics` is None.

        Omit unknown and internal topics.
        """
        wanted = None if topics is None else set(topics)
        with translated("list topics"):
            found = self._client.list_topics(timeout=READ_TIMEOUT_S).topics
        if wanted is not None:
            self._check_allowed(sorted(wanted - set(found)))
        return {
            name: len(topic.partitions)
            for name, topic in sorted(found.items())
            if topic.error is None
            and not name.startswith("__")
            and (wanted is None or name in wanted)
        }

    def _described(self, topics: list[str]) -> Iterable[tuple[str, Any]]:
        """Describe topics. Return each topic's name and a future of its description."""
        found = self._client.describe_topics(
            ck.TopicCollection(topics), request_timeout=READ_TIMEOUT_S
        )
        return list(found.items())

    def _check_allowed(self, topics: list[str]) -> None:
        """Raise AccessDenied if the broker hides one of these topics because an ACL is missing."""
        if not topics:
            return
        # Only a request that names a topic reveals whether the topic is hidden or does not exist.
        for name, answer in self._described(topics):
            with translated(f"describe topic {name!r}"):
                try:
                    _result(answer)
                except ck.KafkaException as error:
                    if error.args[0].code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise

    def _have_leaders(self, topics: Mapping[str, NewTopic]) -> bool:
        found = self._client.list_topics(timeout=READ_TIMEOUT_S).topics
        return all(
            name in found
            and len(found[name].partitions) == topic.partitions
            and all(partition.leader >= 0 for partition in found[name].partitions.values())
            for name, topic in topics.items()
        )


def _result(answer: Any) -> Any:
    """Wait for a future of the client. Raises KafkaException, or TimeoutError if the client has
    lost the request."""
    return answer.result(_LONGEST_ANSWER_S)


def _is(error: BrokerError, code: int) -> bool:
    cause = error.__cause__
    return isinstance(cause, ck.KafkaException) and cause.args[0].code() == code
