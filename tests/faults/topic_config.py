"""Change a topic during a run: override a setting for a time, or delete unread records."""

from collections.abc import Mapping
from types import TracebackType

from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.faults.site import Site

_ANSWER_TIMEOUT_S = 30.0


class Override:
    """Override a setting of a topic until the `with` block ends."""

    def __init__(self, site: Site, topic: str, name: str, value: str) -> None:
        self._admin = admin_of(site)
        self._topic = topic
        self._name = name
        self._value = value
        planned = next(each for each in site.topics.plan() if each.name == topic)
        self._before = planned.config[name]

    def __enter__(self) -> None:
        self._set(self._value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._set(self._before)

    def _set(self, value: str) -> None:
        entry = ConfigEntry(self._name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, self._topic, incremental_configs=[entry])
        for done in self._admin.incremental_alter_configs([resource]).values():
            done.result(_ANSWER_TIMEOUT_S)


def delete_before(site: Site, topic: str, offsets: Mapping[int, int]) -> None:
    """Delete all records before these offsets, as retention does."""
    wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    admin = admin_of(site)  # responses arrive only while it exists
    for done in admin.delete_records(wanted).values():
        done.result(_ANSWER_TIMEOUT_S)


def admin_of(site: Site) -> AdminClient:
    """Return an admin client for the harness."""
    return AdminClient({"bootstrap.servers": site.servers, "log_level": 2})
