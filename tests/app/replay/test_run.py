"""`driftline run` and `demo`: the services work together, and equal input gives equal topics."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from driftline.broker.memory import MemoryBroker
from driftline.config.stream import load
from driftline.wire.envelope import models_decoder
from driftline.wire.events import ModelAnnounced
from driftline.wire.topics import Topics
from driftline_app.replay.simulation import RunResult
from tests.app.cli.invoke import Invoked, invoke


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Invoked]:
    """The home folder after the demo ran, and the output of the demo."""
    home = tmp_path_factory.mktemp("demo") / "home"
    return home, invoke(home, "demo", "--json")


def result_of(invoked: Invoked) -> RunResult:
    return msgspec.json.decode(invoked.stdout.splitlines()[-1], type=RunResult)


def run_folder(home: Path) -> Path:
    (folder,) = (home / "runs").iterdir()
    return folder


def test_the_demo_detects_drift_retrains_replaces_the_model_and_recovers(
    demo: tuple[Path, Invoked],
) -> None:
    home, invoked = demo
    assert invoked.exit_code == 0, invoked.stderr
    result = result_of(invoked)
    assert result.lost == 0
    assert result.records == result.predictions == result.outcomes == 4800
    assert result.alerts
    assert all(alert.row >= 3000 for alert in result.alerts), "the sensor is good until row 3,000"
    assert len(result.models) > 1
    assert result.metric.loop is not None
    assert result.metric.static is not None
    assert result.metric.loop > result.metric.static + 0.05
    assert (run_folder(home) / "report.html").stat().st_size > 10_000


def test_events_are_printed_when_they_happen(demo: tuple[Path, Invoked]) -> None:
    _, invoked = demo
    for words in ("performance drift opened", "model swapped", "0 lost", "report:"):
        assert words in invoked.stderr


def test_the_same_run_twice_gives_the_same_topics(demo: tuple[Path, Invoked]) -> None:
    home, _ = demo
    first = run_folder(home)
    # Another process, and another order of Python's hash sets.
    again = invoke(home, "demo", "--json", environment={"PYTHONHASHSEED": "7"})
    assert again.exit_code == 0, again.stderr
    (second,) = set((home / "runs").iterdir()) - {first}
    try:
        assert _files(second / "topics") == _files(first / "topics")
    finally:
        shutil.rmtree(second)


def _files(folder: Path) -> dict[str, str]:
    """Return the digest of each file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "command",
    [
        ("tail", "drift"),
        ("reconcile",),
        ("deadletters", "list"),
    ],
)
def test_commands_read_a_finished_run(demo: tuple[Path, Invoked], command: tuple[str, ...]) -> None:
    home, _ = demo
    looked = invoke(home, *command, "--run", "last")
    assert looked.exit_code == 0, looked.stderr


def test_trace_leads_from_a_model_to_the_drift_that_caused_it(demo: tuple[Path, Invoked]) -> None:
    home, invoked = demo
    _, digest, *_ = result_of(invoked).models
    traced = invoke(home, "trace", digest, "--run", "last")
    assert traced.exit_code == 0, traced.stderr
    for step in ("retrain", "performance"):
        assert step in traced.stdout


def test_estimates_are_compared_with_metrics_from_labels(demo: tuple[Path, Invoked]) -> None:
    home, invoked = demo
    shown = invoke(home, "estimates", "--run", "last")
    assert shown.exit_code == 0, shown.stderr
    sentence = shown.stdout.splitlines()[-1]
    assert sentence.startswith("estimates without labels: mean error ")
    assert sentence in invoked.stderr, "the run itself says the same"
    told = json.loads(invoke(home, "estimates", "--run", "last", "--json").stdout)
    assert told["coverage"] == json.loads(invoked.stdout)["estimates"]
    outside = [w for w in told["windows"] if w["realised"] < w["estimate"]["low"]]
    assert shown.stdout.count("outside") == len(outside) > 0, "no estimate sees a broken sensor"


def test_a_published_model_names_its_parent_and_its_cause(demo: tuple[Path, Invoked]) -> None:
    home, _ = demo
    folder = run_folder(home)
    broker = MemoryBroker.load(folder / "topics")
    topic = Topics(load(folder / "stream.toml")).models
    consumer = broker.consumer()
    admin = broker.admin()
    consumer.assign({p: at.start for p, at in admin.offsets(topic).items()})
    events = [
        models_decoder.decode(m.value or b"") for m in consumer.poll(max_records=100, timeout_s=0)
    ]
    announced = [event for event in events if isinstance(event, ModelAnnounced)]
    assert announced[0].parent is None
    assert announced[1].parent == announced[0].digest
    assert (announced[1].cause or "").startswith("retrain-")


def test_missing_data_is_an_error_that_names_it(tmp_path: Path) -> None:
    stream = Path(__file__).parents[3] / "examples" / "iris.toml"
    failed = invoke(tmp_path / "home", "run", "nowhere.csv", "-s", str(stream))
    assert failed.exit_code == 2
    assert "nowhere.csv" in failed.stderr


@pytest.mark.kafka
def test_a_run_works_on_kafka(
    kafka_bootstrap: str, topic_name: Callable[[], str], tmp_path: Path
) -> None:
    file = tmp_path / "stream.toml"
    text = (Path(__file__).parents[3] / "examples" / "iris.toml").read_text(encoding="utf-8")
    file.write_text(text.replace('name = "iris"', f'name = "{topic_name()}"'), encoding="utf-8")
    arguments = ("run", "iris-drift", "-s", str(file), "--limit", "2500", "-b", kafka_bootstrap)

    done = invoke(tmp_path / "home", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    result = result_of(done)
    assert result.lost == 0
    assert result.records == result.predictions == result.outcomes == 2000

    again = invoke(tmp_path / "home", *arguments)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


def test_without_evidently_a_run_detects_drift_and_explains_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['evidently'] = None;"
        "from driftline_app.cli.entry import start; start()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--limit", "4500", "--json"],
        env=os.environ | {"DRIFTLINE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pip install 'driftline[evidently]'") == 1
    assert json.loads(done.stdout.splitlines()[-1])["alerts"]
    (run,) = (tmp_path / "runs").iterdir()
    assert "Evidently report" not in (run / "report.html").read_text(encoding="utf-8")
