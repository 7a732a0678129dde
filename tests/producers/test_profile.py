"""The profile that `init` makes of data, and the stream file that it drafts."""

import gzip
import json
import os
from pathlib import Path

import pytest

from driftline.config.stream import Stream, loads
from driftline.errors import DataError
from driftline.wire.feature_records import RecordCodec
from producers.csv_files import CsvSource
from producers.draft import draft
from producers.playback import Playback
from producers.profile import Column, DataProfile, look
from producers.sources import JsonLinesSource, open_source

DATA = Path(
    os.environ.get("DRIFTLINE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)


def csv(tmp_path: Path, header: str, *lines: str) -> CsvSource:
    path = tmp_path / "d.csv.gz"
    path.write_bytes(gzip.compress("\n".join([header, *lines, ""]).encode()))
    return CsvSource(path)


def column(profile: DataProfile, name: str) -> Column:
    return next(column for column in profile.columns if column.name == name)


def loaded(profile: DataProfile, name: str = "s") -> Stream:
    return loads(draft(profile, name))


def test_kinds_of_columns_are_recognised_and_useless_columns_left_out(tmp_path: Path) -> None:
    source = csv(
        tmp_path,
        "size,flag,colour,zip,constant,comment,counter,weekday,empty,y",
        *(
            f"{i % 37}.5,{i % 2 == 0},{'red' if i % 3 else 'blue'},0{i % 7},1,"
            f"text {i * 7919 % 5000},{1000 + i},{i % 7},,{'yes' if i % 5 else 'no'}"
            for i in range(600)
        ),
    )
    seen = look(source, "y")
    kinds = {item.name: (item.use, item.kind) for item in seen.columns}
    assert kinds == {
        "size": ("feature", "number"),
        "flag": ("feature", "category"),
        "colour": ("feature", "category"),
        "zip": ("feature", "category"),
        "constant": ("left_out", "number"),
        "comment": ("left_out", "category"),
        "counter": ("left_out", "number"),
        "weekday": ("feature", "number"),
        "empty": ("left_out", "category"),
        "y": ("target", "category"),
    }
    assert (seen.task, seen.classes) == ("classification", ("no", "yes"))
    assert not column(seen, "weekday").watch
    stream = loaded(seen)
    assert stream.record.drop == ("constant", "comment", "counter", "empty")
    assert stream.inputs["zip"].kind == "category"
    assert not stream.inputs["weekday"].watch
    assert stream.windows.records == 200


@pytest.mark.parametrize(
    ("first", "second", "format_"),
    [
        ("2020-01-02T00:00:00Z", "2020-01-01T00:00:00Z", "rfc3339"),
        ("2020-01-02 00:00:00.5", "2020-01-01 00:00:00.0", "%Y-%m-%d %H:%M:%S.%f"),
        ("31.01.2020", "01.01.2020", "%d.%m.%Y"),
        ("01/31/2020 10:00", "01/01/2020 09:00", "%m/%d/%Y %H:%M"),
        ("1577923200", "1577836800", "unix_s"),
        ("1577923200000", "1577836800000", "unix_ms"),
        ("60", "30", None),
    ],
)
def test_the_format_of_a_time_column_is_detected_and_times_out_of_order_counted(
    tmp_path: Path, first: str, second: str, format_: str | None
) -> None:
    lines = [f"{first},1,a", f"{second},2,b"] * 20
    seen = look(csv(tmp_path, "when,x,y", *lines), "y", time="when")
    assert seen.time is not None
    assert seen.time.format == format_
    assert seen.time.backwards == 20
    assert any("runs backwards in 20 rows" in note for note in seen.notes)
    stream = loaded(seen)
    assert stream.time.format == format_
    assert (stream.time.start is None) == (format_ is not None)
    plays = Playback(stream, csv(tmp_path, "when,x,y", *lines)).play()
    batch = RecordCodec(stream).decode([p.value for p in plays if p.kind == "record"])
    assert batch.rejected == []


def test_an_unknown_time_format_is_reported(tmp_path: Path) -> None:
    seen = look(csv(tmp_path, "when,x,y", "noon,1,a", "dusk,2,b"), "y", time="when")
    assert any("format is not recognised (first value: 'noon')" in note for note in seen.notes)
    assert "not recognised: write a strptime pattern" in draft(seen, "s")


def test_a_later_row_with_the_same_id_can_contain_the_label(tmp_path: Path) -> None:
    seen = look(csv(tmp_path, "id,x,y", "1,1,", "2,2,", "1,1,a", "2,2,b", "2,2,c"), "y", id="id")
    assert seen.own_labels
    assert seen.records == 2
    assert any("1 rows repeat the label of an id" in note for note in seen.notes)
    assert loaded(seen).simulate.label_delay == "data"


def test_repeated_ids_with_labels_are_reported_as_duplicates(tmp_path: Path) -> None:
    seen = look(csv(tmp_path, "id,x,y", "1,1,a", "2,2,b", "1,1,a"), "y", id="id")
    assert (seen.own_labels, seen.records) == (False, 3)
    assert any("1 rows repeat an id" in note for note in seen.notes)


def test_missing_values_are_imputed_and_missing_targets_reported(tmp_path: Path) -> None:
    seen = look(csv(tmp_path, "x,c,y", "1,r,a", ",b,b", "NA,,"), "y")
    assert loaded(seen).record.missing == "impute"
    assert any("target is missing in 1 of 3 rows" in note for note in seen.notes)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["0", "1"], "classification"),
        (["yes", "no"], "classification"),
        ([str(i) for i in range(40)], "regression"),
        (["0.5", "1.5"], "regression"),
        (["1.0", "2.0"], "classification"),
    ],
)
def test_the_task_is_derived_from_the_target(tmp_path: Path, values: list[str], task: str) -> None:
    lines = [f"{i % 3},{value}" for i, value in enumerate(values * 3)]
    seen = look(csv(tmp_path, "x,y", *lines), "y")
    assert seen.task == task
    assert loaded(seen).task == task


def test_a_draft_quotes_names_that_need_it(tmp_path: Path) -> None:
    seen = look(csv(tmp_path, '"a ""b"" \\c",7,y', "1,2,a", "2,3,b"), "y")
    assert list(loaded(seen).features) == ['a "b" \\c', "7"]


def test_a_draft_contains_no_control_characters(tmp_path: Path) -> None:
    """They could hide or forge lines in an editor or terminal."""
    rows = [{"a\u202e\x9b\x85b": index, "y": "yes\u2028\x9b\U000e0041"} for index in range(30)]
    rows += [{"a\u202e\x9b\x85b": index, "y": "no\u202e"} for index in range(30)]
    path = tmp_path / "name\u202e\nforged.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    content = draft(look(open_source(str(path)), "y"), "s")
    assert all(c.isprintable() or c == "\n" for c in content)
    assert not any(text.startswith("forged") for text in content.splitlines())
    assert "a\u202e\x9b\x85b" in loads(content).features


def test_an_error_names_a_column_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'z'"):
        look(csv(tmp_path, "x,y", "1,a"), "y", time="z")
    with pytest.raises(DataError, match="no rows"):
        look(csv(tmp_path, "x,y"), "y")


BIKES = ("casual", "registered", "yr", "high_demand", "instant")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}; DRIFTLINE_DATA names the folder")
@pytest.mark.parametrize(
    ("folder", "target", "task", "baseline", "options"),
    [
        ("elec2", "class", "classification", "previous_label", {}),
        ("bike_sharing", "cnt", "regression", "previous_label", {"drop": BIKES}),
        (
            "bike_sharing",
            "cnt",
            "regression",
            "previous_label",
            {"drop": BIKES, "time": "dteday"},
        ),
        ("noaa_weather", "rain", "classification", "prior", {}),
        (
            "airlines_delayed_labels",
            "ValueToPredict",
            "classification",
            "prior",
            {"id": "instanceId", "time": "timeStamp"},
        ),
        (
            "car_loan_nml",
            "repaid",
            "classification",
            "prior",
            {"id": "id", "time": "timestamp", "drop": ("y_pred", "y_pred_proba")},
        ),
        ("phishing_sites", "target", "classification", "prior", {}),
        ("sea_abrupt", "y", "classification", "prior", {}),
        ("thu_sine_0123_abrupto", "class", "classification", "prior", {}),
    ],
)
def test_drafts_for_real_data_load_and_decode_their_records(
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    target: str,
    task: str,
    baseline: str,
    options: dict[str, str | tuple[str, ...]],
) -> None:
    monkeypatch.setattr("producers.profile.MAX_ROWS", 20_000)
    source = open_source(DATA / folder)
    seen = look(source, target, **options)  # type: ignore[arg-type]
    stream = loaded(seen, folder.replace("_", "-"))
    assert (stream.task, stream.baseline) == (task, baseline)
    playback = Playback(stream, source, limit=3000)
    first = playback.warm_up(0.3)
    records = [play.value for play in playback.play() if play.kind == "record"]
    batch = RecordCodec(stream).decode([*first.records, *records])
    assert batch.rejected == []
    assert len(set(batch.ids)) == len(batch.ids)
    if folder == "airlines_delayed_labels":
        assert stream.simulate.label_delay == "data"
        assert (stream.time.column, stream.windows.records) == ("timeStamp", 380)
    if folder == "car_loan_nml":
        assert stream.time.format == "%Y-%m-%d %H:%M:%S.%f"
        assert stream.windows.records == 5000


def test_times_as_text_are_recognised_in_a_column_that_is_not_the_event_time(
    tmp_path: Path,
) -> None:
    lines = [
        f"2026-01-01T00:{at // 60:02}:{at % 60:02}Z,{at % 7},{'ab'[at % 2]}" for at in range(900)
    ]
    profile = look(csv(tmp_path, "ts,x,y", *lines), "y")
    found = column(profile, "ts")
    assert found.use == "left_out"
    assert found.notes == ("contains times: is it the event time (--time)?",)


def test_a_column_of_numbers_with_some_text_is_left_out_with_its_reason(tmp_path: Path) -> None:
    lines = [f"{at / 7 if at % 5 else 'broken'},{at % 7},{'ab'[at % 2]}" for at in range(900)]
    found = column(look(csv(tmp_path, "x,z,y", *lines), "y"), "x")
    assert found.use == "left_out"
    assert found.notes == ("80% of the values are numbers; the others are not, such as 'broken'",)


def test_codes_of_which_most_are_digits_remain_a_category(tmp_path: Path) -> None:
    lines = [f"{'1234x'[at % 5]},{at % 7},{'ab'[at % 2]}" for at in range(900)]
    found = column(look(csv(tmp_path, "grade,z,y", *lines), "y"), "grade")
    assert (found.use, found.kind) == ("feature", "category")


def test_a_target_of_numbers_with_some_text_is_a_regression(tmp_path: Path) -> None:
    lines = [f"{at % 7},{at / 7 if at % 10 else 'inf'}" for at in range(2000)]
    profile = look(csv(tmp_path, "x,y", *lines), "y")
    assert profile.task == "regression"
    note = "200 of 2000 values of the target are not numbers: they will be dead-lettered"
    assert note in profile.notes


def test_a_target_with_one_class_gets_no_advice_on_metrics(tmp_path: Path) -> None:
    profile = look(csv(tmp_path, "x,y", *(f"{at},ok" for at in range(30))), "y")
    assert "the target has only one class: there is nothing to learn" in profile.notes
    assert not [note for note in profile.notes if "metric" in note]


@pytest.mark.parametrize("option", ["time", "id"])
def test_the_target_is_neither_the_time_nor_the_id(tmp_path: Path, option: str) -> None:
    source = csv(tmp_path, "x,y", "1,a", "2,b")
    with pytest.raises(DataError, match=f"--{option} y: this column is the target"):
        look(source, "y", **{option: "y"})


def test_lines_that_are_not_rows_are_reported_as_such() -> None:
    source = JsonLinesSource("standard input", [b"a,b\n", b"1,2\n"])
    with pytest.raises(DataError, match="none of the 2 lines can be parsed as a row"):
        look(source, "b")
