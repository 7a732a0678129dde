"""Commands of operators: text output, JSON output and exit codes."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner, Result

from driftline.config.settings import load_settings
from driftline.errors import DriftlineError, SettingsError
from driftline.ops.processes import ServiceState, born, folder_of, write_state
from driftline.wire.topics import SERVICES
from driftline_app.cli.main import command_line, main
from driftline_app.context import Context, open_context
from tests.world import STREAM, STREAM_FILE, World

Run = Callable[..., Result]


def commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(group, "commands", None)
    if children is None:
        yield path
        return
    for name, command in children.items():
        yield from commands(command, (*path, name))


MINE = {
    *("up", "down", "status", "broker", "topics", "doctor", "tail", "trace", "deadletters"),
    *("reconcile", *SERVICES),
}
ALL_MINE = [path for path in commands(get_command(command_line())) if path[0] in MINE]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder with its own home. Errors are raised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(command_line(), arguments, terminal_width=200)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def kept(run: Run, tmp_path: Path) -> World:
    """A world that the test fills, and then saves with `keep` as the run `20260101-s`."""
    return World()


def keep(world: World, tmp_path: Path, stream: str = "s") -> None:
    folder = tmp_path / "home" / "runs" / f"20260101-{stream}"
    folder.mkdir(parents=True)
    text = STREAM_FILE.replace('name = "s"', f'name = "{stream}"')
    (folder / "stream.toml").write_text(text, encoding="utf-8")
    world.broker.save(folder / "topics")


# ---- help and errors ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL_MINE, ids=" ".join)
def test_help_has_an_example(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")

    assert result.exit_code == 0
    assert f"Example: driftline {' '.join(path)}" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tail", "drift"], "no stream file in this folder"),
        (["tail", "drift", "--run", "last"], "no run in"),
        (["tail", "drift", "--run", "../services"], "no run '../services'"),
        (["tail", "drift", "--run", "x" * 300], "File name too long"),
        (["tail", "drift", "--run", ""], "no run ''"),
        (["reconcile", "-s", "absent.toml"], "absent.toml: No such file or directory"),
        (["reconcile", "-s", "\x1b[2Ja.toml"], "\\x1b[2Ja.toml: No such file or directory"),
    ],
)
def test_an_error_is_explained_and_the_exit_code_is_2(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["driftline", *arguments])
    monkeypatch.setattr("driftline_app.cli.main.catch", lambda: None)  # pytest handles Ctrl-C

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_topic_of_another_stream_is_an_error(run: Run, kept: World, tmp_path: Path) -> None:
    keep(kept, tmp_path)

    with pytest.raises(DriftlineError, match="stream 's' has no topic 'alerts'"):
        run("tail", "alerts", "--run", "last")


def test_the_path_of_a_run_is_relative_to_the_current_folder(
    run: Run, kept: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(kept, tmp_path)
    (kept_at,) = (tmp_path / "home" / "runs").iterdir()
    moved = kept_at.rename(tmp_path / "home" / "elsewhere")
    monkeypatch.chdir(tmp_path)

    assert run("tail", "predictions", "--run", "home/elsewhere").exit_code == 0
    assert run("tail", "predictions", "--run", str(moved)).exit_code == 0
    with pytest.raises(DriftlineError, match=r"no run '../elsewhere'"):
        run("tail", "predictions", "--run", "../elsewhere")


def test_run_last_is_the_newest_run_of_the_named_stream(
    run: Run, kept: World, tmp_path: Path
) -> None:
    keep(kept, tmp_path)
    keep(kept, tmp_path, "t")
    for name in "st":
        own = STREAM_FILE.replace('name = "s"', f'name = "{name}"')
        (tmp_path / f"{name}.toml").write_text(own, encoding="utf-8")

    arguments = ("estimates", "--stream", str(tmp_path / "s.toml"), "--run")
    assert open_context(tmp_path / "s.toml", run="last").stream.name == "s"
    with pytest.raises(SettingsError, match="run 20260101-t belongs to stream t, not to s"):
        run(*arguments, "20260101-t")
    (tmp_path / "s.toml").write_text(STREAM_FILE.replace('name = "s"', 'name = "u"'))
    with pytest.raises(SettingsError, match="no run of stream u in"):
        run(*arguments, "last")


def test_estimates_without_a_closed_window_say_so(run: Run, kept: World, tmp_path: Path) -> None:
    keep(kept, tmp_path)
    shown = run("estimates", "--run", "last")
    assert (shown.exit_code, shown.stdout) == (1, "no window has closed yet\n")
    shown = run("estimates", "--run", "last", "--json")
    assert json.loads(shown.stdout) == {"windows": [], "coverage": None}


# ---- tail, trace --------------------------------------------------------------------------------


def test_tail_shows_the_newest_messages_in_order_of_publishing(
    run: Run, kept: World, tmp_path: Path
) -> None:
    for number in range(6):
        kept.clock.advance(1)
        kept.prediction(kept.feature(f"r{number}", partition=number % 2, row=number))
    keep(kept, tmp_path)

    shown = run("tail", "predictions", "-n", "3", "--run", "last").stdout.splitlines()

    assert [line.split()[3] for line in shown] == ["r3", "r4", "r5"]
    assert "(row 5): a by abababababab" in shown[-1]
    assert (
        len(run("tail", "s.predictions", "--from-start", "--run", "last").stdout.split("\n")) == 7
    )


def test_tail_with_json_prints_the_messages_themselves(
    run: Run, kept: World, tmp_path: Path
) -> None:
    kept.letter(kept.feature(b"no \xff JSON"), "not JSON")
    kept.prediction(kept.feature("a"))
    keep(kept, tmp_path)

    prediction = json.loads(run("tail", "predictions", "--json", "--run", "last").stdout)
    letter = json.loads(run("tail", "deadletters", "--json", "--run", "last").stdout)
    record, _ = run("tail", "features", "--json", "--run", "last").stdout.splitlines()

    assert prediction["record_id"] == "a"
    assert letter["value"] == "no \\xff JSON"
    assert letter["headers"]["driftline_reason"] == "not JSON"
    assert json.loads(record)["value"] == "no \\xff JSON"


def test_trace_prints_a_tree_and_exits_1_for_an_unknown_id(
    run: Run, kept: World, tmp_path: Path
) -> None:
    kept.letter(kept.feature("a"), "missing value")
    keep(kept, tmp_path)

    found = run("trace", "a", "--run", "last")
    as_json = json.loads(run("trace", "a", "--run", "last", "--json").stdout)

    assert "led to" in found.stdout
    assert "inference: missing value" in found.stdout
    assert as_json["effects"][0]["kind"] == "dead letter"
    assert run("trace", "b", "--run", "last").exit_code == 1


# ---- reconcile, dead letters --------------------------------------------------------------------


def test_reconcile_exits_0_if_nothing_is_missing(run: Run, kept: World, tmp_path: Path) -> None:
    kept.prediction(kept.feature("a"))
    kept.everything_handled()
    keep(kept, tmp_path)

    result = run("reconcile", "--run", "20260101-s")

    assert result.exit_code == 0
    assert "nothing is missing" in result.stdout


def test_reconcile_lists_what_is_missing_and_exits_1(run: Run, kept: World, tmp_path: Path) -> None:
    kept.feature("lost")
    kept.everything_handled()
    keep(kept, tmp_path)

    result = run("reconcile", "--run", "last")

    assert result.exit_code == 1
    assert "missing: records[0]@0 id lost" in result.stdout
    found = json.loads(run("reconcile", "--run", "last", "--json").stdout)
    assert found["missing"] == 1
    assert found["missing_records"] == [{"partition": 0, "offset": 0, "id": "lost"}]


def test_reconcile_exits_1_for_waiting_records_only_with_strict(
    run: Run, kept: World, tmp_path: Path
) -> None:
    kept.feature("a")
    keep(kept, tmp_path)

    assert run("reconcile", "--run", "last").exit_code == 0
    assert run("reconcile", "--run", "last", "--strict").exit_code == 1


def test_dead_letters_are_listed_and_shown(run: Run, kept: World, tmp_path: Path) -> None:
    kept.letter(kept.feature("a", partition=1), "missing value: column '[x]'")
    keep(kept, tmp_path)

    listed = run("deadletters", "list", "--run", "last")
    shown = run("deadletters", "show", "a", "--run", "last")
    as_json = json.loads(run("deadletters", "show", "1@0", "--run", "last", "--json").stdout)

    assert "'[x]'" in listed.stdout
    assert 'value  {"id":"a"' in shown.stdout
    assert (as_json["topic"], as_json["partition"], as_json["offset"]) == ("s.features", 1, 0)
    assert run("deadletters", "show", "b", "--run", "last").exit_code == 1


# ---- on a broker --------------------------------------------------------------------------------


@pytest.fixture
def world(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose broker the commands use."""
    world = World()
    (tmp_path / "s.toml").write_text(STREAM_FILE, encoding="utf-8")

    def opened(*_: object) -> Context:
        return Context(load_settings(), STREAM, world.broker)

    for module in ("deadletters", "topics", "status", "up"):
        monkeypatch.setattr(f"driftline_app.cli.{module}.open_context", opened)
    return world


def test_dead_letters_are_resent(run: Run, world: World) -> None:
    world.letter(world.feature("a"), "missing value")

    assert run("deadletters", "replay", "--dry-run").stdout.startswith("would resend 1")
    assert json.loads(run("deadletters", "replay", "--json").stdout)["sent"] == 1
    assert "skipped 1 that were already resent" in run("deadletters", "replay").stdout


def test_topics_are_planned_and_created(run: Run, world: World) -> None:
    assert run("topics", "plan").exit_code == 0
    world.broker.admin().delete(["s.drift"])

    plan = run("topics", "plan", "--json")
    applied = json.loads(run("topics", "apply", "--json").stdout)

    assert plan.exit_code == 1
    assert [
        item["topic"]["name"]
        for item in map(json.loads, plan.stdout.splitlines())
        if item["differences"]
    ] == ["s.drift"]
    assert applied == {"created": ["s.drift"], "differences": []}


@pytest.mark.parametrize(("retention", "exit_code"), [("-1", 0), ("1000", 1)])
def test_a_topic_with_longer_retention_is_shown_but_is_no_failure(
    run: Run, world: World, retention: str, exit_code: int
) -> None:
    admin = world.broker.admin()
    planned = next(topic for topic in world.topics.creation() if topic.name == "s.features")
    admin.delete(["s.features"])
    config = {**planned.config, "retention.ms": retention}
    admin.create([msgspec.structs.replace(planned, config=config)])
    plan, apply = run("topics", "plan", "--json"), run("topics", "apply")
    (found,) = json.loads(run("topics", "apply", "--json").stdout)["differences"]

    assert (plan.exit_code, apply.exit_code) == (exit_code, exit_code)
    assert run("topics", "plan").exit_code == exit_code
    assert f'"found":"{retention}"' in plan.stdout
    assert f"s.features: retention.ms is {retention}, planned 2592000000" in apply.stdout
    assert found["keeps_more"] is (exit_code == 0)


def test_status_exits_1_unless_all_services_run(run: Run, world: World) -> None:
    world.prediction(world.feature("a"))
    world.commit("inference", world.topics.features, 1)
    folder = folder_of(load_settings(), STREAM)

    def say(alive: bool) -> None:
        for service in SERVICES:
            write_state(
                folder,
                ServiceState(
                    service=service,
                    slot=0,
                    pid=os.getpid(),
                    born=(born(os.getpid()) or "") if alive else "before",
                    state="running",
                    started="2026-01-01T00:00:00Z",
                    updated=datetime.now(UTC).isoformat(),
                ),
            )

    say(alive=False)
    assert run("status").exit_code == 1
    say(alive=True)
    result = run("status", "--json")

    assert result.exit_code == 0
    lags = {s["service"]: s["lag"] for s in json.loads(result.stdout)["services"]}
    assert lags["inference"] == {"features": 0}
    assert lags["outcomes"] == {"predictions": 1, "labels": 0}


def test_down_reports_that_no_service_was_running(run: Run, world: World) -> None:
    assert run("down").stdout == "no service was running\n"


def test_broker_commands_report_that_no_broker_is_running(run: Run) -> None:
    assert run("broker", "status").exit_code == 1
    assert json.loads(run("broker", "status", "--json").stdout) == {"running": False}
    assert run("broker", "down").stdout == "the broker was not running\n"


def test_local_is_the_last_port_of_the_local_broker(run: Run, tmp_path: Path) -> None:
    assert load_settings().bootstrap_servers == "127.0.0.1:9092"
    (tmp_path / "home" / "kafka").mkdir(parents=True)
    (tmp_path / "home" / "kafka" / "port").write_text("19092", encoding="utf-8")

    assert load_settings(bootstrap_servers="local").bootstrap_servers == "127.0.0.1:19092"
    assert load_settings().bootstrap_servers == "127.0.0.1:19092"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DRIFTLINE_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("DRIFTLINE_LOG_FORMAT", "xml", "text, json"),
        ("DRIFTLINE_CLIENT", "java", "memory, kafka-python, librdkafka"),
    ],
)
def test_an_invalid_setting_is_an_error(name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is '{value}'") as refused:
        load_settings({name: value})
    assert refused.value.hint == f"expected one of {expected}"


def test_doctor_checks_the_installation_without_a_stream_file(run: Run) -> None:
    result = run("doctor", "--no-broker", "--json")

    checks = {check["name"]: check for check in map(json.loads, result.stdout.splitlines())}
    assert checks["Python"]["result"] == "ok"
    assert checks["stream file"]["result"] == "warn"
    assert result.exit_code == 1  # no key is trusted yet
    assert "keys new" in run("doctor", "--no-broker").stdout


def test_all_commands_are_registered() -> None:
    assert isinstance(command_line(), typer.Typer)
    assert {path[0] for path in ALL_MINE} == MINE
