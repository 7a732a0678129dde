"""Read and check client properties, broker addresses and paths from environment variables.

Input: the environment. Output: `Properties` for the Kafka client, broker addresses, paths. Secrets
can be read from files (`KAFKA_SASL_PASSWORD_FILE`). Errors never quote the value of a property.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from driftline.config.client_properties import Properties
from driftline.errors import SettingsError

_NOT_PROPERTIES = {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_HOME", "KAFKA_HEAP_OPTS", "KAFKA_OPTS"}
# Kubernetes sets such variables in every container, for each service of the namespace. Those of a
# service whose name starts with `kafka` would look like client properties. No property has such a
# name.
_KUBERNETES = ("*_SERVICE_HOST", "*_SERVICE_PORT*", "*_PORT", "*_PORT_*")
# Properties of librdkafka whose value is itself a path. Any other variable `…_FILE` names a file
# that contains the value of a property.
_FILE_PROPERTIES = {
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_JWT_TEMPLATE_FILE",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE",
}
_FILE = "_FILE"
# Protocols of fsspec whose URLs are only paths, in which `@` and `?` are ordinary characters.
_LOCAL = {"file", "local"}
# Azure names the container before the account: `abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/…`.
_AZURE = re.compile(r"(abfss?|az)://[^:/?#@]+@[^:?#@]+")
_SERVER = re.compile(r"([A-Za-z_]+://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+)(:(?P<port>[0-9]{1,5}))?")


def client_properties(environment: Mapping[str, str]) -> Properties:
    """Return the properties of the Kafka client: `KAFKA_SASL_USERNAME` sets `sasl.username`.

    `KAFKA_SASL_PASSWORD_FILE` names a file that contains the password. Variables that Kubernetes
    sets are ignored. Raises SettingsError if a file is unreadable or empty, or if a property is
    set twice.

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
            continue  # the variable is empty, and the file has the value
        result[_property(name)] = value
    return Properties(result)


def servers(text: str, where: str) -> str:
    """Check addresses of brokers and return them as `HOST:PORT,HOST:PORT`.

    `where` names the source of the addresses in errors. Raises SettingsError.

    >>> servers(" kafka-1:9092, [::1]:9093", "-b")
    'kafka-1:9092,[::1]:9093'
    """
    found = [part.strip() for part in text.split(",")]
    for part in found:
        match = _SERVER.fullmatch(part)
        port = match and match["port"]
        if match is None or (port is not None and not 0 < int(port) < 65_536):
            shown = part.rpartition("@")[2]  # leave out the user and the password
            raise SettingsError(
                f"{where}: {shown!r} is not an address",
                hint="expected HOST:PORT, or several separated by commas",
            )
    return ",".join(found)


def folder(text: str, where: str) -> Path:
    """Return a path after checking that it is a folder or does not exist.

    `where` is the variable that names it. Raises SettingsError.
    """
    path = Path(_printable(text, where))
    try:
        usable = path.is_dir() or not path.exists()
    except OSError as error:
        raise SettingsError(f"{where} is {text!r}: {error.strerror}") from error
    if not usable:
        raise SettingsError(f"{where} is {text!r}, which is a file", hint="name a folder")
    return path


def store_url(text: str, where: str) -> str:
    """Check the folder or URL of the model store and return it unchanged.

    Announcements of models publish it, so no part of an fsspec chain (`simplecache::s3://…`) may
    hold credentials: a user, or a query. `where` is the variable that names it. Raises
    SettingsError, whose message does not quote a URL with credentials.
    """
    # Do not use `urlsplit`: with an unescaped `/`, `?` or `#` in a password, it finds no user.
    remote = False
    for part in text.split("::"):
        scheme, found, _ = part.partition("://")
        # A part after a remote one may be the rest of a password that contains `::`.
        remote = remote or (bool(found) and scheme.strip().lower() not in _LOCAL)
        if remote and ("@" in part or "?" in part) and not _AZURE.fullmatch(part):
            raise SettingsError(
                f"{where} contains credentials (a user before `@`, or a query after `?`), and "
                "announcements of models would publish them",
                hint="give them to the store's driver in its own variables, such as "
                "AWS_SECRET_ACCESS_KEY, or FSSPEC_FTP_USERNAME and FSSPEC_FTP_PASSWORD",
            )
    return _printable(text, where)


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
        # Do not chain the original error, because it contains the bytes of the secret.
        raise SettingsError(
            f"{name} is {path!r}, which is not UTF-8 at byte {error.start}"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SettingsError(f"{name} is {path!r}, which is empty")
    return text
