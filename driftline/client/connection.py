"""Convert the stream file and the address that an application names to a `Stream` and a `Broker`.

Input: a path or a stream, an address or a broker. Output: the stream, the broker. It connects to
nothing itself; the clients of the broker do.
"""

from pathlib import Path

from driftline.broker import connect
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker
from driftline.config.settings import load_settings
from driftline.config.stream import Stream, load
from driftline.wire.topics import Topics


def as_stream(stream: Stream | str | Path) -> Stream:
    """Return the stream itself, or load the stream file. Raises StreamFileError."""
    return stream if isinstance(stream, Stream) else load(stream)


def as_broker(broker: Broker | str) -> Broker:
    """Return the broker itself, or a broker for `"host:port"`, or for `"local"`.

    The client library and its properties come from the environment. "local" is the broker that
    `driftline broker up` starts. Raises SettingsError.
    """
    if not isinstance(broker, str):
        return broker
    settings = load_settings(bootstrap_servers=broker)
    return connect(settings.client, settings.bootstrap_servers, settings.properties)


def memory_broker(stream: Stream | str | Path) -> Broker:
    """Return a broker in memory that has the topics of a stream, for the tests of an application.

    Pass it instead of an address. It belongs to this process and ends with it. Raises
    StreamFileError.
    """
    broker = MemoryBroker()
    broker.admin().create(Topics(as_stream(stream)).creation())
    return broker
