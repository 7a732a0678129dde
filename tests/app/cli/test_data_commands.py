"""`init`, `config` and `produce`, called as a user calls them."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Message
from driftline.config.settings import load_settings
from driftline.config.stream import load
from driftline.errors import DriftlineError, SettingsError, TopicMismatch
from driftline.wire.topics import Topics
from driftline_app.cli.config import config
from driftline_app.cli.init import init
from driftline_app.cli.produce import produce
from driftline_app.context import Context
from producers.iris import STREAM_FILE
from producers.playback import Play

app = typer.Typer()
for command in (init, config, produce):
    app.command()(command)


def call(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, DriftlineError):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"{i % 17},{'a' if i % 3 else 'b'}" for i in range(1200)]
    (tmp_path / "My Data.csv").write_text("\n".join(["x,y", *lines, ""]))
    return tmp_path


def test_init_writes_a_file_that_config_explains(here: Path) -> None:
    output = call("init", "My Data.csv", "--target", "y")
    assert "classification of y: a, b" in output
    assert "wrote my-data.toml; next: driftline run 'My Data.csv' --stream my-data.toml" in output
    assert load(here / "my-data.toml").target == "y"
    assert "column to predict" in call("config")
    printed = call("config", "--stream", "my-data.toml", "--json")
    rows = [json.loads(line) for line in printed.splitlines()]
    target = next(row for row in rows if row["key"] == "target")
    assert target == {
        "key": "target",
        "value": '"y"',
        "given": True,
        "meaning": "column to predict",
    }


def test_init_does_not_overwrite_an_edited_file(here: Path) -> None:
    call("init", "My Data.csv", "--target", "y", "--name", "mine")
    call("init", "My Data.csv", "--target", "y", "--name", "mine")  # the same text: no harm
    (here / "mine.toml").write_text("# edited")
    with pytest.raises(SettingsError, match="already exists"):
        call("init", "My Data.csv", "--target", "y", "--name", "mine")
    call("init", "My Data.csv", "--target", "y", "--name", "mine", "--force")
    assert load(here / "mine.toml").name == "mine"
    with pytest.raises(SettingsError, match="lower-case"):
        call("init", "My Data.csv", "--target", "y", "--name", "My Data")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    broker = MemoryBroker()
    context = Context(load_settings({}), load(STREAM_FILE), broker)
    monkeypatch.setattr("driftline_app.cli.produce.open_context", lambda *_: context)
    return broker


def records(broker: MemoryBroker, topic: str) -> list[Message]:
    consumer = broker.consumer()
    offsets = broker.admin().offsets(topic)
    consumer.assign({partition: found.start for partition, found in offsets.items()})
    return consumer.poll(max_records=100_000, timeout_s=0.0)


def test_produce_sends_rows_and_continues_their_numbers(broker: MemoryBroker) -> None:
    topics = Topics(load(STREAM_FILE))
    with pytest.raises(TopicMismatch, match=r"iris\.features is missing"):
        call("produce", "iris-drift")
    broker.admin().create(topics.creation())
    result = json.loads(call("produce", "iris-drift", "--limit", "40", "--skip", "10", "--json"))
    assert result == {
        "records": 40,
        "labels": 40,
        "row": 49,
        "too_large": 0,
        "interrupted": False,
    }
    assert "50 records and 0 labels delivered" in call(
        "produce", "iris-drift", "--limit", "50", "--no-labels"
    )
    numbers = [
        msgspec.json.decode(m.value or b"")["@row"] for m in records(broker, "iris.features")
    ]
    assert sorted(numbers) == list(range(10, 100))
    assert len(records(broker, "iris.labels")) == 40


@pytest.mark.parametrize(("skip", "first"), [("0", 0), ("100", 100), ("0.2", 1200)])
def test_limit_counts_rows_after_the_skipped_ones(
    broker: MemoryBroker, skip: str, first: int
) -> None:
    broker.admin().create(Topics(load(STREAM_FILE)).creation())
    result = json.loads(call("produce", "iris-drift", "--skip", skip, "--limit", "7", "--json"))
    assert (result["records"], result["row"]) == (7, first + 6)
    numbers = [
        msgspec.json.decode(m.value or b"")["@row"] for m in records(broker, "iris.features")
    ]
    assert sorted(numbers) == list(range(first, first + 7))


def test_an_interrupted_produce_reports_the_last_row(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.admin().create(Topics(load(STREAM_FILE)).creation())

    def interrupted(plays: Iterable[Play], *_: object, **__: object) -> Iterator[Play]:
        for count, play in enumerate(plays):
            if count == 7:
                raise KeyboardInterrupt
            yield play

    monkeypatch.setattr("driftline_app.produce_data.paced", interrupted)
    output = call("produce", "iris-drift", exit_code=130)
    assert output == "interrupted: 7 records and 0 labels delivered, up to data row 6\n"
    assert len(records(broker, "iris.features")) == 7


@pytest.mark.parametrize("skip", ["x", "-1", "1.5", "1.0"])
def test_a_wrong_skip_is_an_error_that_shows_valid_values(broker: MemoryBroker, skip: str) -> None:
    broker.admin().create(Topics(load(STREAM_FILE)).creation())
    if skip == "1.0":
        call("produce", "iris-drift", "--limit", "3", "--skip", skip)  # one row, not everything
        return
    with pytest.raises(SettingsError, match="expected a number such as 1000"):
        call("produce", "iris-drift", "--limit", "3", f"--skip={skip}")
