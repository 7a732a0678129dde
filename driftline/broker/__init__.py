"""Select the client for a broker: in-memory, kafka-python or librdkafka.

Input: the client's name, broker addresses and client properties. Output: a `Broker`, as
defined in `broker.port`. Client libraries are imported only when they are used.
"""

from collections.abc import Mapping
from typing import Literal

from driftline.broker.port import Broker
from driftline.errors import SettingsError

Client = Literal["memory", "kafka-python", "librdkafka"]


def connect(
    client: Client,
    bootstrap_servers: str = "",
    properties: Mapping[str, str] | None = None,
) -> Broker:
    """Return a broker that uses the given client, without connecting to it yet.

    Raises SettingsError for an unknown client or an invalid property, and MissingExtra if
    confluent-kafka is needed but not installed.

    >>> connect("memory").admin().describe()
    {}
    """
    match client:
        case "memory":
            from driftline.broker.memory import MemoryBroker

            return MemoryBroker()
        case "kafka-python":
            from driftline.broker.kafka_python import KafkaPythonBroker

            return KafkaPythonBroker(bootstrap_servers, properties)
        case "librdkafka":
            from driftline.broker.librdkafka import LibrdkafkaBroker

            return LibrdkafkaBroker(bootstrap_servers, properties)
    raise SettingsError(f"unknown client {client!r}", hint="use memory, kafka-python or librdkafka")
