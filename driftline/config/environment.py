"""Read and check Kafka client properties, broker addresses and paths in environment variables.

Input: the environment. Output: `Properties` for the Kafka client, broker addresses, paths. A secret
can be read from a file whose path is in a variable such as `KAFKA_SASL_PASSWORD_FILE`. Error
messages never quote a property's value.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from driftline.config.client_properties import Properties
from driftline.errors import SettingsError

_NOT_PROPERTIES = {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_HOME", "KAFKA_HEAP_OPTS", "KAFKA_OPTS"}
# In every container, Kubernetes sets such variables for each service in the namespace. If a
# service's name starts with `kafka`, its variables look like client properties. No real client
# property matches these patterns.
_KUBERNETES = ("*_SERVICE_HOST", "*_SERVICE_PORT*", "*_PORT", "*_PORT_*")
# librdkafka properties whose value is itself a path. Any other `…_FILE` variable holds the path of
# a file that contains a property's value.
_FILE_PROPERTIES = {
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_JWT_TEMPLATE_FILE",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE",
}
_FILE = "_FILE"
# fsspec protocols whose URLs are plain paths, in which `@` and `?` are ordinary characters.
_LOCAL = {"file", "local"}
# Azure URLs have the container before the account: `abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/…`.
_AZURE = re.compile(r"(abfss?|az)://[^:/?#@]+@[^:?#@]+")
_SERVER = re.compile(r"([A-Za-z_]+://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+)(:(?P<port>[0-9]{1,5}))?")


def client_properties(environment: Mapping[str, str]) -> Properties:
    """Return the Kafka client properties; for example, `KAFKA_SASL_USERNAME` sets `sasl.username`.

    `KAFKA_SASL_PASSWORD_FILE` holds the path of a file that contains the password. Variables that
    Kubernetes sets are ignored. Raises SettingsError if a file is unreadable or empty, or if both
    variables for the same property are set.

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
            continue  # the variable is empty; the `_FILE` variable provides the value
        result[_property(name)] = value
    return Properties(result)


def servers(text: str, where: str) -> str:
    """Check broker addresses and return them as `HOST:PORT,HOST:PORT`.

    `where` is the option or variable that holds the addresses, for error messages. Raises
    SettingsError.

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
    """Return the text as a path, after checking that the path is a folder or does not exist.

    `where` is the name of the variable that holds the path, for error messages. Raises
    SettingsError.
    """
    path = Path(_printable(text, where))
    try:
        usable = path.is_dir() or not path.exists()
    except OSError as error:
        raise SettingsError(f"{where} is {text!r}: {error.strerror}") from error
    if not usable:
        raise SettingsError(f"{where} is {text!r}, which is a file", hint="set it to a folder")
    return path


def store_url(text: str, where: str) -> str:
    """Check the folder or URL of the model store and return it unchanged.

    Model announcements publish the URL, so no part of an fsspec chain (`simplecache::s3://…`) may
    contain credentials: a user name or a query string. `where` is the name of the variable that
    holds the URL, for error messages. Raises SettingsError without quoting a URL that has
    credentials.
    """
    # Do not use `urlsplit`: it finds no user name if the password has an unescaped `/`, `?` or `#`.
    remote = False
    for part in text.split("::"):
        scheme, found, _ = part.partition("://")
        # A part that follows a remote URL may be the rest of a password that contains `::`.
        remote = remote or (bool(found) and scheme.strip().lower() not in _LOCAL)
        if remote and ("@" in part or "?" in part) and not _AZURE.fullmatch(part):
            raise SettingsError(
                f"{where} contains credentials (a user before `@`, or a query after `?`), and "
                "model announcements would publish them",
                hint="pass them to the store's driver through its own variables, such as "
                "AWS_SECRET_ACCESS_KEY, or FSSPEC_FTP_USERNAME and FSSPEC_FTP_PASSWORD",
            )
    return _printable(text, where)


def _property(name: str) -> str:
    return name.removeprefix("KAFKA_").lower().replace("_", ".")


def _printable(text: str, where: str) -> str:
    if not text.isprintable():
        raise SettingsError(
            f"{where} is {text!r}, which contains unprintable characters",
            hint="the most common cause is a line break at the end",
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
        # Do not chain the original error, because it contains the secret's bytes.
        raise SettingsError(
            f"{name} is {path!r}: the file is not UTF-8 at byte {error.start}"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SettingsError(f"{name} is {path!r}: the file is empty")
    return text
