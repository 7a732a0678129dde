"""Plan a stream's Kafka topics, compare the plan with the broker's topics, and create missing ones.

Input: a `Stream`. Output: the plan of its ten topics (names, keys, partitions, retention, writers,
readers), and the differences between the plan and the broker. `driftline topics apply` creates
missing topics. All other differences are only reported: as a warning if a topic merely keeps
records longer or accepts larger records than planned, otherwise as an error.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from driftline.broker.port import Admin, NewTopic
from driftline.config.stream import Stream
from driftline.errors import TopicMismatch

Role = Literal[
    "features",
    "labels",
    "predictions",
    "outcomes",
    "parts",
    "windows",
    "drift",
    "retrain",
    "models",
    "deadletters",
]
Service = Literal["inference", "outcomes", "monitor", "trainer"]
SERVICES: tuple[Service, ...] = ("inference", "outcomes", "monitor", "trainer")
# The access role for running commands such as `train`, `models promote` and `deadletters replay`.
OPERATOR: Final = "operator"

# Kafka's default for `max.message.bytes`. Driftline checks a record's size before sending it.
MAX_RECORD_BYTES = 1_048_588
# Subtracting 1024 leaves ample room for the bytes that Kafka adds to a batch of one record.
MAX_KEY_AND_VALUE_BYTES = MAX_RECORD_BYTES - 1024
# A dead letter contains a rejected record and the reason, so its topic accepts larger records.
MAX_DEAD_LETTER_BYTES = MAX_RECORD_BYTES + 65_536


class Topic(msgspec.Struct, frozen=True):
    """One topic in the plan. `key` describes the key of the topic's records, for users."""

    role: Role
    name: str
    partitions: int
    key: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    config: Mapping[str, str]


class Topics:
    """One stream's topic names, consumer groups and topic plan.

    >>> from driftline.config.stream import loads
    >>> stream = loads('''
    ... version = 1
    ... name = "iris"
    ... task = "classification"
    ... target = "species"
    ... features = { petal_width = "number" }
    ... ''')
    >>> topics = Topics(stream)
    >>> topics.features, topics.group("monitor")
    ('iris.features', 'iris.monitor')
    """

    def __init__(self, stream: Stream) -> None:
        self._base = f"{stream.kafka.topic_prefix}{stream.name}"
        self._stream = stream
        self.features = self._name("features")
        self.labels = self._name("labels")
        self.predictions = self._name("predictions")
        self.outcomes = self._name("outcomes")
        self.parts = self._name("parts")
        self.windows = self._name("windows")
        self.drift = self._name("drift")
        self.retrain = self._name("retrain")
        self.models = self._name("models")
        self.deadletters = self._name("deadletters")

    def _name(self, role: Role) -> str:
        return f"{self._base}.{role}"

    def group(self, reader: str) -> str:
        """Return the name of the consumer group for a service or another reader.

        A service's transactional ids also start with this name.
        """
        return f"{self._base}.{reader}"

    def plan(self) -> tuple[Topic, ...]:
        """Return all ten topics as they should exist on the broker."""
        kafka = self._stream.kafka
        retention_ms = (kafka.retention.us or 0) // 1000 if kafka.retention else -1
        kept = {
            "retention.ms": str(retention_ms),
            "cleanup.policy": "delete",
            "max.message.bytes": str(MAX_RECORD_BYTES),
        }
        # The decision history is small, and `trace` needs all of it.
        forever = kept | {"retention.ms": "-1"}
        compact = {"cleanup.policy": "compact", "max.message.bytes": str(MAX_RECORD_BYTES)}
        large = kept | {"max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}
        many = kafka.partitions
        key, source = f"[record] key = {self._stream.record.key}", "as its source"
        # A producer that numbers records reads the last record number from the features topic.
        readers = "inference producers" if self._stream.needs_row else "inference"
        rows: tuple[tuple[Role, int, str, str, str, Mapping[str, str]], ...] = (
            ("features", many, key, "producers operator", readers, kept),
            ("labels", many, "as features", "producers operator", "outcomes", kept),
            ("predictions", many, source, "inference", "outcomes monitor subscribers", kept),
            ("outcomes", many, source, "outcomes monitor", "monitor trainer subscribers", kept),
            ("parts", 1, "none", "monitor", "monitor", kept),
            ("windows", 1, "id of the window", "monitor", "monitor", forever),
            ("drift", 1, "id of the drift event", "monitor", "alert-consumers", forever),
            ("retrain", 1, "id of the request", "monitor operator trainer", "trainer", forever),
            (
                "models",
                1,
                "model/<digest>, role/<role>",
                "trainer operator",
                "inference trainer",
                compact,
            ),
            ("deadletters", many, source, " ".join(SERVICES), OPERATOR, large),
        )
        return tuple(
            Topic(role, self._name(role), count, key, tuple(by.split()), tuple(to.split()), config)
            for role, count, key, by, to, config in rows
        )

    def limited_by_size(self, admin: Admin) -> dict[str, int]:
        """Return `retention.bytes` for each topic whose size is limited.

        The plan limits retention only by age. If a topic does not set `retention.bytes`, the
        broker's default applies and is returned. Raises BrokerError.
        """
        names = [t.name for t in self.plan() if t.config["cleanup.policy"] == "delete"]
        found = {
            name: info.config.get("retention.bytes", "-1")
            for name, info in admin.describe(names).items()
        }
        return {name: int(limit) for name, limit in found.items() if limit.isdigit()}

    def creation(self) -> tuple[NewTopic, ...]:
        """Return the planned topics in the form that `Admin.create` expects."""
        return tuple(
            NewTopic(
                name=topic.name,
                partitions=topic.partitions,
                replication_factor=self._stream.kafka.replication_factor,
                config=topic.config,
            )
            for topic in self.plan()
        )


class TopicDifference(msgspec.Struct, frozen=True):
    """A difference between the broker and the plan. `found` is None if the topic is missing."""

    topic: str
    what: str
    planned: str
    found: str | None
    keeps_more: bool = False  # the topic merely keeps records longer or accepts larger records

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.topic} is missing"
        return f"{self.topic}: {self.what} is {self.found}, planned {self.planned}"


def differences(
    admin: Admin, topics: Topics, role: str | None = None
) -> tuple[TopicDifference, ...]:
    """Compare the plan with the broker.

    With `role`, compare only the topics that the role writes or reads. Raises BrokerError.
    """
    plan = [
        topic for topic in topics.plan() if role is None or role in (*topic.writers, *topic.readers)
    ]
    found = admin.describe([topic.name for topic in plan])
    result = []
    for topic in plan:
        if (info := found.get(topic.name)) is None:
            result.append(
                TopicDifference(topic.name, "topic", f"{topic.partitions} partitions", None)
            )
            continue
        if info.partitions != topic.partitions:
            result.append(
                TopicDifference(
                    topic.name, "partitions", str(topic.partitions), str(info.partitions)
                )
            )
        for key, planned in topic.config.items():
            value = info.config.get(key, "unset")
            if value != planned:
                more = _keeps_more(key, planned, value)
                result.append(TopicDifference(topic.name, key, planned, value, more))
    return tuple(result)


def _keeps_more(key: str, planned: str, found: str) -> bool:
    """Return whether `found` keeps records longer or accepts larger records than planned."""
    if key not in ("retention.ms", "max.message.bytes"):
        return False
    try:
        planned_number, found_number = int(planned), int(found)
    except ValueError:
        return False  # the setting is absent, or hidden from this principal
    if key == "retention.ms" and found_number == -1:
        return True
    return found_number > planned_number != -1


def apply(admin: Admin, topics: Topics) -> tuple[str, ...]:
    """Create the missing topics and return their names. Raises BrokerError."""
    found = admin.describe([topic.name for topic in topics.plan()])
    missing = [topic for topic in topics.creation() if topic.name not in found]
    if missing:
        admin.create(missing)
    return tuple(topic.name for topic in missing)


def require(
    admin: Admin, topics: Topics, *, role: str | None = None
) -> tuple[TopicDifference, ...]:
    """Check that the broker's topics match the plan.

    With `role`, check only the topics that the role writes or reads, because the role may lack the
    rights to describe other topics. Return the differences that merely make a topic keep records
    longer or accept larger records than planned. Raises TopicMismatch if there are other
    differences. Raises BrokerError.
    """
    found = differences(admin, topics, role)
    if wrong := [difference for difference in found if not difference.keeps_more]:
        raise TopicMismatch(
            "; ".join(map(str, wrong)),
            hint="`driftline topics apply` creates missing topics; "
            "change the stream file or the topic where they differ",
        )
    return found
