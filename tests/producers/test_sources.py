"""Each kind of source returns every row in order."""

import gzip
import io
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from driftline.errors import DataError
from producers import sources
from producers.csv_files import CsvSource
from producers.iris import Iris, IrisDrift
from producers.shaping import Shaper
from producers.sources import JsonLinesSource, TableSource, open_source


def test_csv_values_stay_text_under_any_column_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('1,"col, 2",é\n007,"a\nb",\n1.50,,NA\n', encoding="utf-8")
    source = open_source(path)
    assert source.count() == 2
    assert list(source.rows()) == [
        {"1": "007", "col, 2": "a\nb", "é": None},
        {"1": "1.50", "col, 2": None, "é": "NA"},
    ]


def test_gzipped_csv_with_byte_order_mark_and_semicolons_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("\ufeffa;b\n1;2\n".encode()))
    assert list(open_source(path).rows()) == [{"a": "1", "b": "2"}]


def test_csv_lines_with_too_many_cells_are_passed_on_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1\n1,2,3\n\n4,5\n")
    assert list(CsvSource(path).rows()) == [{"a": "1"}, b"1,2,3", {"a": "4", "b": "5"}]
    assert CsvSource(path).count() == 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
        (b"a,b\n1,\xff\n", "not UTF-8 somewhere after line"),
        (b'a,b\n1,2\n"3,4\n5,6\n', "unterminated quote from line 3"),
        (b'a,b\n1,2\n"3,4\n5,6\n"7",8\n', "unterminated quote from line 3"),
        (b'a,b\n1,"2\n3"\n"4,5', "unterminated quote from line 4"),
        (b'a,"b\n1,2\n3,4\n', "unterminated quote from line 1"),
        (b'a\tb\n1\t2\n"3\t4\n5\t6\n', "unterminated quote from line 3"),
        (b'a,b\n1,2\n"3"4,"5\n6,7\n', "unterminated quote from line 3"),
        (b'a,b\n1,2\n"3,' + b"4,5\n" * 101 + b'",6\n', "unterminated quote from line 3"),
        (b"a,b\n1,2\n3\0,4\n", "line 3: a NUL byte"),
        (b"a,b\n1,2\n3," + b"4" * 2**20 + b"5\n", "line 3: a cell has more than 1,048,576"),
    ],
)
def test_an_error_reports_why_a_csv_file_cannot_be_read(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for read in (lambda source: list(source.rows()), CsvSource.count):
        with pytest.raises(DataError, match=problem):
            read(CsvSource(path))


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b'"1","x ""y"" z"', {"a": "1", "b": 'x "y" z'}),
        (b'1,5" pipe', {"a": "1", "b": '5" pipe'}),
        (b'"1" in",x" y', {"a": '1 in"', "b": 'x" y'}),
        (b'"1" in","x" y"', None),
        (b'1,"' + b"x,y\n" * 99 + b'"', {"a": "1", "b": "x,y\n" * 99}),
    ],
)
def test_a_quote_in_a_csv_cell_affects_no_other_line(
    tmp_path: Path, content: bytes, row: dict[str, str] | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n0,0\n" + content + b"\n9,9\n")
    rows = list(CsvSource(path).rows())
    assert rows[0] == {"a": "0", "b": "0"}
    assert rows[-1] == {"a": "9", "b": "9"}
    assert len(rows) == 3
    if row is not None:
        assert rows[1] == row


@pytest.mark.parametrize("end", [slice(0, -20), slice(0, 60)])
@pytest.mark.parametrize(("name", "line"), [("a.csv.gz", b"1,2\n"), ("a.jsonl.gz", b'{"a":1}\n')])
def test_an_error_reports_a_damaged_gzip_file(
    tmp_path: Path, name: str, line: bytes, end: slice
) -> None:
    path = tmp_path / name
    whole = gzip.compress(b"".join(b"%d%s" % (i % 7 + 1, line) for i in range(9999)))
    damaged = bytes([*whole[end], *(b"" if end.stop == -20 else b"\xff" * 40)])
    path.write_bytes(damaged)
    for read in (lambda source: list(source.rows()), lambda source: source.count()):
        with pytest.raises(DataError, match="cannot be read after line"):
            read(open_source(path))


def test_an_error_reports_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"n": [float(i) for i in range(999)]})
    frame.to_parquet(path, compression="gzip")
    whole = bytearray(path.read_bytes())
    whole[20:600] = bytes(580)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="cannot be read after row 0"):
        list(open_source(path).rows())


def test_lines_that_are_not_json_objects_are_passed_on_as_bytes() -> None:
    source = JsonLinesSource("x", io.BytesIO(b'{"a": 1}\n\nnope\n[1]\n{"a": 2}'))
    assert source.count() is None
    assert list(source.rows()) == [{"a": 1}, b"nope", b"[1]", {"a": 2}]


def test_parquet_arrow_and_pandas_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 3)
    frame = pd.DataFrame({"n": range(10), "c": list("abcdefghij")})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    expected = frame.to_dict("records")
    for data in (frame, table, tmp_path / "a.parquet"):
        source = open_source(data)
        assert source.count() == 10
        assert list(source.rows()) == expected


def test_a_folder_is_read_as_its_only_data_file(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("x\n1\n")
    (tmp_path / "data.csv").write_text("a\n1\n")
    assert list(open_source(tmp_path).rows()) == [{"a": "1"}]


def test_the_drifting_iris_stream_is_drawn_from_the_real_flowers() -> None:
    real = {tuple(list(row.values())[2:]) for row in Iris().rows() if isinstance(row, dict)}
    drifting = IrisDrift(records=400)
    rows = [row for row in drifting.rows() if isinstance(row, dict)]
    assert rows == list(IrisDrift(records=400).rows())
    assert len({row["flower_id"] for row in rows}) == 400
    before, after = rows[: drifting.drift_row], rows[drifting.drift_row :]
    assert all(tuple(list(row.values())[2:]) in real for row in before)
    assert not all(tuple(list(row.values())[2:]) in real for row in after)
    assert max(row["petal_length"] for row in after) == pytest.approx(6.9 * 0.6)


def test_river_sets_and_generators_are_opened_by_name() -> None:
    assert open_source("river:Phishing").count() == 1250
    assert len(list(open_source("river:Phishing").rows())) == 1250
    text = "river:SEA:variant=0,seed=3/SEA:variant=3,seed=4,at=50,n=120"
    first, again = (list(open_source(text).rows()) for _ in range(2))
    assert first == again
    assert len(first) == 120
    assert first[:40] == list(open_source("river:SEA:variant=0,seed=3,n=40").rows())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("river:Elec2", "not bundled"),
        ("river:Nope", "no data set or generator 'Nope'"),
        ("river:SEA:x=1", "no parameter 'x'"),
        ("river:SEA:n=0", "positive whole number for n"),
        ("river:SEA:variant", "expected key=value"),
        ("river:Phishing:n=3", "takes no parameters"),
        ("river:SEA/SEA/SEA", "at most two"),
        ("nowhere.csv", "no such file"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_an_error_for_an_unknown_name_lists_the_known_ones(name: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        open_source(name)


def test_values_of_tables_are_converted_to_json(iris_like: str) -> None:
    from driftline.config.stream import loads

    stream = loads(iris_like)
    frame = pd.DataFrame(
        {
            "id": [7],
            "t": [pd.Timestamp("2020-01-01T00:00:00.5", tz="UTC")],
            "a": [float("nan")],
            "c": [True],
            "y": ["s"],
            "gone": ["x"],
        }
    )
    row = next(iter(TableSource(frame).rows()))
    assert isinstance(row, dict)
    shaped = Shaper(stream, textual=False).shape({**row, "b": float("inf")}, number=3)
    assert msgspec.json.decode(shaped.value) == {
        "id": 7,
        "t": "2020-01-01T00:00:00.500000Z",
        "a": None,
        "b": "inf",
        "c": True,
        "@row": 3,
    }
    assert shaped.time_us == int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1e6) + 500_000
    assert (shaped.record_id, shaped.key, shaped.target) == ("7", b"7", "s")


@pytest.fixture
def iris_like() -> str:
    return """
version = 1
name = "s"
task = "classification"
target = "y"
[record]
id = "id"
drop = ["gone"]
[time]
column = "t"
[features]
a = "number"
b = "number"
c = "category"
"""


def test_the_most_abrupt_concept_drift_of_river_does_not_overflow() -> None:
    source = open_source("river:SEA:variant=0/SEA:variant=3,at=5000,width=1,n=10000")
    assert sum(1 for _ in source.rows()) == 10_000
