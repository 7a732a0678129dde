"""A run in which records become unreadable: a quality event opens soon."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from driftline_app.replay.simulation import RunResult
from tests.app.cli.invoke import invoke

ROWS, WINDOW, WARM_UP = 1500, 100, 400
STREAM = """
version = 1
name = "gone"
task = "classification"
target = "y"
record = { id = "id" }
features = { a = "number", b = "number" }
models = { candidates = ["logistic_regression"], tune = false }
retrain = { policy = "never" }
"""
TIME = 'time = { column = "t", format = "rfc3339" }'
AXES = {
    "row": f"windows = {{ records = {WINDOW}, min_records = 50 }}\n",
    "time": f'{TIME}\nwindows = {{ span = "{WINDOW}m", min_records = 50 }}\n',
}


def record(row: int) -> dict[str, object]:
    a, b = row * 7 % 100 / 100, row * 13 % 100 / 100
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=row)
    return {"id": row, "t": at.isoformat(), "a": a, "b": b, "y": "up" if a > b else "down"}


def renamed(row: int) -> bool:
    """From row 900 on."""
    return row >= 900


def tenth(row: int) -> bool:
    return row >= 900 and row % 10 == 0


def always(row: int) -> bool:
    return row >= WARM_UP


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("broken", [renamed, tenth, always])
def test_a_quality_event_opens_within_two_windows(
    tmp_path: Path, axis: str, broken: Callable[[int], bool]
) -> None:
    lines = []
    for row in range(ROWS):
        values = record(row)
        if broken(row):
            values["b"] = "n/a"
        lines.append(json.dumps(values))
    (tmp_path / "gone.jsonl").write_text("\n".join(lines))
    (tmp_path / "gone.toml").write_text(STREAM + AXES[axis])
    invoked = invoke(
        tmp_path / "home",
        "run",
        str(tmp_path / "gone.jsonl"),
        "--stream",
        str(tmp_path / "gone.toml"),
        "--warmup",
        str(WARM_UP / ROWS),
        "--json",
    )
    assert invoked.exit_code == 0, invoked.stderr
    result = msgspec.json.decode(invoked.stdout.splitlines()[-1], type=RunResult)
    assert result.lost == 0
    assert result.dead_letters == sum(map(broken, range(WARM_UP, ROWS)))
    (alert,) = result.alerts
    first = next(row for row in range(ROWS) if broken(row))
    assert alert.kind == "quality"
    assert first <= alert.row <= first + 2 * WINDOW + 100  # `run` sends 100 rows a turn
