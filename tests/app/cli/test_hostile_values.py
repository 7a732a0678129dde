"""Control characters in values never reach a terminal."""

import io
from typing import Any, Final

import msgspec
import pytest
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from driftline.broker.port import Message
from driftline.config.stream import loads
from driftline.wire.events import Event, Freeze, Outcome, Prediction, Source
from driftline.wire.topics import Role
from driftline.wire.window_events import MetricEstimate
from driftline_app.cli.estimates import _show
from driftline_app.cli.options import stdout
from driftline_app.message_lines import line
from monitor.estimates.coverage import EstimateComparison
from tests.hostile import HOSTILE
from tests.world import MODEL, STREAM_FILE


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(stdout, "_file", text)
    monkeypatch.setattr(stdout, "_width", 120)
    return text


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_shown_as_text_wherever_it_is_printed(shown: io.StringIO, value: str) -> None:
    table = Table("name")
    table.add_row(escape(value))
    stdout.print(value, markup=False)
    stdout.print(table)
    stdout.print(Tree(escape(value)))
    assert all(c.isprintable() or c == "\n" for c in shown.getvalue())


FORGED = "r1\n2026-01-01 00:00:00 [0]@1  FORGED line\r\u2028\u2029\x85end"
SCORED: Final[dict[str, Any]] = {
    "record_id": FORGED,
    "time": None,
    "row": 1,
    "prediction": FORGED,
    "scores": None,
    "model": MODEL,
    "source": Source("t", 0, 1),
    "record": msgspec.Raw(b"{}"),
}


def test_a_line_break_in_a_value_never_starts_a_line(shown: io.StringIO) -> None:
    table = Table("name", title=FORGED, box=None)
    table.add_column("more", overflow="fold")
    table.add_row("1", FORGED)
    tree = Tree(FORGED)
    tree.add(FORGED)
    for renderable in (f"id {FORGED}: no", table, tree):
        stdout.print(renderable, soft_wrap=True)
    assert len(shown.getvalue().splitlines()) == 1 + 3 + 2  # the table: title, names, row
    assert shown.getvalue().count("r1\\n2026") == 5


def test_texts_of_several_lines_keep_their_lines(shown: io.StringIO) -> None:
    table = Table("name", box=None)
    table.add_row(Text("first\nsecond"))
    stdout.print(table)
    assert [line.strip() for line in shown.getvalue().splitlines()] == ["name", "first", "second"]


@pytest.mark.parametrize(
    ("role", "event"),
    [
        ("predictions", Prediction(**SCORED)),
        (
            "outcomes",
            Outcome(**SCORED, label=FORGED, label_time=None, label_row=1, revision=0),
        ),
        ("models", Freeze(id="freeze", frozen=True, reason=FORGED, at="")),
    ],
)
def test_a_message_is_described_in_one_line(role: Role, event: Event) -> None:
    described = line(role, Message("t", 0, 0, None, msgspec.json.encode(event)))
    assert described.isprintable()
    assert "FORGED" in described


def test_a_window_outside_of_valid_times_is_shown_in_the_table(shown: io.StringIO) -> None:
    timed = STREAM_FILE.replace("horizon = 10", 'horizon = "1h"')
    stream = loads(timed + 'time = { column = "t" }\nwindows = { span = "1h" }\n')
    estimate = MetricEstimate(metric="accuracy", value=0.9, low=0.8, high=1.0, reference=0.9)
    pairs = [EstimateComparison(2**60, MODEL, estimate, 0.9, 10, 10)]
    _show(stream, pairs)
    assert "µs" in shown.getvalue()
