"""A stream file is validated when it is read, and errors name the key and the expected value."""

import tomllib
from pathlib import Path

import pytest

from driftline.config.spans import Span
from driftline.config.stream import Stream, load, loads
from driftline.config.stream_keys import describe
from driftline.errors import StreamFileError

HEAD = 'version = 1\nname = "a"\ntask = "classification"\ntarget = "y"\n'
SMALL = HEAD + 'features = { a = "number" }\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + 'features = { a = "numbr" }',
            '[features.a] Expected "number", "category" or a table, got "numbr"',
        ),
        (
            HEAD + 'features = { "b c" = { kind = "number", mn = 3 } }',
            "[features.\"b c\".mn] Unknown key. Did you mean 'min'?",
        ),
        (
            HEAD + 'features = { a = "number", b = { kind = "number", min = "x" } }',
            '[features.b.min] Expected a number, got "x" (smaller values are out of range)',
        ),
        (
            HEAD + 'features = { b = { kind = "number", min = 5, max = 1 } }',
            "[features.b.min] Expected at most `max`, 1, got 5",
        ),
        (
            SMALL + '[windows]\nspan = "1h"',
            "[windows.span] Expected `records` instead, because the stream has no event time",
        ),
        (
            SMALL + '[record]\nid = "@rows"',
            '[record.id] Expected a column or "@row", got "@rows"',
        ),
        (
            SMALL + "[retrain]\ntrain_on = 10",
            "[retrain.train_on] Expected at least `min_outcomes`, 200, got 10",
        ),
        (HEAD + 'featurs = { a = "number" }', "[featurs] Unknown key. Did you mean 'features'?"),
        (HEAD, "[features] Missing. Expected a table"),
        (SMALL + "[windows]\nrecords = 3", "[windows.records] Expected a whole number from 20"),
        (SMALL + "[windows]\nrecord = 3", "[windows.record] Unknown key. Did you mean 'records'?"),
        (
            SMALL + f"[windows]\nmin_records = {2**63 - 1}",
            "[windows.min_records] Expected a number of at most 9007199254740992, got 92233",
        ),
        (
            SMALL + '[retrain]\ncooldown = "3650000d"',
            '[retrain.cooldown] Expected a duration of at most 366000d, got "3650000d"',
        ),
        (
            SMALL + '[simulate]\nlabel_delay = "3650000d"',
            "[simulate.label_delay] Expected a duration of at most 366000d, got '3650000d'",
        ),
        (
            SMALL + "[windows]\nzzz = 3",
            "[windows.zzz] Unknown key. Expected one of records, span, slide",
        ),
        (
            SMALL + "[windows]\nrecords = 600\nslide = 200",
            "[windows.slide] Expected the window of 600 records, or half, a quarter, fifth, tenth "
            "or twentieth of it, got 200 records",
        ),
        (SMALL + '[windows]\nslide = "1h"', "[windows.slide] Expected the window of 1000 records"),
        (SMALL + '[retrain]\non = ["data", "x"]', "[retrain.on[1]] Expected"),
        (SMALL + "[retrain]\non = []", "[retrain.on] Expected"),
        (SMALL + '[retrain]\non = ["quality"]', "[retrain.on] Expected only with policy"),
        (SMALL + '[retrain]\npolicy = "sometimes"', "[retrain.policy] Expected"),
        (SMALL + "[retrain]\nbudget = { requests = 0, per = 9 }", "[retrain.budget.requests]"),
        (SMALL + '[retrain]\ncooldown = "3 days"', "[retrain.cooldown] Expected a duration"),
        (
            SMALL + '[simulate]\nlabel_delay = { distribution = "uniform", lo = 1 }',
            "[simulate.label_delay.lo] Unknown key. Did you mean 'low'?",
        ),
        (SMALL + '[simulate]\nlabel_delay = "soon"', "[simulate.label_delay] Expected a duration"),
        (
            SMALL + "[time]\nstart = 2020-01-01T00:00:00\nstep = '1s'",
            "[time.start] Expected a time with a time zone",
        ),
        (SMALL + "[derived]\nx = 3", "[derived.x] Expected text, got 3"),
        (
            SMALL + '[derived]\nx = "b + 1"',
            "[derived.x] the expression 'b + 1' uses 'b', which is not a declared feature",
        ),
        (SMALL + "[kafka]\npartitions = 0", "[kafka.partitions] Expected a whole number from 1"),
        (
            SMALL.replace('"a"', '"A b"'),
            '[name] Expected text, got "A b" (name of the stream: lower-case',
        ),
        ("version = 2", "[version] Expected 1, got 2"),
        ("version = ", "not TOML"),
    ],
)
def test_an_error_names_the_file_the_key_and_the_expected_value(text: str, message: str) -> None:
    with pytest.raises(StreamFileError) as caught:
        loads(text, name="a.toml")
    assert caught.value.message.startswith("a.toml: ")
    assert message in caught.value.message


WITH_TIME = SMALL + 'time = { column = "at" }\n'
HUGE = "1" + "0" * 30


@pytest.mark.parametrize("value", ['"0s"', '"0.0001ms"', "0"])
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[windows]\nspan = {}", "windows.span"),
        ("[windows]\nslide = {}", "windows.slide"),
        ("[windows]\nmax_ahead = {}", "windows.max_ahead"),
        ("[windows]\nidle = {}", "windows.idle"),
        ("[drift]\nblock = {}", "drift.block"),
        ("[retrain]\nevery = {}", "retrain.every"),
        ("[retrain]\ntrain_on = {}", "retrain.train_on"),
        ("[retrain]\nbudget = {{ requests = 1, per = {} }}", "retrain.budget.per"),
        ("[kafka]\nretention = {}", "kafka.retention"),
    ],
)
def test_a_span_of_0_is_rejected_where_it_makes_no_sense(text: str, key: str, value: str) -> None:
    with pytest.raises(StreamFileError) as caught:
        loads(WITH_TIME + text.format(value))
    shown = value if value == "0" else '"0ms"'
    assert f"[{key}] Expected more than 0, got {shown}" in caught.value.message


def test_a_time_step_of_0_is_rejected() -> None:
    with pytest.raises(StreamFileError, match=r"\[time\.step\] Expected more than 0"):
        loads(SMALL + '[time]\nstart = 2020-01-01T00:00:00Z\nstep = "0s"')


def test_the_idle_time_must_be_a_duration() -> None:
    with pytest.raises(StreamFileError, match=r"\[windows\.idle\] Expected a duration"):
        loads(SMALL + "[windows]\nidle = 500")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", HUGE, f"-{HUGE}"])
@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("windows", "records"),
        ("windows", "lateness"),
        ("labels", "horizon"),
        ("drift", "effect_size"),
        ("retrain", "renew"),
        ("models", "seed"),
        ("kafka", "max_batch"),
        ("simulate", "label_delay"),
    ],
)
def test_infinite_and_huge_numbers_are_rejected(table: str, key: str, value: str) -> None:
    with pytest.raises(StreamFileError) as caught:
        loads(f"{SMALL}[{table}]\n{key} = {value}")
    assert f"[{table}.{key}] Expected a number" in caught.value.message
    assert value in caught.value.message


@pytest.mark.parametrize("value", ["1001000d", f"{HUGE}w", "9" * 400 + "w"])
@pytest.mark.parametrize(
    ("table", "key"), [("windows", "span"), ("labels", "horizon"), ("simulate", "label_delay")]
)
def test_a_duration_of_more_than_a_thousand_years_is_rejected(
    table: str, key: str, value: str
) -> None:
    with pytest.raises(StreamFileError, match=rf"\[{table}\.{key}\] Expected a duration"):
        loads(f'{WITH_TIME}[{table}]\n{key} = "{value}"')


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[models]\nseed = -1", "models.seed"),
        ("[models]\nseed = 4294967295", "models.seed"),
        ("[kafka]\nreplication_factor = 40000", "kafka.replication_factor"),
    ],
)
def test_a_whole_number_outside_the_range_of_its_use_is_rejected(text: str, key: str) -> None:
    with pytest.raises(StreamFileError, match=rf"\[{key}\] Expected a whole number"):
        loads(SMALL + text)


def test_the_bound_of_a_feature_may_be_infinite() -> None:
    stream = loads(HEAD + 'features = { a = { kind = "number", min = 0, max = inf } }')
    assert stream.inputs["a"].max == float("inf")
    with pytest.raises(StreamFileError, match=r"\[features\.a\.min\] Expected a number, got nan"):
        loads(HEAD + 'features = { a = { kind = "number", min = nan } }')


@pytest.mark.parametrize("key", ["cooldown = 0", 'cooldown = "0s"'])
def test_a_span_of_0_is_accepted_where_it_makes_sense(key: str) -> None:
    assert loads(f"{WITH_TIME}windows = {{ span = '1h' }}\nretrain = {{ {key} }}")


@pytest.mark.parametrize(
    "prefix",
    [
        "../evil",
        "..",
        ".",
        ".hidden.",
        "-rf",
        "__internal.",
        "/tmp/x.",
        "a/b",
        "a\\b",
        "a b",
        "a\\n",
        "a\\u0000",
        "a\\u001b[1m",
        "ä.",
        "a\\u202eb",
        "team:",
    ],
)
def test_a_prefix_that_is_not_valid_for_topics_and_folders_is_rejected(prefix: str) -> None:
    with pytest.raises(StreamFileError, match=r"\[kafka.topic_prefix\] Expected text, got"):
        loads(f'{SMALL}[kafka]\ntopic_prefix = "{prefix}"')


@pytest.mark.parametrize("name", ["..", "../a", "a/b", "a\\n", "ä", "-a", "a" * 64, ""])
def test_a_name_that_is_not_valid_for_topics_and_folders_is_rejected(name: str) -> None:
    with pytest.raises(StreamFileError, match=r"\[name\] Expected text, got"):
        loads(SMALL.replace('"a"', f'"{name}"', 1))


@pytest.mark.parametrize("prefix", ["", "team.", "Team-1_", "_a", "a..b."])
def test_other_prefixes_are_accepted(prefix: str) -> None:
    assert loads(f'{SMALL}[kafka]\ntopic_prefix = "{prefix}"').kafka.topic_prefix == prefix


def test_the_length_of_a_prefix_is_limited_by_the_longest_topic_name() -> None:
    room = 247 - len("a.deadletters")
    assert loads(f'{SMALL}[kafka]\ntopic_prefix = "{"x" * room}"')
    with pytest.raises(StreamFileError, match=r"\[kafka.topic_prefix\] Expected .* 247 .* got 248"):
        loads(f'{SMALL}[kafka]\ntopic_prefix = "{"x" * (room + 1)}"')


def test_an_error_names_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "stream.toml"
    path.write_bytes(SMALL.replace('"y"', '"größe"').encode("latin-1"))
    with pytest.raises(StreamFileError, match=r"stream.toml: not UTF-8 at byte \d+"):
        load(path)


def test_the_smallest_file_gets_its_defaults() -> None:
    stream = loads(SMALL)
    assert stream.windows.records == 1000
    assert stream.labels.horizon == Span(records=10_000)
    assert stream.needs_row
    assert stream.axis == "row"


def test_the_description_explains_every_key() -> None:
    rows = describe(loads(SMALL))
    without = [row.key for row in rows if not row.meaning]
    assert without == []
    keys = {row.key for row in rows}
    for name in Stream.__struct_fields__:
        assert any(key == name or key.startswith(f"{name}.") for key in keys), name


def test_the_description_marks_which_values_are_in_the_file() -> None:
    text = SMALL + '[windows]\nrecords = 1000\n[simulate]\nlabel_delay = "30m"\n'
    rows = {row.key: row for row in describe(loads(text), tomllib.loads(text))}
    assert rows["windows.records"].given
    assert not rows["labels.horizon"].given
    assert rows["simulate.label_delay"].value == '"30m"'
    assert rows["features.a"].value == '"number"'
    assert rows["retrain.on"].value == '["data", "performance"]'


TIMED = """
version = 1
name = "s"
task = "classification"
target = "y"
features = { x = "number" }
windows = { records = 100 }
labels = { horizon = "7d" }
"""


def test_a_horizon_in_time_is_converted_to_records_by_the_time_step() -> None:
    stream = loads(TIMED + 'time = { start = 2020-01-01T00:00:00Z, step = "30m" }')
    assert stream.horizon == 336


def test_an_error_for_a_horizon_in_time_without_a_step_names_a_remedy() -> None:
    with pytest.raises(StreamFileError, match=r"\[labels.horizon\] Expected a number of records"):
        loads(TIMED + 'time = { column = "at" }')


@pytest.mark.parametrize("text", ["a" + ".a" * 3000 + " = 1", "a = " + "[" * 3000])
def test_a_stream_file_that_is_nested_too_deeply_is_rejected(text: str) -> None:
    with pytest.raises(StreamFileError, match="nested too deeply"):
        loads(text)
