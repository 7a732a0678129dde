"""Where this installation keeps things and which broker it talks to: environment, then defaults.

The stream file says what a stream is, for everybody; settings say where this process runs.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec

from driftline.errors import SettingsError
from driftline.stream import Client

LOCAL_BROKER = "127.0.0.1:9092"


class Settings(msgspec.Struct, frozen=True):
    """Settings of one process. Environment variables are named beside each."""

    home: Path  # DRIFTLINE_HOME: runs, models, keys, local broker; default .driftline
    bootstrap_servers: str  # KAFKA_BOOTSTRAP_SERVERS
    client: (
        Client  # DRIFTLINE_CLIENT: kafka-python or librdkafka; default the quicker one installed
    )
    properties: Mapping[str, str]  # KAFKA_<PROPERTY>: client properties such as KAFKA_SASL_USERNAME
    model_store: str  # DRIFTLINE_MODEL_STORE: folder or fsspec URL

    @property
    def keys(self) -> Path:
        """Folder of the signing key and of the trusted public keys."""
        return self.home / "keys"

    @property
    def runs(self) -> Path:
        """Folder of the runs' topics and reports."""
        return self.home / "runs"

    @property
    def broker(self) -> Path:
        """Folder of the local Apache Kafka."""
        return self.home / "kafka"

    @property
    def services(self) -> Path:
        """Folder of the states and logs of services started with `up`."""
        return self.home / "services"


_NOT_PROPERTIES = {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_HOME", "KAFKA_HEAP_OPTS", "KAFKA_OPTS"}


def load_settings(
    environment: Mapping[str, str] | None = None, *, bootstrap_servers: str | None = None
) -> Settings:
    """Read the environment; `bootstrap_servers` (the flag `-b`) wins over it.

    Raises SettingsError.

    >>> load_settings({"KAFKA_SASL_USERNAME": "ada"}).properties
    {'sasl.username': 'ada'}
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("DRIFTLINE_HOME", ".driftline"))
    client = env.get("DRIFTLINE_CLIENT") or _quickest_client()
    if client not in get_args(Client):
        raise SettingsError(
            f"DRIFTLINE_CLIENT is {client!r}", hint=f"expected one of {', '.join(get_args(Client))}"
        )
    servers = bootstrap_servers or env.get("KAFKA_BOOTSTRAP_SERVERS") or LOCAL_BROKER
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in env.items()
        if name.startswith("KAFKA_") and name not in _NOT_PROPERTIES
    }
    return Settings(
        home=home,
        bootstrap_servers=LOCAL_BROKER if servers == "local" else servers,
        client=client,  # type: ignore[arg-type]  # checked above
        properties=properties,
        model_store=env.get("DRIFTLINE_MODEL_STORE") or str(home / "models"),
    )


def _quickest_client() -> str:
    from importlib.util import find_spec

    return "librdkafka" if find_spec("confluent_kafka") else "kafka-python"
