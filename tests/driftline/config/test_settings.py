"""Environment variables are validated when they are read, and no text contains a secret."""

from pathlib import Path

import msgspec
import pytest

from driftline.config.settings import Settings, load_settings
from driftline.config.stream import loads
from driftline.errors import SettingsError
from driftline_app.assembly import state_of
from tests.world import STREAM_FILE

SECRET = "hunter2-very-secret"

# The variables that Kubernetes sets for the services `kafka` (with the named port `client`),
# `kafka-bootstrap` and `kafka-0`, according to its documentation and to a cluster.
KUBERNETES = {
    "KAFKA_SERVICE_HOST": "10.0.0.11",
    "KAFKA_SERVICE_PORT": "9092",
    "KAFKA_SERVICE_PORT_CLIENT": "9092",
    "KAFKA_SERVICE_PORT_TLS_EXTERNAL": "9093",
    "KAFKA_PORT": "tcp://10.0.0.11:9092",
    "KAFKA_PORT_9092_TCP": "tcp://10.0.0.11:9092",
    "KAFKA_PORT_9092_TCP_PROTO": "tcp",
    "KAFKA_PORT_9092_TCP_PORT": "9092",
    "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.11",
    "KAFKA_BOOTSTRAP_SERVICE_HOST": "10.0.0.12",
    "KAFKA_BOOTSTRAP_SERVICE_PORT": "9092",
    "KAFKA_BOOTSTRAP_PORT": "tcp://10.0.0.12:9092",
    "KAFKA_BOOTSTRAP_PORT_9092_TCP_ADDR": "10.0.0.12",
    "KAFKA_0_SERVICE_HOST": "10.0.0.13",
    "KAFKA_0_PORT_9092_UDP": "udp://10.0.0.13:9092",
}


def properties(environment: dict[str, str]) -> dict[str, str]:
    return dict(load_settings(environment).properties)


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_variable_that_kubernetes_injects_is_ignored(name: str) -> None:
    assert properties({name: KUBERNETES[name]}) == {}


def test_client_properties_are_read_beside_the_variables_of_kubernetes() -> None:
    environment = {**KUBERNETES, "KAFKA_SASL_USERNAME": "ada", "KAFKA_BOOTSTRAP_SERVERS": "k:9092"}
    settings = load_settings(environment)
    assert dict(settings.properties) == {"sasl.username": "ada"}
    assert settings.bootstrap_servers == "k:9092"


def test_other_variables_are_passed_on_for_the_client_to_reject() -> None:
    assert properties({"KAFKA_SERVICE": "x", "KAFKA_PORTS": "y"}) == {"service": "x", "ports": "y"}


class TestSecretsFromFiles:
    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_a_value_from_a_file_does_not_include_the_final_line_break(
        self, tmp_path: Path, end: str
    ) -> None:
        (tmp_path / "password").write_bytes((" two words \n" + SECRET + end).encode())
        found = properties({"KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password")})
        assert found == {"sasl.password": " two words \n" + SECRET}

    @pytest.mark.parametrize(
        "name", ["KAFKA_SSL_KEY_PASSWORD", "KAFKA_SSL_KEY_PEM", "KAFKA_SASL_USERNAME"]
    )
    def test_any_property_can_come_from_a_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "value").write_text("text\n")
        found = properties({f"{name}_FILE": str(tmp_path / "value"), name: ""})
        assert found == {name.removeprefix("KAFKA_").lower().replace("_", "."): "text"}

    def test_a_property_whose_own_name_ends_in_file_is_not_read_as_a_file(self) -> None:
        found = properties({"KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE": "/key.pem"})
        assert found == {"sasl.oauthbearer.assertion.private.key.file": "/key.pem"}

    def test_a_value_and_a_file_for_one_property_are_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "password").write_text(SECRET)
        environment = {
            "KAFKA_SASL_PASSWORD": SECRET,
            "KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password"),
        }
        with pytest.raises(SettingsError, match="both set") as caught:
            load_settings(environment)
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "why"), [(None, "No such file"), (b"", "empty"), (b"\xff" * 9, "not UTF-8")]
    )
    def test_an_error_names_a_file_without_a_usable_value(
        self, tmp_path: Path, content: bytes | None, why: str
    ) -> None:
        path = tmp_path / "password"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SettingsError, match=why) as caught:
            load_settings({"KAFKA_SASL_PASSWORD_FILE": str(path)})
        assert "KAFKA_SASL_PASSWORD_FILE" in caught.value.message
        assert str(path) in caught.value.message

    def test_a_folder_instead_of_a_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="directory"):
            load_settings({"KAFKA_SASL_PASSWORD_FILE": str(tmp_path)})


class TestSecretsStayHidden:
    @pytest.fixture
    def settings(self) -> Settings:
        return load_settings({"KAFKA_SASL_PASSWORD": SECRET, "KAFKA_SASL_USERNAME": "ada"})

    def test_settings_as_text_show_only_the_names_of_properties(self, settings: Settings) -> None:
        for text in (repr(settings), str(settings), f"{settings.properties}"):
            assert SECRET not in text
        assert "sasl.password" in repr(settings)

    def test_settings_cannot_be_encoded_as_json(self, settings: Settings) -> None:
        with pytest.raises(TypeError):
            msgspec.json.encode(settings)


class TestPaths:
    def test_an_empty_home_means_the_default(self) -> None:
        assert load_settings({"DRIFTLINE_HOME": ""}).home == Path(".driftline")

    @pytest.mark.parametrize("name", ["DRIFTLINE_HOME", "DRIFTLINE_MODEL_STORE"])
    @pytest.mark.parametrize("path", ["/data\n", "/da\0ta", "/da\x1bta", "/\udcff"])
    def test_a_path_with_unprintable_characters_is_rejected(self, name: str, path: str) -> None:
        with pytest.raises(SettingsError, match=name):
            load_settings({name: path})

    def test_a_home_that_is_a_file_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SettingsError, match=r"DRIFTLINE_HOME .* is a file"):
            load_settings({"DRIFTLINE_HOME": str(tmp_path / "file")})

    def test_a_home_path_that_is_too_long_is_rejected(self) -> None:
        with pytest.raises(SettingsError, match=r"DRIFTLINE_HOME .* too long"):
            load_settings({"DRIFTLINE_HOME": "x" * 300})

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://ada:{}@store/models",
            "simplecache::memory://ada:{}@h/x",
            "filecache::simplecache::ftp://ada:{}@h/x",
            "simplecache://ada:{}@h::memory://x",
            "ftp://ada:pa/{}@h",
            "ftp://ada:p#{}@h",
            "ftp://ada:p?{}@h",
            "ftp://ada:p::{}@h",
            "ftp://[ada:{}@h",
            "ftp://ada:{}\n@h",
            "FTP://ada:{}@h",
            "https://{}@h",
            "abfs://container:{}@account.dfs.core.windows.net/x",
            "s3://b/x?password={}",
            "https://h/x?sig={}",
        ],
    )
    def test_credentials_in_the_url_of_the_store_are_rejected_as_they_would_be_published(
        self, url: str
    ) -> None:
        with pytest.raises(SettingsError, match="DRIFTLINE_MODEL_STORE") as caught:
            load_settings({"DRIFTLINE_MODEL_STORE": url.format(SECRET)})
        assert SECRET not in f"{caught.value} {caught.value.hint}"
        assert "FSSPEC_FTP_PASSWORD" in caught.value.hint

    @pytest.mark.parametrize(
        "url",
        [
            "/data/ada@home/models?",
            "file:///data/ada@home/models",
            "simplecache::/data/ada@home",
            "s3://bucket/models",
            "simplecache::s3://bucket/models",
            "abfs://container@account.dfs.core.windows.net/models",
        ],
    )
    def test_the_store_can_be_a_folder_or_a_url_without_credentials(self, url: str) -> None:
        assert load_settings({"DRIFTLINE_MODEL_STORE": url}).model_store == url


class TestServers:
    @pytest.mark.parametrize(
        ("given", "taken"),
        [
            ("kafka", "kafka"),
            (" kafka-1:9092 , kafka-2:9092\n", "kafka-1:9092,kafka-2:9092"),
            ("[::1]:9092", "[::1]:9092"),
            ("SASL_SSL://kafka:9093", "SASL_SSL://kafka:9093"),
        ],
    )
    def test_valid_addresses_are_accepted(self, given: str, taken: str) -> None:
        assert load_settings({"KAFKA_BOOTSTRAP_SERVERS": given}).bootstrap_servers == taken

    @pytest.mark.parametrize(
        "wrong",
        ["a:1,", "a:http", "a:0", "a:65536", "a b:1", "http://a:1/x", f"ada:{SECRET}@kafka:9092"],
    )
    def test_invalid_addresses_are_rejected(self, wrong: str) -> None:
        with pytest.raises(SettingsError, match="KAFKA_BOOTSTRAP_SERVERS") as caught:
            load_settings({"KAFKA_BOOTSTRAP_SERVERS": wrong})
        assert SECRET not in str(caught.value)
        with pytest.raises(SettingsError, match="--bootstrap-server"):
            load_settings({}, bootstrap_servers=wrong)


def test_streams_with_the_same_name_but_different_prefixes_have_separate_states() -> None:
    streams = [
        loads(STREAM_FILE.replace("kafka = {", 'kafka = { topic_prefix = "' + prefix + '",'))
        for prefix in ("", "a.", "b.")
    ]
    settings = load_settings({"DRIFTLINE_HOME": "home"})
    assert [str(state_of(settings, stream)) for stream in streams] == [
        "home/state/s",
        "home/state/a.s",
        "home/state/b.s",
    ]
