"""TLS, client certificates and passwords, with both clients on a Kafka that requires them."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.librdkafka import LibrdkafkaBroker
from driftline.broker.port import NewTopic, Outgoing, TopicPartition
from driftline.broker.probe import refusal
from driftline.errors import AccessDenied, SettingsError
from driftline.logs import log_command
from tests.secure_kafka import PASSWORD, SecureKafka

pytestmark = pytest.mark.kafka

Client = Literal["kafka-python", "librdkafka"]
both_clients = pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])

WRONG = "not-the-password-but-secret"

# Correct configurations: listener and properties, by name.
RIGHT = {
    "TLS": lambda kafka: ("TLS", kafka.tls()),
    "TLS with a client certificate": lambda kafka: ("MTLS", kafka.tls("client")),
    "SCRAM": lambda kafka: ("SASLTLS", kafka.sasl("ada")),
    "PLAIN": lambda kafka: ("SASLTLS", kafka.sasl("ada", mechanism="PLAIN")),
    "SCRAM without TLS": lambda kafka: (
        "SASLPLAIN",
        {**kafka.sasl("ada"), "security.protocol": "SASL_PLAINTEXT"},
    ),
}
# Wrong configurations: listener, properties, and texts in the error message, by name.
WRONGS = {
    "wrong password (SCRAM)": (
        "SASLTLS",
        lambda kafka: kafka.sasl("ada", WRONG),
        ("rejects the user 'ada' or its password (SCRAM-SHA-512)", "KAFKA_SASL_PASSWORD"),
    ),
    "wrong password (PLAIN)": (
        "SASLTLS",
        lambda kafka: kafka.sasl("ada", WRONG, "PLAIN"),
        ("rejects the user 'ada' or its password (PLAIN)", "KAFKA_SASL_PASSWORD"),
    ),
    "unknown user": (
        "SASLTLS",
        lambda kafka: kafka.sasl("eve"),
        ("rejects the user 'eve' or its password", "KAFKA_SASL_USERNAME"),
    ),
    "wrong CA": (
        "TLS",
        lambda kafka: {**kafka.tls(), "ssl.ca.location": kafka.other_ca},
        ("is not trusted", "KAFKA_SSL_CA_LOCATION", "other-ca.pem"),
    ),
    "no CA": (
        "SASLTLS",
        lambda kafka: {k: v for k, v in kafka.sasl("ada").items() if k != "ssl.ca.location"},
        ("is not trusted", "KAFKA_SSL_CA_LOCATION", "it is not set"),
    ),
    "expired certificate": (
        "EXPIRED",
        lambda kafka: kafka.tls(),
        ("a certificate that is valid from", "not now", "renew the broker's certificate"),
    ),
    "hostname mismatch": (
        "OTHERNAME",
        lambda kafka: kafka.tls(),
        ("for other hosts: kafka.example.org", "connect to a host named in the certificate"),
    ),
    "no client certificate": (
        "MTLS",
        lambda kafka: kafka.tls(),
        ("requires a client certificate", "KAFKA_SSL_CERTIFICATE_LOCATION"),
    ),
    "expired client certificate": (
        "MTLS",
        lambda kafka: kafka.tls("client-expired"),
        ("rejects the certificate", "client-expired.pem", "KAFKA_SSL_KEY_LOCATION"),
    ),
    "client certificate of another CA": (
        "MTLS",
        lambda kafka: kafka.tls("client-stranger"),
        ("rejects the certificate", "client-stranger.pem", "that the broker trusts"),
    ),
    "wrong mechanism": (
        "SASLTLS",
        lambda kafka: kafka.sasl("ada", mechanism="SCRAM-SHA-256"),
        ("does not support the SASL mechanism SCRAM-SHA-256", "SCRAM-SHA-512, PLAIN"),
    ),
    "plain client, TLS listener": (
        "TLS",
        lambda kafka: {},
        ("uses TLS, but KAFKA_SECURITY_PROTOCOL is PLAINTEXT", "SSL or SASL_SSL"),
    ),
    "TLS client, plain listener": (
        "plain",
        lambda kafka: kafka.tls(),
        ("does not use TLS, but KAFKA_SECURITY_PROTOCOL is SSL", "to PLAINTEXT"),
    ),
    "SASL over TLS, plain listener": (
        "plain",
        lambda kafka: kafka.sasl("ada"),
        ("does not use TLS, but KAFKA_SECURITY_PROTOCOL is SASL_SSL",),
    ),
    "client without SASL, listener with it": (
        "SASLTLS",
        lambda kafka: kafka.tls(),
        ("requires SASL (SCRAM-SHA-512, PLAIN), but", "to SASL_SSL", "KAFKA_SASL_USERNAME"),
    ),
    "client with SASL, listener without it": (
        "TLS",
        lambda kafka: kafka.sasl("ada"),
        ("does not use SASL, but KAFKA_SECURITY_PROTOCOL is SASL_SSL", "to SSL"),
    ),
    "plain client, SASL listener": (
        "SASLPLAIN",
        lambda kafka: {},
        ("requires SASL (SCRAM-SHA-512, PLAIN), but", "to SASL_PLAINTEXT"),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _ada(secure: SecureKafka) -> None:
    secure.add_user("ada")


def address(kafka: SecureKafka, listener: str) -> str:
    return kafka.plain if listener == "plain" else kafka.at(listener)


def broker(
    client: Client, servers: str, properties: dict[str, str], timeout_s: float = 10.0
) -> KafkaPythonBroker | LibrdkafkaBroker:
    make = KafkaPythonBroker if client == "kafka-python" else LibrdkafkaBroker
    return make(servers, properties, connect_timeout_s=timeout_s)


@pytest.mark.parametrize("wrong", WRONGS)
def test_the_probe_reports_the_problem_the_server_and_a_remedy(
    secure: SecureKafka, wrong: str
) -> None:
    listener, properties, words = WRONGS[wrong]
    servers = address(secure, listener)
    denied = refusal(servers, properties(secure))  # type: ignore[no-untyped-call]
    assert denied is not None
    assert denied.message.startswith(f"the broker at {servers} ")
    assert denied.hint
    for each in words:
        assert each in str(denied)
    assert WRONG not in str(denied)


@pytest.mark.parametrize("right", RIGHT)
def test_the_probe_reports_nothing_if_a_client_can_connect(secure: SecureKafka, right: str) -> None:
    listener, properties = RIGHT[right](secure)  # type: ignore[no-untyped-call]
    assert refusal(secure.at(listener), properties) is None


@both_clients
@pytest.mark.parametrize("wrong", WRONGS)
def test_a_client_without_access_raises_the_error_of_the_probe(
    secure: SecureKafka, client: Client, wrong: str
) -> None:
    listener, properties, words = WRONGS[wrong]
    servers = address(secure, listener)
    with pytest.raises(AccessDenied) as caught:
        broker(client, servers, properties(secure), timeout_s=0.4).admin()  # type: ignore[no-untyped-call]
    assert words[0] in caught.value.message


@both_clients
@pytest.mark.parametrize("right", RIGHT)
def test_records_are_sent_and_read_with_each_correct_configuration(
    secure: SecureKafka, client: Client, right: str
) -> None:
    topic = f"records-{client}-{right.replace(' ', '-')}"
    plain = broker(client, secure.plain, {}).admin()
    plain.create([NewTopic(topic, 1)])
    plain.close()
    for user in ("ada", "ANONYMOUS"):  # ANONYMOUS is a client without certificate and password
        secure.allow(user, "TOPIC", topic, "READ", "WRITE", "DESCRIBE_CONFIGS")
    listener, properties = RIGHT[right](secure)  # type: ignore[no-untyped-call]
    through = broker(client, secure.at(listener), properties)
    producer = through.producer()
    producer.send(Outgoing(topic, b"hello"))
    producer.flush()
    producer.close()
    consumer = through.consumer()
    consumer.assign({TopicPartition(topic, 0): 0})
    found = []  # type: ignore[var-annotated]
    while not found:
        found = [message.value for message in consumer.poll(max_records=9, timeout_s=1)]
    consumer.close()
    assert found == [b"hello"]


@both_clients
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ssl.ca.location": "/no/such/ca.pem"}, "KAFKA_SSL_CA_LOCATION is '/no/such/ca.pem'"),
        ({"ssl.ca.location": __file__}, "contains no PEM certificate"),
        ({"ssl.certificate.location": __file__, "ssl.key.location": __file__}, "KAFKA_SSL_KEY"),
        ({"ssl.key.location": __file__}, "KAFKA_SSL_CERTIFICATE_LOCATION is not"),
        ({"security.protocol": "TLS"}, "KAFKA_SECURITY_PROTOCOL is 'TLS'"),
        ({"security.protocol": "SASL_SSL"}, "KAFKA_SASL_MECHANISM is not set"),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"},
            "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are not set",
        ),
    ],
)
def test_an_error_names_properties_that_cannot_work(
    secure: SecureKafka, client: Client, change: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        broker(client, secure.at("TLS"), {**secure.tls(), **change}, timeout_s=0.4).admin()
    assert words in caught.value.message
    assert caught.value.hint


@both_clients
def test_the_client_connects_if_one_of_several_servers_accepts_it(
    secure: SecureKafka, client: Client
) -> None:
    servers = f"{secure.at('EXPIRED')},{secure.at('TLS')}"
    assert refusal(servers, secure.tls()) is None
    admin = broker(client, servers, secure.tls()).admin()
    admin.close()


def test_the_probe_reports_nothing_about_a_server_that_is_not_kafka() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5)
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        silent.close()
        assert refusal(servers, {}) is None
        assert refusal(servers, {"security.protocol": "SSL"}) is None


class TestSecrets:
    @pytest.fixture
    def environment(self, secure: SecureKafka, tmp_path: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA")}
        (tmp_path / "password").write_text(WRONG + "\n")
        return {
            **kept,
            "DRIFTLINE_HOME": str(tmp_path),
            "KAFKA_BOOTSTRAP_SERVERS": secure.at("SASLTLS"),
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SSL_CA_LOCATION": secure.ca,
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "ada",
            "KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password"),
        }

    @both_clients
    def test_a_command_without_access_exits_with_2_and_does_not_show_the_password(
        self, environment: dict[str, str], tmp_path: Path, client: Client
    ) -> None:
        stream = Path(__file__).parents[3] / "examples" / "iris.toml"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "driftline_app.cli", "--verbose"),
                *("topics", "plan", "--stream", str(stream)),
            ],
            env={**environment, "DRIFTLINE_CLIENT": client, "KAFKA_DEBUG": "all"}
            if client == "librdkafka"
            else {**environment, "DRIFTLINE_CLIENT": client},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "error: the broker at" in done.stderr
        assert "rejects the user 'ada' or its password" in done.stderr
        assert "Traceback" not in done.stderr
        assert WRONG not in done.stdout + done.stderr

    @both_clients
    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
    def test_no_log_of_a_connected_client_shows_the_password(
        self,
        secure: SecureKafka,
        capfd: pytest.CaptureFixture[str],
        client: Client,
        mechanism: str,
    ) -> None:
        properties = secure.sasl("ada", mechanism=mechanism)
        if client == "librdkafka":
            properties["debug"] = "all"
        log_command(verbose=True)
        try:
            admin = broker(client, secure.at("SASLTLS"), properties).admin()
            admin.describe()
            admin.close()
        finally:
            log_command(verbose=False)
        shown = capfd.readouterr()
        assert PASSWORD not in shown.out + shown.err
