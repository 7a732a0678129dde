"""Control characters in values never reach a terminal."""

import io

import pytest
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from driftline.broker.memory import MemoryBroker
from driftline.cli.estimates import _show
from driftline.cli.options import Context, stdout
from driftline.events import MetricEstimate
from driftline.settings import load_settings
from driftline.stream import loads
from monitor.estimates.coverage import Compared
from tests.hostile import HOSTILE
from tests.world import MODEL, STREAM_FILE


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(stdout, "_file", text)
    return text


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_shown_as_text_wherever_it_is_printed(shown: io.StringIO, value: str) -> None:
    table = Table("name")
    table.add_row(escape(value))
    stdout.print(value, markup=False)
    stdout.print(table)
    stdout.print(Tree(escape(value)))
    assert all(c.isprintable() or c == "\n" for c in shown.getvalue())


def test_a_window_outside_of_valid_times_is_shown_in_the_table(shown: io.StringIO) -> None:
    timed = STREAM_FILE.replace("horizon = 10", 'horizon = "1h"')
    stream = loads(timed + 'time = { column = "t" }\nwindows = { span = "1h" }\n')
    estimate = MetricEstimate(metric="accuracy", value=0.9, low=0.8, high=1.0, reference=0.9)
    pairs = [Compared(2**60, MODEL, estimate, 0.9, 10, 10)]
    _show(Context(load_settings({}), stream, MemoryBroker()), pairs)
    assert "µs" in shown.getvalue()
