"""Implement `driftline run`: stream a data set through all services, and write the run's folder.

Input: a stream file and a data set. Output: the folder with the topics, the result and the report.
Events are printed as they happen.
"""

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from driftline.client.saved_runs import STREAM_FILE, TOPICS
from driftline.config.settings import Settings
from driftline.config.stream import load
from driftline_app.replay.run_output import RunOutput
from driftline_app.replay.run_report import write_run_report
from driftline_app.replay.simulation import RunResult, Simulation, prepare
from producers.playback import Playback
from producers.sources import open_source


class Run(msgspec.Struct, frozen=True):
    """A finished run and its folder."""

    folder: Path
    simulation: Simulation
    result: RunResult
    output: RunOutput

    def write_report(self) -> None:
        """Write the result and the report to the folder, and print the totals."""
        (self.folder / "result.json").write_bytes(msgspec.json.encode(self.result))
        report = self.folder / "report.html"
        write_run_report(report, self.simulation, self.result)
        self.output.print_totals(self.result, report)


def play(
    file: Path,
    data: str,
    settings: Settings,
    *,
    warmup: float,
    limit: int | None,
    seed: int,
    on_kafka: bool,
    console: Console,
    progress: Callable[[str, int, int | None], None],
) -> Run:
    """Stream a data set, print the events, and save the topics. Raises DriftlineError.

    If the run does not finish, its folder is removed, so that `--run last` does not find it.
    """
    stream = load(file)
    output = RunOutput(stream, console)
    folder = _new_folder(settings, stream.name)
    try:
        shutil.copyfile(file, folder / STREAM_FILE)
        progress("warm-up", 0, None)
        simulation = prepare(
            stream,
            Playback(stream, open_source(data), seed=seed, limit=limit),
            settings,
            warmup=warmup,
            reports=folder / "reports",
            on_kafka=on_kafka,
            on_event=output.print_event,
            on_progress=lambda row: progress("streaming", row, simulation.total_rows),
            on_training=lambda step, done, total: progress(f"first model: {step}", done, total),
        )
        try:
            output.print_first_model(simulation.first)
            result = simulation.run()
            simulation.save(folder / TOPICS)
        finally:
            simulation.close()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Run(folder, simulation, result, output)


def _new_folder(settings: Settings, stream: str) -> Path:
    """Create a run's folder. Its name begins with the time, so that the newest run sorts last."""
    stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%S")
    folder = settings.runs / f"{stamp}-{stream}"
    number = 1
    while folder.exists():
        number += 1
        folder = settings.runs / f"{stamp}-{number:02}-{stream}"
    folder.mkdir(parents=True)
    return folder
