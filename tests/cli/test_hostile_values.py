"""Values from records do nothing to a terminal."""

import io

import pytest
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from driftline.cli.options import stdout
from tests.hostile import HOSTILE


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
