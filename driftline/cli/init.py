"""`driftline init`: draft a stream file by looking at the data."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from driftline.cli.options import Json, stdout
from driftline.codec.records import RecordCodec
from driftline.errors import DataError, SettingsError
from driftline.plain import json_line
from driftline.stream import Stream, loads
from producers.draft import draft, slug, stream_name
from producers.playback import Playback
from producers.profile import MAX_ROWS, Profile, look
from producers.rows import Source
from producers.sources import open_source

# Rows that are decoded as inference would, to see that the draft works.
_TRIED = 1000


def init(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="CSV, CSV.gz, Parquet, JSON lines, or a folder.")
    ],
    target: Annotated[str, typer.Option(metavar="COL", help="Column to predict.")],
    time: Annotated[
        str | None, typer.Option(metavar="COL", help="Event time.", show_default=False)
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(
            metavar="COL", help="The record's id; rows are numbered without.", show_default=False
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="COL", help="What chooses the partition; the id without.", show_default=False
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COL", help="Leave this column out; may be repeated.", show_default=False
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The stream's name; from DATA without.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite NAME.toml.")] = False,
    json: Json = False,
) -> None:
    """Look at DATA, say what was seen, and write a commented stream file NAME.toml."""
    source = open_source(data)
    profile = look(source, target, time=time, id=id, key=key, drop=drop or [])
    if not profile.features:
        raise DataError(f"{data}: no column is left to learn from")
    chosen = stream_name(source.name) if name is None else name
    if chosen != slug(chosen):
        raise SettingsError(
            f"--name {chosen!r}: expected lower-case letters, digits and hyphens",
            hint=f"such as {slug(chosen)!r}",
        )
    content = draft(profile, chosen)
    path = Path(f"{chosen}.toml")
    if path.exists() and not force and path.read_text(encoding="utf-8") != content:
        raise SettingsError(
            f"{path} exists already", hint="--force overwrites it, --name gives another name"
        )
    path.write_text(content, encoding="utf-8")
    if json:
        print(json_line(profile))
        return
    _show(profile)
    if profile.time is None or profile.time.format or profile.time.step:
        _try_out(loads(content, name=str(path)), source)
    stdout.print(
        f"wrote {path}; next: driftline run {path} {data}", highlight=False, soft_wrap=True
    )


def _show(profile: Profile) -> None:
    rows = f"{profile.rows} rows"
    if profile.total is None or profile.total > profile.rows:
        rows = f"first {MAX_ROWS} of {profile.total or 'unknown'} rows"
    table = Table(title=f"{profile.source}: {rows}", title_justify="left")
    for heading in ("column", "used as", "kind", "distinct", "missing", "seen"):
        table.add_column(heading, overflow="fold")
    for column in profile.columns:
        table.add_row(
            escape(column.name),
            column.use.replace("_", " "),
            column.kind,
            str(column.distinct),
            str(column.missing or ""),
            escape("; ".join(column.notes)),
        )
    stdout.print(table)
    classes = f": {', '.join(profile.classes[:10])}" if profile.classes else ""
    stdout.print(f"{profile.task} of {escape(profile.target)}{escape(classes)}", highlight=False)
    if profile.time is not None and not profile.time.backwards:
        stdout.print(f"{escape(profile.time.column)} never runs backwards", highlight=False)
    for note in profile.notes:
        stdout.print(f"- {escape(note)}", highlight=False)


def _try_out(stream: Stream, source: Source) -> None:
    """Decode the first rows as inference will, and say what it would refuse."""
    plays = Playback(stream, source, limit=_TRIED).play()
    records = [play.value for play in plays if play.kind == "record"]
    batch = RecordCodec(stream).decode(records)
    if batch.rejected:
        first = escape(batch.rejected[0].reason)
        stdout.print(
            f"- {len(batch.rejected)} of the first {len(records)} records would be dead letters: "
            f"{first}",
            highlight=False,
        )
