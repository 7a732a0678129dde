"""The printed ACLs are derived from the plan of the topics."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from driftline.config.stream import Stream, loads
from driftline.errors import SettingsError
from driftline.ops.access_rights import Acl, acls, commands, roles
from driftline.wire.topics import SERVICES, Topics
from driftline_app.cli.main import command_line
from tests.world import STREAM, STREAM_FILE


def with_kafka(setting: str) -> Stream:
    return loads(STREAM_FILE.replace("kafka = {", "kafka = { " + setting + ","))


def of(role: str, resource: str, stream: Stream = STREAM) -> list[Acl]:
    return [acl for acl in acls(stream) if (acl.role, acl.resource) == (role, resource)]


def topics_with(role: str, operation: str, stream: Stream = STREAM) -> set[str]:
    return {acl.name for acl in of(role, "topic", stream) if operation in acl.operations}


def test_only_roles_that_write_or_read_a_topic_by_the_plan_have_the_right() -> None:
    for topic in Topics(STREAM).plan():
        for role in roles(Topics(STREAM)):
            if role == "operator":
                continue  # the operator's commands read all topics
            assert (topic.name in topics_with(role, "Write")) == (role in topic.writers)
            assert (topic.name in topics_with(role, "Read")) == (role in topic.readers)


def test_the_operator_reads_and_creates_all_topics_and_writes_those_of_the_plan() -> None:
    plan = Topics(STREAM).plan()
    everything = {topic.name for topic in plan}
    assert topics_with("operator", "Read") == topics_with("operator", "Create") == everything
    written = {topic.name for topic in plan if "operator" in topic.writers}
    assert topics_with("operator", "Write") == written
    assert {acl.name: acl.operations for acl in of("operator", "group")} == {
        Topics(STREAM).group(service): ("Describe",) for service in SERVICES
    }


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_use_only_the_group_of_its_name(service: str) -> None:
    (group,) = of(service, "group")
    assert (group.name, group.operations) == (f"s.{service}", ("Read",))


def test_inference_needs_a_transactional_id_only_for_exactly_once() -> None:
    assert {s: len(of(s, "transactional-id")) for s in SERVICES} == {
        "inference": 0,
        "outcomes": 1,
        "monitor": 1,
        "trainer": 1,
    }
    stream = with_kafka('inference_delivery = "exactly_once"')
    (right,) = of("inference", "transactional-id", stream)
    assert (right.name, right.pattern, right.operations) == ("s.inference-", "prefixed", ("Write",))


def test_all_names_begin_with_the_prefix_of_the_stream() -> None:
    assert all(acl.name.startswith("team.s.") for acl in acls(with_kafka('topic_prefix = "team."')))


def test_commands_contain_the_given_principal_in_quotes() -> None:
    rights = acls(STREAM, {"monitor": "User:CN=a b,O=c"})
    lines = list(commands(rights, "kafka:9092"))
    assert any("--allow-principal 'User:CN=a b,O=c'" in line for line in lines)
    assert not any("User:monitor" in line for line in lines)
    assert all(
        line.startswith(("# ", "kafka-acls.sh --bootstrap-server kafka:9092 ")) for line in lines
    )


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path))
        (tmp_path / "s.toml").write_text(STREAM_FILE)
        return str(tmp_path / "s.toml")

    def test_it_prints_commands_and_data_without_a_broker(self, file: str) -> None:
        arguments = ["topics", "acls", "-s", file, "-b", "nowhere:1", "-p", "trainer=User:fit"]
        printed = CliRunner().invoke(command_line(), arguments).stdout
        assert printed.count("--allow-principal User:fit ") >= 4
        lines = CliRunner().invoke(command_line(), [*arguments, "--json"]).stdout.splitlines()
        assert {json.loads(line)["role"] for line in lines} == set(roles(Topics(STREAM)))

    @pytest.mark.parametrize("wrong", ["trainer", "trainer=fit", "painter=User:x"])
    def test_an_unknown_role_or_invalid_principal_is_rejected(self, file: str, wrong: str) -> None:
        result = CliRunner().invoke(command_line(), ["topics", "acls", "-s", file, "-p", wrong])
        assert isinstance(result.exception, SettingsError)
