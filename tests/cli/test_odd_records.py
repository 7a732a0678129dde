"""A run over data with odd records: other records are not affected."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from driftline.cli.simulation import RunResult
from tests.cli.invoke import invoke

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
