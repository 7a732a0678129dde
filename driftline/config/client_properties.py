"""Check the user's Kafka client properties, and convert them to kafka-python's options.

Input: properties by their dotted Kafka or librdkafka names, such as
`{"security.protocol": "SASL_SSL", "ssl.ca.location": "ca.pem"}`. Output: checked properties for
kafka-python or librdkafka. Properties on which Driftline's guarantees depend are rejected. Error
messages never contain a secret's value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from driftline.errors import SettingsError

_SECRET = re.compile(r"password|passphrase|secret|jaas|\.pem$|oauthbearer\.config|assertion")

# Properties that only Driftline may set, because delivery, partitioning and group membership depend
# on them.
OWNED = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "client.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.protocol",
        "isolation.level",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "metadata.broker.list",
        "partition.assignment.strategy",
        "partitioner",
        "transaction.timeout.ms",
        "transactional.id",
    }
)

# Dotted name → kafka-python's option name, for options whose name is not just the dotted name
# with underscores instead of dots.
_KAFKA_PYTHON_NAMES: Mapping[str, str] = {
    "compression.codec": "compression_type",
    "fetch.message.max.bytes": "max_partition_fetch_bytes",
    "fetch.wait.max.ms": "fetch_max_wait_ms",
    "message.max.bytes": "max_request_size",
    "message.timeout.ms": "delivery_timeout_ms",
    "queue.buffering.max.ms": "linger_ms",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.password": "sasl_plain_password",
    "sasl.username": "sasl_plain_username",
    "socket.receive.buffer.bytes": "receive_buffer_bytes",
    "socket.send.buffer.bytes": "send_buffer_bytes",
    "socket.timeout.ms": "request_timeout_ms",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.cipher.suites": "ssl_ciphers",
    "ssl.crl.location": "ssl_crlfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
_INTEGERS_WITHOUT_DEFAULT = frozenset({"receive_buffer_bytes", "send_buffer_bytes"})
# Common property names to suggest when the user sets an unknown property.
_FREQUENT = (
    "client.dns.lookup",
    "compression.type",
    "fetch.min.bytes",
    "linger.ms",
    "max.request.size",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "security.protocol",
    "ssl.endpoint.identification.algorithm",
)
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


class Properties(Mapping[str, str]):
    """Client properties by dotted name. `repr` shows only the names, because some values are
    secrets. The class is not a dict, so that no encoder can write the values by accident.

    >>> Properties({"sasl.username": "ada", "sasl.password": "hunter2"})
    Properties(sasl.username, sasl.password)
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Properties({', '.join(self._values)})"


def without_secrets(text: str, properties: Mapping[str, str]) -> str:
    """Replace the values of secret properties in a client's message with `***`.

    >>> without_secrets("cannot use hunter2", {"sasl.password": "hunter2"})
    'cannot use ***'
    """
    for name, value in properties.items():
        if value and _SECRET.search(name):
            text = text.replace(value, "***")
    return text


def check(properties: Mapping[str, str]) -> None:
    """Raise SettingsError if a property is reserved for Driftline, if the security protocol is
    unknown, or if one property requires another that is missing."""
    for name in sorted(properties):
        if name in OWNED:
            raise SettingsError(
                f"client property {name!r} ({variable(name)}) cannot be set: Driftline sets it",
                hint="Driftline's guarantees depend on this property; remove your setting",
            )
    protocol = properties.get("security.protocol")
    if protocol is not None and protocol.upper() not in _PROTOCOLS:
        raise SettingsError(
            f"{variable('security.protocol')} is {protocol!r}",
            hint=f"expected one of {', '.join(_PROTOCOLS)}",
        )
    key, certificate = "ssl.key.location", "ssl.certificate.location"
    if key in properties and not {certificate, "ssl.certificate.pem"} & set(properties):
        raise SettingsError(
            f"{variable(key)} is set, but {variable(certificate)} is not",
            hint="a client certificate needs both; to connect without a certificate, set neither",
        )
    if protocol is None or not protocol.upper().startswith("SASL"):
        return
    mechanism = properties.get("sasl.mechanism") or properties.get("sasl.mechanisms")
    needed = [] if mechanism else ["sasl.mechanism"]
    if mechanism and mechanism.startswith(("PLAIN", "SCRAM")):
        needed = [name for name in ("sasl.username", "sasl.password") if not properties.get(name)]
    if needed:
        raise SettingsError(
            f"{variable('security.protocol')} is {protocol}, but "
            f"{' and '.join(map(variable, needed))} {'is' if len(needed) == 1 else 'are'} not set",
            hint="SASL needs a mechanism (such as SCRAM-SHA-512), a user name and a password",
        )


def unknown_property(
    name: str, client: str, detail: str = "", known: Iterable[str] = ()
) -> SettingsError:
    """Return the error for a property that the client rejects.

    `known` contains names of properties that the client accepts.
    """
    names = dict.fromkeys((*_KAFKA_PYTHON_NAMES, *_FREQUENT, *known))
    near = [each for each in get_close_matches(name, names, 3, 0.75) if each not in (name, *OWNED)]
    return SettingsError(
        f"client property {name!r} ({variable(name)}) is not known to {client}" + detail,
        hint=f"the nearest known name is {near[0]} ({variable(near[0])})"
        if near
        else "use Kafka's dotted names, such as security.protocol or ssl.ca.location",
    )


def variable(name: str) -> str:
    """Return the name of the environment variable that sets a client property."""
    return "KAFKA_" + name.upper().replace(".", "_")


def for_kafka_python(
    properties: Mapping[str, str], defaults: Iterable[Mapping[str, object]]
) -> dict[str, object]:
    """Convert the properties to kafka-python's option names and types.

    `defaults` are the `DEFAULT_CONFIG` mappings of kafka-python's clients. Each value is
    converted to the type of the option's default value.

    >>> for_kafka_python({"linger.ms": "20"}, [{"linger_ms": 0}])
    {'linger_ms': 20}
    """
    check(properties)
    known = {name: value for config in defaults for name, value in config.items()}
    result: dict[str, object] = {}
    for name, text in properties.items():
        if name == "ssl.endpoint.identification.algorithm":
            result["ssl_check_hostname"] = text.lower() not in ("", "none")
            continue
        option = _KAFKA_PYTHON_NAMES.get(name, name.replace(".", "_"))
        if option not in known or "_" in name:
            dotted = [each.replace("_", ".") for each in known]
            raise unknown_property(name, "kafka-python", known=dotted)
        result[option] = _typed(name, option, text, known[option])
    if isinstance(protocol := result.get("security_protocol"), str):
        result["security_protocol"] = protocol.upper()  # librdkafka also accepts lower case
    return result


def _typed(name: str, option: str, text: str, default: object) -> object:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise SettingsError(
                f"client property {name!r} ({variable(name)}) is {text!r}; expected true or false"
            )
        return text.lower() == "true"
    if isinstance(default, int | float) or option in _INTEGERS_WITHOUT_DEFAULT:
        try:
            return int(text)
        except ValueError:
            raise SettingsError(
                f"client property {name!r} ({variable(name)}) is {text!r}; expected a whole number"
            ) from None
    if default is None or isinstance(default, str):
        return text
    raise unknown_property(name, "kafka-python", " as an option with a text value")
