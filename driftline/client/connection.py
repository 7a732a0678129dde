"""Turn an application's stream file path and broker address into a `Stream` and a `Broker`.

Input: a path or a stream, and an address or a broker. Output: the stream and the broker. This
module does not connect to the broker.
"""

from pathlib import Path

from driftline.broker import connect
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker
from driftline.config.settings import load_settings
from driftline.config.stream import Stream, load
from driftline.wire.topics import Topics


def as_stream(stream: Stream | str | Path) -> Stream:
    """Return a stream unchanged, or load a stream file. Raises StreamFileError."""
    return stream if isinstance(stream, Stream) else load(stream)


def as_broker(broker: Broker | str) -> Broker:
    """Return a broker unchanged, or create one for the address `"host:port"` or `"local"`.

    The client library and its properties come from the environment. `"local"` is the broker that
    `driftline broker up` starts. Raises SettingsError.
    """
    if not isinstance(broker, str):
        return broker
    settings = load_settings(bootstrap_servers=broker)
    return connect(settings.client, settings.bootstrap_servers, settings.properties)


def memory_broker(stream: Stream | str | Path) -> Broker:
    """Return an in-memory broker with a stream's topics, for an application's tests.

    Pass this broker to functions that expect a broker address. The broker exists only in this
    process. Raises StreamFileError.
    """
    broker = MemoryBroker()
    broker.admin().create(Topics(as_stream(stream)).creation())
    return broker
