"""All commands: how they name the stream file, errors, version, completion."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from driftline import errors
from driftline.errors import StreamFileError
from driftline.wire.topics import SERVICES
from driftline_app.cli import completion
from driftline_app.cli.main import command_line, main
from driftline_app.stream_file import find_stream_file
from tests.world import STREAM_FILE

# Commands that work on no stream, or on data from which they create its file.
WITHOUT_STREAM = {
    *("init", "demo", "broker up", "broker down", "broker status"),
    *("keys new", "keys trust", "keys list"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    return tmp_path


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


ALL = dict(commands(typer.main.get_command(command_line())))


# ---- the stream file -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_names_the_stream_file_in_the_same_way(name: str) -> None:
    named = [p.opts for p in ALL[name].params if p.metavar == "FILE" or "--stream" in p.opts]

    assert named == ([] if name in WITHOUT_STREAM else [["--stream", "-s"]])


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_option_and_argument_is_explained(name: str) -> None:
    unexplained = [p.opts for p in ALL[name].params if not getattr(p, "help", None)]

    assert not unexplained
    assert ALL[name].help


def test_the_only_stream_file_of_the_folder_is_used(here: Path) -> None:
    (here / "mine.toml").write_text(STREAM_FILE)
    (here / "pyproject.toml").write_text('[project]\nname = "other"\n')

    assert find_stream_file(None) == Path("mine.toml")


def test_without_a_stream_file_the_error_names_the_ways_to_get_one(here: Path) -> None:
    with pytest.raises(StreamFileError, match="no stream file in this folder") as raised:
        find_stream_file(None)

    assert "--stream FILE" in raised.value.hint
    assert "driftline init" in raised.value.hint


def test_several_stream_files_are_listed(here: Path) -> None:
    for name in ("b.toml", "a.toml"):
        (here / name).write_text(STREAM_FILE)

    with pytest.raises(StreamFileError, match=r"several .* a\.toml, b\.toml") as raised:
        find_stream_file(None)

    assert "--stream FILE" in raised.value.hint


def test_an_invalid_toml_file_is_named_with_its_error(here: Path) -> None:
    (here / "mine.toml").write_text("version = 1\nname = iris\n")

    with pytest.raises(StreamFileError, match=r"mine\.toml \(Invalid value \(at line 2"):
        find_stream_file(None)


def test_a_stream_file_without_its_version_is_found(here: Path) -> None:
    (here / "mine.toml").write_text(STREAM_FILE.replace("version = 1\n", ""))

    assert find_stream_file(None) == Path("mine.toml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "mine.toml"],
        ["health", "inference", "mine.toml"],
        ["run", "mine.toml", "nowhere.csv"],
        ["backtest", "mine.toml", "nowhere.csv"],
    ],
)
def test_the_stream_file_as_an_argument_is_accepted_with_a_note(
    here: Path, arguments: list[str]
) -> None:
    (here / "mine.toml").write_text(STREAM_FILE)
    (here / "other.toml").write_text(STREAM_FILE)
    result = CliRunner().invoke(command_line(), arguments)

    assert "use --stream mine.toml" in result.stderr
    if "nowhere.csv" in arguments:
        assert "no such file: nowhere.csv" in str(result.exception)
    else:
        assert not isinstance(result.exception, errors.DriftlineError)


def test_an_id_that_looks_like_a_stream_file_is_an_id(here: Path) -> None:
    (here / "mine.toml").write_text(STREAM_FILE)
    result = CliRunner().invoke(command_line(), ["trace", "record.toml", "--run", "last"])

    assert "deprecated" not in result.stderr
    assert "no run" in str(result.exception)


# ---- errors, version -----------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["driftline", *arguments])
    monkeypatch.setattr("driftline_app.cli.main.catch", lambda: None)  # pytest handles Ctrl-C
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["tail", "drift"], "StreamFileError", "no stream file in this folder"),
        (["tail", "drift", "--run", "last"], "SettingsError", "no run in"),
        (["produce"], "UsageError", "Missing argument 'DATA'."),
        (["up", "--wrong"], "UsageError", "No such option: --wrong"),
        (["upp"], "UsageError", "No such command 'upp'."),
    ],
)
def test_with_json_an_error_is_one_object_on_standard_error(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    kind: str,
    message: str,
) -> None:
    assert run(monkeypatch, *arguments, "--json") == 2

    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    error = json.loads(line)["error"]
    assert printed.out == ""
    assert (error["type"], error["message"].startswith(message)) == (kind, True)
    assert set(error) == {"type", "message", "hint"}


def test_with_json_the_exit_code_of_a_failed_check_stays_1(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.toml").write_text(STREAM_FILE)

    assert run(monkeypatch, "health", "inference", "--json") == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def test_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("driftline ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "home/runs"), "home/runs: Permission"),
        (OSError(errno.ENOSPC, "No space left on device", "a", None, "b"), "a and b: No space"),
        (ConnectionResetError("gone"), "gone"),
    ],
)
def test_an_error_of_the_operating_system_is_explained(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    message: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    (here / "mine.toml").write_text(STREAM_FILE)
    monkeypatch.setattr("driftline_app.cli.health.read_state", fail)
    codes = [run(monkeypatch, "health", "inference", *more) for more in ((), ("--json",))]
    text, line = capsys.readouterr().err.strip().rsplit("\n", 1)

    assert codes == [2, 2]
    assert text.startswith(f"error: {message}")
    assert json.loads(line)["error"]["type"] == "MachineError"
    assert json.loads(line)["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ("run iris", "home"),
        ("run iris", "home/runs"),
        ("demo --limit 400", "home/keys"),
        ("keys new", "home"),
        ("keys new", "home/keys"),
        ("broker up", "home"),
        ("backtest iris --report home", "home"),
    ],
)
@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_a_file_in_the_place_of_a_folder_is_named(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    place: str,
    what: str,
) -> None:
    (here / "mine.toml").write_text(STREAM_FILE)
    path = here / place
    path.parent.mkdir(exist_ok=True)
    path.touch() if what == "file" else path.symlink_to("nowhere")
    code = run(monkeypatch, *arguments.split())
    error = capsys.readouterr().err

    assert code == 2
    assert error.startswith("error: ")
    assert place in error


def test_an_unknown_error_is_no_usage_error_and_keeps_its_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine.toml").write_text(STREAM_FILE)
    monkeypatch.setattr("driftline_app.cli.health.read_state", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, "health", "inference", "--json")


# ---- completion ----------------------------------------------------------------------------------


def completed(folder: Path, line: str) -> list[str]:
    """Return what bash is offered for the last word of a command line."""
    words = line.split(" ")
    code = "import sys; sys.argv = ['driftline']; from driftline_app.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ
        | {
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "_DRIFTLINE_COMPLETE": "complete_bash",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_commands_services_and_topics(here: Path) -> None:
    (here / "mine.toml").write_text(STREAM_FILE)

    assert completed(here, "driftline rec") == ["reconcile"]
    assert completed(here, "driftline health ") == list(SERVICES)
    assert completed(here, "driftline tail dr") == ["drift"]
    assert completed(here, "driftline tail s.dr") == ["s.drift"]


def test_stream_files_and_folders_are_completed(here: Path) -> None:
    for name in ("mine.toml", "streams/other.toml", ".hidden/x.toml"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(STREAM_FILE)
    (here / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (here / "broken.toml").write_text("=")

    assert completion.stream_files("") == ["mine.toml", "streams/"]
    assert completion.stream_files("streams/") == ["streams/other.toml"]
    assert completion.stream_files("nowhere/") == []
    assert completion.stream_files(".h") == [".hidden/"]


def test_data_runs_and_policies_are_completed(here: Path) -> None:
    runs = (f"home/runs/{name}/stream.toml" for name in ("1-s", "2-s"))
    for name in ("rows.csv.gz", "notes.txt", *runs):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()

    assert completion.data_sets("") == ["iris", "iris-drift", "river:", "home/", "rows.csv.gz"]
    assert completion.runs("") == ["last", "2-s", "1-s"]
    assert completion.policies("s") == ["schedule"]


def test_nothing_is_completed_where_settings_are_wrong(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_CLIENT", "carrier-pigeon")

    assert completion.runs("") == ["last"]
