"""Connect to a broker through one of three clients, behind the interface of `broker.port`.

Input: the client, addresses, properties. Output: a `Broker`. No client is imported before its use.
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
    """Return a broker that uses the named client. No connection is made yet.

    Raises SettingsError for a wrong name or property, MissingExtra if confluent-kafka is missing.

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
    raise SettingsError(
        f"there is no client {client!r}", hint="use memory, kafka-python or librdkafka"
    )
