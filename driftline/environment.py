"""Client properties and paths from environment variables, checked where they are read.

In: the environment. Out: `Properties` for the Kafka client, servers, paths. Secrets may come from
files (`KAFKA_SASL_PASSWORD_FILE`). No error quotes the value of a client property.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from driftline.broker.properties import Properties
from driftline.errors import SettingsError

_NOT_PROPERTIES = {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_HOME", "KAFKA_HEAP_OPTS", "KAFKA_OPTS"}
# Kubernetes sets these in every container for each service of the namespace whose name begins with
# `kafka`. No client property has such a name.
_KUBERNETES = ("*_SERVICE_HOST", "*_SERVICE_PORT*", "*_PORT", "*_PORT_*")
# Properties of librdkafka that name a file themselves; all other `…_FILE` hold a property's value.
_FILE_PROPERTIES = {
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_JWT_TEMPLATE_FILE",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE",
}
_FILE = "_FILE"
_SERVER = re.compile(r"([A-Za-z_]+://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+)(:(?P<port>[0-9]{1,5}))?")


def client_properties(environment: Mapping[str, str]) -> Properties:
    """The Kafka client's properties: `KAFKA_SASL_USERNAME` sets `sasl.username`.

    `KAFKA_SASL_PASSWORD_FILE` names a file that holds the password. Names that Kubernetes injects
    are ignored. Raises SettingsError for a file that cannot be read, or a property set twice.

    >>> dict(client_properties({"KAFKA_SASL_USERNAME": "ada", "KAFKA_PORT": "tcp://10.0.0.1"}))
    {'sasl.username': 'ada'}
    """
    result = {}
    for name, value in environment.items():
        if not name.startswith("KAFKA_") or name in _NOT_PROPERTIES:
            continue
        if any(fnmatchcase(name, pattern) for pattern in _KUBERNETES):
            continue
        if name.endswith(_FILE) and name not in _FILE_PROPERTIES:
            direct = name.removesuffix(_FILE)
            if environment.get(direct):
                raise SettingsError(f"{direct} and {name} are both set", hint="keep one of them")
            name, value = direct, _read_secret(name, value)
        elif environment.get(name + _FILE) is not None:
            continue  # empty: the file has the value
        result[_property(name)] = value
    return Properties(result)


def servers(text: str, where: str) -> str:
    """Addresses of brokers as `HOST:PORT,HOST:PORT`, checked. `where` is what set them.

    >>> servers(" kafka-1:9092, [::1]:9093", "-b")
    'kafka-1:9092,[::1]:9093'
    """
    found = [part.strip() for part in text.split(",")]
    for part in found:
        match = _SERVER.fullmatch(part)
        port = match and match["port"]
        if match is None or (port is not None and not 0 < int(port) < 65_536):
            shown = part.rpartition("@")[2]  # not a password before it
            raise SettingsError(
                f"{where}: {shown!r} is not an address",
                hint="expected HOST:PORT, or several separated by commas",
            )
    return ",".join(found)


def folder(text: str, where: str) -> Path:
    """A path that is a folder or does not exist yet. `where` is the variable that names it."""
    path = Path(_printable(text, where))
    try:
        usable = path.is_dir() or not path.exists()
    except OSError as error:
        raise SettingsError(f"{where} is {text!r}: {error.strerror}") from error
    if not usable:
        raise SettingsError(f"{where} is {text!r}, which is a file", hint="name a folder")
    return path


def store_url(text: str, where: str) -> str:
    """A folder or URL of the model store. Announcements publish it, so it may hold no password.

    `where` is the variable that names it.
    """
    _printable(text, where)
    try:
        secret = "://" in text and urlsplit(text).password is not None
    except ValueError as error:
        raise SettingsError(f"{where} is not a URL: {error}") from error
    if secret:
        raise SettingsError(
            f"{where} holds a password, and announcements of models would publish it",
            hint="give the credentials to the store's driver in its own variables, such as "
            "AWS_SECRET_ACCESS_KEY",
        )
    return text


def _property(name: str) -> str:
    return name.removeprefix("KAFKA_").lower().replace("_", ".")


def _printable(text: str, where: str) -> str:
    if not text.isprintable():
        raise SettingsError(
            f"{where} is {text!r}, which has characters that cannot be printed",
            hint="a line break at its end is the most frequent cause",
        )
    return text


def _read_secret(name: str, path: str) -> str:
    try:
        text = Path(_printable(path, name)).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{name} is {path!r}: {error.strerror}",
            hint="the file must exist, and this process's user must be allowed to read it",
        ) from error
    except UnicodeDecodeError as error:
        # Not `from`: the error holds the bytes.
        raise SettingsError(
            f"{name} is {path!r}, which is not UTF-8 at byte {error.start}"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SettingsError(f"{name} is {path!r}, which is empty")
    return text
