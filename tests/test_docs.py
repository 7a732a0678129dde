"""The documents are correct: commands exist and run, links and paths exist."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from driftline import FeatureProducer
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker, Outgoing
from driftline.broker.scan import ranges
from driftline.config.stream import load
from driftline.ops.status import newest
from driftline.wire.topics import Topics
from driftline_app.cli.main import command_line

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BY_PATH = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


# ---- paths, links, commands -------------------------------------------------------------------


def prose(page: Path) -> str:
    """Return the page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@BY_PATH
def test_the_targets_of_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(page)):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@BY_PATH
def test_paths_of_the_project_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:driftline|driftline_app|producers|consumers|monitor|trainer|tests|docs|scripts|examples)/[^\s`]*)",
        prose(page),
    )
    for path in named:
        assert (ROOT / path).exists(), path


@BY_PATH
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"(?:`|^\$ )driftline ([^`\n]+)", text, flags=re.M):
        assert_is_command(line)


def assert_is_command(line: str) -> None:
    """Assert that a command line names a command and only options of that command."""
    command: object = typer.main.get_command(command_line())
    words = line.split()
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if word.startswith("-"):
            return
        commands = typing.cast(dict[str, object], command.commands)
        # "up|down" means two commands.
        for name in word.rstrip(":,").split("|"):
            assert name in commands, f"driftline {line}: no command {name!r}"
        command = commands[word.rstrip(":,").split("|")[0]]
    options = {
        option for parameter in getattr(command, "params", ()) for option in parameter.opts
    } | {"--help"}
    for word in words:
        if re.match(r"-[-a-z]", word):
            assert word.split("=")[0] in options, f"driftline {line}: no option {word!r}"


# ---- commands that run ---------------------------------------------------------------------------


def blocks(name: str) -> list[str]:
    """Return the commands of all blocks in the README that are marked `<!-- runs: name -->`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"<!-- runs: {name} -->\n```console\n(.*?)^```", text, flags=re.M | re.S)
    commands: list[str] = []
    for block in found:
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
    assert commands, f"no block is marked {name!r}"
    return commands


def run(commands: list[str], folder: Path, **environment: str) -> None:
    """Run commands one after the other in `folder`, with this Python's `driftline`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=os.environ | {"PATH": path} | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that contains the examples, like a new clone."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def test_the_quick_start_runs(folder: Path) -> None:
    run(blocks("quickstart"), folder)


@pytest.mark.kafka
def test_the_commands_on_kafka_run(
    folder: Path, kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    with (folder / "examples" / "iris.toml").open("a", encoding="utf-8") as stream:
        stream.write(f'\n[kafka]\ntopic_prefix = "{topic_name()}."\n')
    # The broker under test is already running.
    commands = [line for line in blocks("kafka") if not line.startswith("driftline broker ")]
    down = next(line for line in commands if line.startswith("driftline down "))
    try:
        run(commands, folder, KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap)
    finally:
        run([down], folder)


# ---- Python that runs ----------------------------------------------------------------------------


def python_blocks() -> list[str]:
    """Return the Python blocks of all pages."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)


@pytest.fixture
def saved_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Return the broker of the newest saved run, which has an outcome and a drift event."""
    from producers.iris import STREAM_FILE

    monkeypatch.chdir(folder)
    monkeypatch.setenv("DRIFTLINE_HOME", str(folder / "home"))
    run = folder / "home" / "runs" / "1-iris"
    run.mkdir(parents=True)
    shutil.copyfile(STREAM_FILE, run / "stream.toml")
    broker = MemoryBroker()
    broker.admin().create(Topics(load(STREAM_FILE)).creation())
    for event in ("predictions.prediction", "outcomes.outcome", "drift.drift"):
        value = (ROOT / "tests" / "golden" / f"{event}.json").read_bytes()
        broker.producer().send(Outgoing(f"iris.{event.split('.')[0]}", value, partition=0))
    broker.save(run / "topics")
    return broker


def test_the_python_examples_of_the_documents_run(
    saved_run: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    # Those that follow a topic do not end.
    blocks = [block for block in python_blocks() if "follow=True" not in block]
    assert len(blocks) == 5
    for block in blocks:
        # The broker under test is in memory.
        exec(block.replace('"127.0.0.1:9092"', "kafka"), {"kafka": saved_run})
    printed = capsys.readouterr().out
    assert "flower-000017 setosa" in printed
    assert "data opened petal_length shifted" in printed
    assert "stream iris" in printed


def test_the_example_of_a_producer_sends_a_record_and_its_label(saved_run: Broker) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "client.py"))
    with FeatureProducer(saved_run, example["STREAM"]) as producer:
        assert example["send"](producer) == "rose-1"
    for role in ("features", "labels"):
        (message,) = newest(saved_run, ranges(saved_run, [f"iris.{role}"]), 1)
        assert b'"rose-1"' in (message.value or b"")


def test_the_example_of_a_subscriber_prints_models_and_drift(
    saved_run: Broker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["subscriber.py"])
    runpy.run_path(str(ROOT / "examples" / "subscriber.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "sha256:5c1e5c1e5c1e  accuracy 1.000 on 1 records",
        "data drift opened: petal_length shifted by 0.87 standard deviations",
    ]


# ---- decisions, examples, requirements -----------------------------------------------------------


def test_decisions_are_numbered_and_have_three_parts() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, page in enumerate(pages, 1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        for part in ("Context", "Decision", "Consequences"):
            assert f"\n**{part}.** " in text, page.name


def test_the_example_is_the_stream_file_of_the_demo() -> None:
    from producers.iris import STREAM_FILE

    example = ROOT / "examples" / "iris.toml"
    assert example.read_bytes() == STREAM_FILE.read_bytes()
    assert load(example).name == "iris"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_pinned_with_hashes_and_without_a_server(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*-[^-]|^--", text, flags=re.M)
    for entry in re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", text)):
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize(
    ("name", "extras"),
    [("requirements.txt", ("all",)), ("requirements-dev.txt", ("all", "dev"))],
)
def test_requirements_contain_the_dependencies_of_the_project(
    name: str, extras: tuple[str, ...]
) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    pinned = {
        canonicalize_name(found[1]): found[2]
        for found in re.finditer(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", text, flags=re.M)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    while asked:
        requirement = Requirement(asked.pop())
        if requirement.name == "driftline":
            asked += [line for extra in requirement.extras for line in optional[extra]]
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement
