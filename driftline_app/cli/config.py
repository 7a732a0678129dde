"""`driftline config`: print every key of a stream file with its value and meaning."""

import tomllib

from rich import box
from rich.markup import escape
from rich.table import Table

from driftline.config.stream import load
from driftline.config.stream_keys import describe
from driftline.safe_text import json_line
from driftline_app.cli.options import Json, StreamFile, stdout
from driftline_app.stream_file import find_stream_file


def config(file: StreamFile = None, json: Json = False) -> None:
    """Print every key of a stream file with its value and meaning.

    Keys that the file does not set are shown with their default values and marked as defaults. With
    --json, these keys have `"given": false`.

    Example: driftline config --stream elec2.toml
    """
    path = find_stream_file(file)
    stream = load(path)
    rows = describe(stream, tomllib.loads(path.read_text(encoding="utf-8")))
    if json:
        for row in rows:
            print(json_line(row))
        return
    table = Table(title=str(path), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("key", "value", "meaning"):
        table.add_column(column, overflow="fold")
    for row in rows:
        value = escape(row.value) or "not set"
        shown = value if row.given else f"[dim]{value} (default)[/dim]"
        table.add_row(escape(row.key), shown, escape(row.meaning))
    stdout.print(table)
