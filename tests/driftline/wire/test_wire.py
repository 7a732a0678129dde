"""The wire format: stored examples, JSON Schemas and docs/events.md match the code.

The name of a file in `golden` consists of topic and event. If such a file must change, the format
changes for every reader of that topic.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from driftline.config.stream import load
from driftline.wire import envelope, events, partial_aggregates, window_events
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec

ROOT = Path(__file__).parents[3]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.json"))
DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "predictions": envelope.predictions_decoder,
    "outcomes": envelope.outcomes_decoder,
    "parts": envelope.parts_decoder,
    "windows": envelope.windows_decoder,
    "drift": envelope.drift_decoder,
    "retrain": envelope.retrain_decoder,
    "models": envelope.models_decoder,
}
EVENTS = [path for path in GOLDEN if path.name.split(".")[0] in DECODERS]
by_example = pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)


def event_types() -> dict[str, type[msgspec.Struct]]:
    """Return the event classes by the value of their field `type`."""
    return {
        str(kind.__struct_config__.tag): kind
        for module in (events, window_events, partial_aggregates)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, events.Event) and kind is not events.Event
    }


@by_example
def test_an_example_is_decoded_and_encoded_to_the_same_bytes(path: Path) -> None:
    topic, kind, *_ = path.name.split(".")
    value = path.read_bytes().rstrip(b"\n")
    event = DECODERS[topic].decode(value)
    assert event.__struct_config__.tag == kind
    assert envelope.encode(event) == value


@by_example
def test_an_example_matches_the_schema_of_its_topic(path: Path) -> None:
    topic = path.name.split(".")[0]
    schema = json.loads((ROOT / "docs" / "schemas" / f"{topic}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    errors = list(Draft202012Validator(schema).iter_errors(json.loads(path.read_bytes())))
    assert not errors


def test_every_event_has_an_example() -> None:
    assert {path.name.split(".")[1] for path in EVENTS} == set(event_types())


def test_a_feature_record_is_decoded_according_to_the_stream_file() -> None:
    codec = RecordCodec(load(ROOT / "examples" / "iris.toml"))
    value = (ROOT / "tests" / "golden" / "features.iris.json").read_bytes()
    batch = codec.decode([value])
    assert not batch.rejected
    assert batch.ids == ["flower-000017"]
    assert batch.rows == [17]
    assert batch.times_us == [1_736_150_417_000_000]
    assert batch.columns.numbers["petal_length"].tolist() == [1.4]


def test_a_label_is_decoded_according_to_the_stream_file() -> None:
    codec = LabelCodec(load(ROOT / "examples" / "iris.toml"))
    label = codec.decode((ROOT / "tests" / "golden" / "labels.iris.json").read_bytes())
    assert (label.record_id, label.label, label.at) == ("flower-000017", "setosa", 47)


def documented_fields() -> Iterator[tuple[str, str, set[str]]]:
    """Yield (event, part, fields) of each table in docs/events.md."""
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        event = section.split("\n", 1)[0]
        for what, rows in re.findall(
            r"^\| field(?: of an? (\w+))? \| \|\n\|.*\n((?:\|.*\n)+)", section, flags=re.M
        ):
            first_cells = [row.split("|")[1] for row in rows.splitlines()]
            yield (
                event,
                what,
                {name for cell in first_cells for name in re.findall(r"`(.+?)`", cell)},
            )


def test_exactly_the_fields_of_all_events_are_documented() -> None:
    parts: dict[tuple[str, str], type[msgspec.Struct]] = {
        ("watermark", "letter"): events.RejectedRecord,
        ("watermark", "log"): events.Log,
        ("watermark", "gap"): events.Gap,
        ("data_window", "group"): window_events.DataGroup,
        ("data_window", "relation"): window_events.DependenceDrift,
        ("data_window", "column"): window_events.ColumnResult,
        ("data_window", "estimate"): window_events.MetricEstimate,
        ("performance_window", "group"): window_events.PerformanceGroup,
        ("data_parts", "part"): partial_aggregates.SlideAggregate,
        ("data_parts", "group"): partial_aggregates.GroupAggregate,
        ("data_parts", "sample"): partial_aggregates.SampledRecords,
        ("data_parts", "category"): partial_aggregates.Codes,
        ("performance_parts", "part"): partial_aggregates.PaneAggregate,
        ("performance_parts", "model"): partial_aggregates.ModelAggregate,
        ("performance_parts", "pair"): partial_aggregates.Pair,
        ("performance_parts", "sum"): partial_aggregates.ErrorSums,
        ("performance_parts", "ranking"): partial_aggregates.ScoreCounts,
        ("performance_parts", "sample"): partial_aggregates.SampledErrors,
    }
    expected = {
        (name, ""): {"type", *kind.__struct_fields__} for name, kind in event_types().items()
    } | {key: set(kind.__struct_fields__) for key, kind in parts.items()}
    assert {(event, what): fields for event, what, fields in documented_fields()} == expected


def test_the_schemas_match_the_code() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "schemas.py"), "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
