"""Ctrl-C during a run, at any moment: a run is saved completely or not at all."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import msgspec
import pytest
from typer.testing import CliRunner, Result

from driftline.client.saved_runs import run_folder
from driftline.config.settings import load_settings
from driftline.errors import SettingsError
from driftline_app.backtest.process_pool import start_ignoring_interrupts
from driftline_app.cli.main import command_line
from tests.world import STREAM_FILE

Command = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`driftline run` with a simulation and a report that the test controls."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    (tmp_path / "s.toml").write_text(STREAM_FILE, encoding="utf-8")
    simulation = MagicMock(total_rows=10, too_large=[])

    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "s.features-0.log").touch()

    simulation.save = save
    simulation.run.return_value = MagicMock(lost=0, too_large=0)
    monkeypatch.setattr("driftline_app.replay.run.RunOutput", MagicMock())
    monkeypatch.setattr("driftline_app.replay.run.write_run_report", MagicMock())
    monkeypatch.setattr("driftline_app.replay.run.prepare", lambda *_, **__: simulation)
    monkeypatch.setattr(msgspec.json, "encode", lambda _: b"{}")

    def invoke(interrupted_at: str | None = None) -> Result:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        match interrupted_at:
            case "training":
                monkeypatch.setattr("driftline_app.replay.run.prepare", interrupt)
            case "playing":
                simulation.run = interrupt
            case "saving":
                simulation.save = lambda folder: (save(folder), interrupt())  # type: ignore[func-returns-value]
            case "reporting":
                monkeypatch.setattr("driftline_app.replay.run.write_run_report", interrupt)
        return CliRunner().invoke(command_line(), ["run", "iris"])

    return invoke


def runs(home: Path) -> list[Path]:
    return sorted(path for path in (home / "runs").iterdir() if (path / "stream.toml").exists())


@pytest.mark.parametrize("moment", ["training", "playing", "saving"])
def test_a_run_that_is_interrupted_before_its_end_leaves_no_folder(
    run: Command, tmp_path: Path, moment: str
) -> None:
    result = run(moment)

    assert result.exit_code == 130
    assert "interrupted: this run was not saved" in result.output
    assert runs(tmp_path / "home") == []
    with pytest.raises(SettingsError, match="no run in"):
        run_folder(load_settings(), "last")


def test_a_run_that_is_interrupted_while_writing_its_report_is_saved_and_found(
    run: Command, tmp_path: Path
) -> None:
    result = run("reporting")

    (folder,) = runs(tmp_path / "home")
    assert result.exit_code == 130
    assert f"interrupted: run {folder.name} is saved" in result.output
    assert run_folder(load_settings(), "last") == folder


def test_a_run_that_fails_leaves_no_folder(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SettingsError("no such data")

    monkeypatch.setattr("driftline_app.replay.run.prepare", fail)

    assert isinstance(run().exception, SettingsError)
    assert runs(tmp_path / "home") == []


def test_the_last_run_is_the_newest_one_with_topics(run: Command, tmp_path: Path) -> None:
    assert run().exit_code == 0
    (whole,) = runs(tmp_path / "home")
    killed = tmp_path / "home" / "runs" / "29990101T000000-s"
    killed.mkdir()
    (killed / "stream.toml").write_text(STREAM_FILE, encoding="utf-8")

    assert run_folder(load_settings(), "last") == whole
    with pytest.raises(SettingsError, match="run 29990101T000000-s has no saved topics"):
        run_folder(load_settings(), killed.name)


def test_processes_of_a_backtest_ignore_ctrl_c_from_their_start() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); raise SystemExit(7)"
    process = multiprocessing.get_context("spawn").Process(target=exec, args=(code,))
    start_ignoring_interrupts(process)
    process.join()

    assert process.exitcode == 7
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_while_a_process_of_a_backtest_starts_is_not_lost() -> None:
    process = MagicMock()
    process.start = lambda: os.kill(os.getpid(), signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            start_ignoring_interrupts(process)
    finally:
        signal.signal(signal.SIGINT, before)
