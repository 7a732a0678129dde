"""A run over data with odd records: other records are not affected."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from driftline.config.stream import loads
from driftline_app.replay.simulation import RunResult
from driftline_app.train_on_data import labelled_records
from tests.app.cli.invoke import invoke

FILE = """
version = 1
name = "odd"
task = "classification"
target = "y"
record = { id = "id" }
time = { column = "t" }
features = { a = "number" }
windows = { span = "1h", min_records = 20 }
retrain = { policy = "never" }
models = { candidates = ["decision_tree"], tune = false }
kafka = { partitions = 2 }
"""
START = datetime(2025, 3, 1, tzinfo=UTC)


def test_a_future_time_and_a_repeated_id_lose_no_window_and_no_label(
    tmp_path: Path,
) -> None:
    rows = []
    for row in range(900):
        time = START + timedelta(minutes=row)
        if row == 500:
            time = time.replace(year=2035)
        name = 700 if row == 701 else row
        rows.append(f"r{name},{time.isoformat()},{row % 10},{'no' if row % 10 < 5 else 'yes'}")
    (tmp_path / "odd.toml").write_text(FILE)
    (tmp_path / "odd.csv").write_text("\n".join(["id,t,a,y", *rows]) + "\n")
    done = invoke(tmp_path / "home", "run", str(tmp_path / "odd.csv"), "--json")
    assert done.exit_code == 0, done.stderr
    result = msgspec.json.decode(done.stdout.splitlines()[-1], type=RunResult)
    assert result.lost == result.dead_letters == 0
    assert result.duplicate_ids == 1
    assert result.outcomes == result.records - 1
    assert result.windows >= 2 * (result.records // 60 - 1)  # of predictions, and of outcomes
    assert "1 repeated id, " in done.stderr


@pytest.mark.parametrize("command", ["run", "backtest", "init"])
def test_an_unterminated_quote_in_a_csv_file_hides_no_rows(tmp_path: Path, command: str) -> None:
    rows = [
        f"r{row},{START + timedelta(minutes=row):%FT%TZ},{row % 10},{row % 2}" for row in range(600)
    ]
    rows[299] = '"' + rows[299]
    (tmp_path / "odd.toml").write_text(FILE)
    data = tmp_path / "odd.csv"
    data.write_text("\n".join(["id,t,a,y", *rows]) + "\n")
    more = ["--target", "y", "--name", "new"] if command == "init" else []
    done = invoke(tmp_path / "home", command, str(data), *more)
    assert done.exit_code == 2
    assert "unterminated quote from line 301" in " ".join(done.stderr.split())


def test_odd_cells_become_dead_letters_and_end_no_run(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = []
    for row in range(600):
        time = (START + timedelta(minutes=row)).isoformat()
        rows.append({"id": row, "t": time, "a": row % 10, "y": float(row % 10), "@row": row})
    for row, field, odd in (
        (300, "@row", -5),
        (310, "@row", "abc"),
        (320, "@at", 1e300),
        (330, "@at", True),
        (340, "y", "high"),
        (350, "a", "x" * 1_100_000),
    ):
        rows[row][field] = odd
    text = FILE.replace("classification", "regression").replace('span = "1h"', "records = 60")
    simulate = 'simulate = { label_delay = "@at" }\n'
    (tmp_path / "odd.toml").write_text(text + simulate)
    (tmp_path / "odd.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n")
    done = invoke(tmp_path / "home", "run", str(tmp_path / "odd.jsonl"), "--json")
    assert done.exit_code == 1, done.stderr
    result = msgspec.json.decode(done.stdout.splitlines()[-1], type=RunResult)
    assert (result.records, result.dead_letters, result.too_large, result.lost) == (479, 2, 1, 0)
    assert result.outcomes == 479 - 2 - 3
    assert "not sent: data row 350: a record of 1100" in done.stderr
    assert "max.message.bytes" not in done.stderr
    letters = invoke(tmp_path / "home", "deadletters", "list", "--run", "last", "--json")
    reasons = letters.stdout
    assert reasons.count("'@row'") == 2
    assert reasons.count("'@at'") == 2
    assert reasons.count("column 'y': expected a number or null, got str") == 1


def test_training_skips_a_target_that_is_no_number(tmp_path: Path) -> None:
    data = tmp_path / "odd.jsonl"
    data.write_text('{"id":1,"t":"x","a":1,"y":2}\n{"id":2,"t":"x","a":1,"y":"high"}\n')
    stream = loads(FILE.replace("classification", "regression"))
    records, labels = labelled_records(stream, str(data))
    assert (len(records), labels) == (1, [2.0])
