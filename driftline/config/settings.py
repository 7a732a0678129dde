"""Read this process's settings, such as its broker and its folders, from environment variables.

Input: environment variables. Output: `Settings`, with defaults filled in. A stream file is the same
on every machine; the settings depend on the machine.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from driftline.config.environment import client_properties, folder, servers, store_url
from driftline.config.stream_sections import Client
from driftline.errors import SettingsError

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


class Settings(msgspec.Struct, frozen=True):
    """One process's settings. Each field's comment gives the field's environment variable."""

    home: Path  # DRIFTLINE_HOME: folder for runs, models, keys, local broker; default: .driftline
    bootstrap_servers: str  # KAFKA_BOOTSTRAP_SERVERS
    client: Client  # DRIFTLINE_CLIENT: kafka-python or librdkafka; default: librdkafka if installed
    # Kafka client properties from KAFKA_<PROPERTY>, such as KAFKA_SASL_USERNAME, or from the file
    # whose path is in KAFKA_<PROPERTY>_FILE. `str` shows only the names of the properties.
    properties: Mapping[str, str]
    model_store: str  # DRIFTLINE_MODEL_STORE: folder or fsspec URL
    log_level: LogLevel = "info"  # DRIFTLINE_LOG_LEVEL: log level of services
    log_format: LogFormat = "text"  # DRIFTLINE_LOG_FORMAT: log format of services

    @property
    def keys(self) -> Path:
        """Return the folder that contains the signing key and the trusted public keys."""
        return self.home / "keys"

    @property
    def runs(self) -> Path:
        """Return the folder that contains each run's topics and report."""
        return self.home / "runs"

    @property
    def broker(self) -> Path:
        """Return the folder that contains the local Kafka broker's files."""
        return self.home / "kafka"

    @property
    def services(self) -> Path:
        """Return the folder that contains the services' state files and logs."""
        return self.home / "services"

    @property
    def local_broker(self) -> str:
        """Return the address of the Kafka broker that `driftline broker up` starts.

        The port comes from the file `port` in the broker's folder, or is 9092 if that file does not
        exist. Raises SettingsError.
        """
        port = self.broker / "port"
        try:
            number = int(port.read_text(encoding="utf-8")) if port.exists() else 9092
        except ValueError as error:
            raise SettingsError(
                f"{port} contains no port number: {error}", hint="delete it"
            ) from error
        return f"127.0.0.1:{number}"


def load_settings(
    environment: Mapping[str, str] | None = None, *, bootstrap_servers: str | None = None
) -> Settings:
    """Read the settings from the environment. Raises SettingsError.

    `bootstrap_servers` is the value of the option `-b`, which overrides the environment.

    >>> load_settings({"KAFKA_SASL_USERNAME": "ada"}).properties
    Properties(sasl.username)
    """
    env = os.environ if environment is None else environment
    home = folder(env.get("DRIFTLINE_HOME") or ".driftline", "DRIFTLINE_HOME")
    client = _one_of("DRIFTLINE_CLIENT", env, Client, _quickest_client())
    if bootstrap_servers:
        addresses = servers(bootstrap_servers, "--bootstrap-server")
    else:
        found = env.get("KAFKA_BOOTSTRAP_SERVERS") or "local"
        addresses = servers(found, "KAFKA_BOOTSTRAP_SERVERS")
    store = env.get("DRIFTLINE_MODEL_STORE") or str(home / "models")
    settings = Settings(
        home=home,
        bootstrap_servers=addresses,
        client=client,  # type: ignore[arg-type]
        properties=client_properties(env),
        model_store=store_url(store, "DRIFTLINE_MODEL_STORE"),
        log_level=_one_of("DRIFTLINE_LOG_LEVEL", env, LogLevel, "info"),  # type: ignore[arg-type]
        log_format=_one_of("DRIFTLINE_LOG_FORMAT", env, LogFormat, "text"),  # type: ignore[arg-type]
    )
    if addresses == "local":
        settings = msgspec.structs.replace(settings, bootstrap_servers=settings.local_broker)
    return settings


def _one_of(name: str, env: Mapping[str, str], kind: object, default: str) -> str:
    value = (env.get(name) or default).lower()
    if value not in get_args(kind):
        raise SettingsError(
            f"{name} is {env[name]!r}", hint=f"expected one of {', '.join(get_args(kind))}"
        )
    return value


def _quickest_client() -> str:
    from importlib.util import find_spec

    return "librdkafka" if find_spec("confluent_kafka") else "kafka-python"
