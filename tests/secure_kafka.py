"""Start an Apache Kafka with TLS, SASL and ACLs, and create its certificates with trustme.

The plain listener is for the tests themselves: each client is a super user there. On the other
listeners, the certificate or password identifies the client, which may do nothing without an ACL.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from confluent_kafka import admin as ck_admin
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from driftline.broker.local import LocalKafka, _free_port

PASSWORD = "correct horse battery staple"
# Listener → the certificate or protocol that it tests.
_PROTOCOLS = {
    "TLS": "SSL",
    "MTLS": "SSL",
    "SASLTLS": "SASL_SSL",
    "SASLPLAIN": "SASL_PLAINTEXT",
    "EXPIRED": "SSL",
    "OTHERNAME": "SSL",
}
_JAAS = "org.apache.kafka.common.security.{}.{}LoginModule required"


class SecureKafka:
    """A running Kafka. `at` returns a listener's address; `tls` and `sasl` return properties."""

    def __init__(self, folder: Path, plain: str, ports: Mapping[str, int]) -> None:
        self.folder = folder
        self.plain = plain
        self._ports = ports
        # The admin client of the tests is not one of the clients under test.
        log = logging.getLogger("librdkafka")
        self.admin = ck_admin.AdminClient({"bootstrap.servers": plain}, logger=log)

    def at(self, listener: str) -> str:
        return f"127.0.0.1:{self._ports[listener]}"

    @property
    def ca(self) -> str:
        """The CA that signed the broker's certificates."""
        return str(self.folder / "ca.pem")

    @property
    def other_ca(self) -> str:
        """Another CA, which signed none of the broker's certificates."""
        return str(self.folder / "other-ca.pem")

    def tls(self, certificate: str | None = None) -> dict[str, str]:
        """Return properties for TLS, with a client certificate if one is named."""
        found = {"security.protocol": "SSL", "ssl.ca.location": self.ca}
        if certificate is not None:
            found["ssl.certificate.location"] = str(self.folder / f"{certificate}.pem")
            found["ssl.key.location"] = str(self.folder / f"{certificate}.pem")
        return found

    def sasl(
        self, user: str, password: str = PASSWORD, mechanism: str = "SCRAM-SHA-512"
    ) -> dict[str, str]:
        """Return properties for SASL over TLS."""
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": self.ca,
            "sasl.mechanism": mechanism,
            "sasl.username": user,
            "sasl.password": password,
        }

    def add_user(self, *names: str) -> None:
        """Create SCRAM users with the password PASSWORD."""
        kind = ck_admin.ScramCredentialInfo(ck_admin.ScramMechanism.SCRAM_SHA_512, 4096)
        changes = [
            ck_admin.UserScramCredentialUpsertion(name, kind, PASSWORD.encode()) for name in names
        ]
        for answer in self.admin.alter_user_scram_credentials(changes).values():
            answer.result(30)

    def allow(
        self, user: str, kind: str, name: str, *operations: str, prefixed: bool = False
    ) -> None:
        """Allow a user these operations on a topic, group, transactional id or the cluster."""
        pattern = ck_admin.ResourcePatternType
        rules = [
            ck_admin.AclBinding(
                ck_admin.ResourceType[kind],
                name,
                pattern.PREFIXED if prefixed else pattern.LITERAL,
                f"User:{user}",
                "*",
                ck_admin.AclOperation[operation],
                ck_admin.AclPermissionType.ALLOW,
            )
            for operation in operations
        ]
        for answer in self.admin.create_acls(rules).values():
            answer.result(30)

    def rights_of(self, user: str) -> set[tuple[str, str, str, str]]:
        """Return a user's rights as resource, name, pattern and operation.

        The names are those of `topics acls --json`.
        """
        everything = ck_admin.AclBindingFilter(
            ck_admin.ResourceType.ANY,
            None,
            ck_admin.ResourcePatternType.ANY,
            f"User:{user}",
            None,
            ck_admin.AclOperation.ANY,
            ck_admin.AclPermissionType.ANY,
        )
        return {
            (
                found.restype.name.lower().replace("_", "-"),
                found.name,
                found.resource_pattern_type.name.lower(),
                found.operation.name.replace("_", " ").title().replace(" ", ""),
            )
            for found in self.admin.describe_acls(everything).result(30)
        }


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """Start one in `folder`, and stop it at the end. Raises DriftlineError if it cannot start."""
    _certificates(folder)
    ports = {name: _free_port() for name in _PROTOCOLS}
    local = LocalKafka(folder / "kafka", port=0, properties=_properties(folder, ports))
    try:
        running = local.up()
        yield SecureKafka(folder, running.bootstrap_servers, ports)
    finally:
        local.down()


def _certificates(folder: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    now = datetime.now(UTC)
    past = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=2)}
    certificates = {
        "broker": ca.issue_cert("127.0.0.1", "localhost"),
        "broker-expired": ca.issue_cert("127.0.0.1", "localhost", **past),  # type: ignore[arg-type]
        "broker-othername": ca.issue_cert("kafka.example.org"),
        "client": ca.issue_cert("ada@example.org", common_name="ada"),
        "client-expired": ca.issue_cert("ada@example.org", common_name="ada", **past),  # type: ignore[arg-type]
        "client-stranger": other.issue_cert("ada@example.org", common_name="ada"),
    }
    for name, certificate in certificates.items():
        key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
        # Java reads private keys only in this format.
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        (folder / f"{name}.pem").write_bytes(pem + chain)


def _properties(folder: Path, ports: Mapping[str, int]) -> dict[str, str]:
    listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    found = {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in _PROTOCOLS.items()),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "ssl.keystore.type": "PEM",
    }
    for name, protocol in _PROTOCOLS.items():
        of_listener = f"listener.name.{name.lower()}"
        if protocol.endswith("SSL"):
            broker = {"EXPIRED": "broker-expired", "OTHERNAME": "broker-othername"}
            keys = folder / f"{broker.get(name, 'broker')}.pem"
            found[f"{of_listener}.ssl.keystore.location"] = str(keys)
        if protocol.startswith("SASL"):
            found[f"{of_listener}.sasl.enabled.mechanisms"] = "SCRAM-SHA-512,PLAIN"
            found[f"{of_listener}.scram-sha-512.sasl.jaas.config"] = (
                _JAAS.format("scram", "Scram") + ";"
            )
            found[f"{of_listener}.plain.sasl.jaas.config"] = (
                _JAAS.format("plain", "Plain") + f' user_ada="{PASSWORD}";'
            )
    found["listener.name.mtls.ssl.client.auth"] = "required"
    found["listener.name.mtls.ssl.principal.mapping.rules"] = "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT"
    return found
