"""`train`, `models`, `freeze` and `keys`, as an operator calls them."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Outgoing
from driftline.broker.scan import ranges, scan
from driftline.config.stream import load
from driftline.errors import DataError, DriftlineError, SettingsError, TopicMismatch
from driftline.models.catalog import pointer_record, read_catalog
from driftline.models.keys import Trusted, new_key
from driftline.wire.topics import Topics, apply
from driftline_app import context
from driftline_app.cli.keys import keys
from driftline_app.cli.models import freeze, models
from driftline_app.cli.train import train
from driftline_app.train_on_data import labelled_records
from producers.iris import STREAM_FILE
from tests.world import pointer

app = typer.Typer()
app.command()(train)
app.command()(freeze)
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")

TRAIN = ("train", "--data", "iris")


def call(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, DriftlineError):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.stdout


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """A broker with the topics of `iris.toml`, in an empty folder with that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    text = STREAM_FILE.read_text(encoding="utf-8")
    (tmp_path / "iris.toml").write_text(text, encoding="utf-8")
    made = MemoryBroker()
    monkeypatch.setattr(context, "connect", lambda *_: made)
    apply(made.admin(), Topics(load(tmp_path / "iris.toml")))
    return made


def test_the_first_model_is_trained_stored_and_made_champion(broker: MemoryBroker) -> None:
    output = call(*TRAIN)
    assert "logistic_regression" in output
    assert "this model is now the champion" in output
    catalog = read_catalog(broker, Topics(load(Path("iris.toml"))), Trusted(Path("home/keys")))
    digest = catalog.champion_digest
    assert digest is not None
    assert digest in output
    assert Path("home/models", digest.removeprefix("sha256:") + ".zip").is_file()


def test_a_second_model_waits_for_an_operator(broker: MemoryBroker) -> None:
    first = json.loads(call(*TRAIN, "--json"))
    Path("iris.toml").write_text(
        Path("iris.toml").read_text() + '\n[models]\ncandidates = ["decision_tree"]\n'
    )
    second = json.loads(call(*TRAIN, "--json"))
    assert (first["promoted"], second["promoted"]) == (True, False)
    lines = [json.loads(line) for line in call("models", "list", "--json").splitlines()]
    assert [(line["champion"], line["model"]["digest"]) for line in lines] == [
        (True, first["digest"]),
        (False, second["digest"]),
    ]
    short = second["digest"].removeprefix("sha256:")[:12]
    assert f"champion: {short}" in call("models", "promote", short, "--reason", "tried it")
    assert f"already the champion: {short}" in call("models", "promote", short)
    assert second["digest"] in call("models", "show", "champion")
    assert f"champion: {first['digest'][7:19]}" in call("models", "rollback")
    with pytest.raises(SettingsError, match="has not replaced a model"):
        call("models", "rollback")
    call("models", "rollback", "--to", short)
    assert json.loads(call("models", "show", short, "--json"))["champion"]


def test_promotion_and_rollback_show_the_metrics_of_both_models(broker: MemoryBroker) -> None:
    first = json.loads(call(*TRAIN, "--json"))
    file = Path("iris.toml")
    file.write_text(file.read_text() + '\n[models]\ncandidates = ["decision_tree"]\n')
    second = json.loads(call(*TRAIN, "--json"))
    shown = [
        f"{model['digest'][7:19]}  {model['candidate']}, accuracy {model['value']:.4g}"
        for model in (first, second)
    ]

    promoted = call("models", "promote", second["digest"]).splitlines()
    rolled_back = call("models", "rollback").splitlines()
    again = json.loads(call("models", "promote", second["digest"], "--json"))

    assert promoted[:2] == [f"champion: {shown[1]}", f"before:   {shown[0]}"]
    assert rolled_back[:2] == [f"champion: {shown[0]}", f"before:   {shown[1]}"]
    assert (again["champion"]["value"], again["before"]["value"]) == (
        second["value"],
        first["value"],
    )


def test_the_list_shows_metrics_champion_and_rolled_back_models_in_80_columns(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first = json.loads(call(*TRAIN, "--json"))
    file = Path("iris.toml")
    file.write_text(file.read_text() + '\n[models]\ncandidates = ["decision_tree"]\n')
    second = json.loads(call(*TRAIN, "--json"))
    call("models", "promote", second["digest"])
    call("models", "rollback", "--reason", "complaints since noon")

    heading, *rows = call("models", "list").splitlines()

    assert heading.split() == ["model", "trained", "(UTC)", "candidate", "accuracy"]
    assert rows[0].split() == [
        *("champion", first["digest"][7:19], *rows[0].split()[2:4]),
        *(first["candidate"], f"{first['value']:.4g}"),
    ]
    assert rows[1].startswith(f" rolled back  {second['digest'][7:19]}")
    assert rows[2].startswith("champion chosen by an operator at 20")
    assert rows[-1].endswith("complaints since noon")
    lines = [json.loads(line) for line in call("models", "list", "--json").splitlines()]
    assert [line["rolled_back"] for line in lines] == [False, True]


def test_a_model_that_does_not_exist_is_an_error(broker: MemoryBroker) -> None:
    assert "no models" in call("models", "list")
    with pytest.raises(SettingsError, match="there is no champion"):
        call("models", "show", "champion")
    call(*TRAIN)
    with pytest.raises(SettingsError, match="no model 'ffff'"):
        call("models", "show", "ffff")


def test_a_model_is_exported_with_its_manifest(broker: MemoryBroker) -> None:
    call(*TRAIN)
    output = call("models", "export", "champion", "out", "--format", "onnx", "--format", "pickle")
    assert [Path(line).suffix for line in output.splitlines()] == [".json", ".onnx", ".pickle"]
    assert all(Path(line).is_file() for line in output.splitlines())


def test_unsigned_records_of_an_earlier_version_are_signed_on_command(broker: MemoryBroker) -> None:
    call(*TRAIN)
    topics = Topics(load(Path("iris.toml")))
    old = MemoryBroker()
    apply(old.admin(), topics)
    for batch in scan(broker, ranges(broker, [topics.models])):
        for message in batch:
            value = (message.value or b"").replace(b'"sequence":1', b'"sequence":0')
            old.producer().send(Outgoing(topics.models, value, message.key, 0))
    broker._state.topics = old._state.topics
    assert "signed: role/champion" in call("models", "sign")
    assert "all records are already signed" in call("models", "sign")


def test_records_without_a_trusted_signature_are_listed_as_ignored(broker: MemoryBroker) -> None:
    first = json.loads(call(*TRAIN, "--json"))
    topics = Topics(load(Path("iris.toml")))
    forged = pointer("p9", "p1", "sha256:evil", sequence=9)
    broker.producer().send(pointer_record(topics, forged))
    assert "ignored record role/champion: unsigned" in call("models", "list")
    assert first["digest"] in call("models", "show", "champion")


def test_without_a_signing_key_nothing_is_promoted_or_frozen(broker: MemoryBroker) -> None:
    call(*TRAIN)
    Path("home/keys/signing.pem").rename("away.pem")
    with pytest.raises(SettingsError, match="no signing key"):
        call("freeze")


def test_an_untrusted_key_freezes_nothing_and_is_reported(
    broker: MemoryBroker,
) -> None:
    call(*TRAIN)
    new_key(Path("other"))
    Path("other/signing.pem").replace("home/keys/signing.pem")
    with pytest.raises(SettingsError, match="which is not trusted here"):
        call("freeze")
    assert "frozen" not in call("models", "list")


def test_freezing_is_seen_and_undone(broker: MemoryBroker) -> None:
    call(*TRAIN)
    assert "frozen" in call("freeze", "--reason", "audit")
    assert "promotion is frozen: audit" in call("models", "list")
    assert "allowed" in call("freeze", "--off")
    assert "frozen" not in call("models", "list")


def test_without_topics_nothing_is_trained(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "connect", lambda *_: MemoryBroker())
    with pytest.raises(TopicMismatch, match="is missing"):
        call(*TRAIN)


def test_data_without_labels_are_an_error(broker: MemoryBroker) -> None:
    header = "flower_id,measured_at,sepal_length,sepal_width,petal_length,petal_width,species"
    Path("bare.csv").write_text(f"{header}\n1,2020-01-01T00:00:00Z,1,1,1,1,\n")
    with pytest.raises(DataError, match="no row has a label"):
        labelled_records(load(Path("iris.toml")), "bare.csv")


def test_keys_are_created_listed_and_trusted(broker: MemoryBroker) -> None:
    assert "no trusted keys" in call("keys", "list")
    assert "signing.pem" in call("keys", "new")
    (own,) = [json.loads(line) for line in call("keys", "list", "--json").splitlines()]
    assert own["signs"]
    Path("home/keys").rename("theirs")
    call("keys", "new")
    assert own["id"] in call("keys", "trust", "theirs/signing.pub")
    listed = [json.loads(line) for line in call("keys", "list", "--json").splitlines()]
    assert sorted(item["signs"] for item in listed) == [False, True]
    with pytest.raises(SettingsError, match="exists"):
        call("keys", "new")
