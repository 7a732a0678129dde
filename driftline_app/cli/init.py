"""`driftline init`: inspect a data set and draft its stream file."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from driftline.config.stream import Stream, loads
from driftline.errors import DataError, SettingsError
from driftline.safe_text import json_line
from driftline.wire.feature_records import RecordCodec
from driftline_app.cli.options import Json, data_argument, stdout
from producers.draft import draft, slug, stream_name
from producers.playback import Playback
from producers.profile import MAX_ROWS, DataProfile, look
from producers.rows import RowSource
from producers.sources import open_source

# Number of rows to decode with the drafted stream file, to test the draft.
_TRIED = 1000


def _column(help: str) -> Any:
    return typer.Option(metavar="COL", help=help, show_default=False)


def init(
    data: Annotated[str, data_argument("A folder that contains one such file also works.")],
    target: Annotated[str, _column("Column to predict.")],
    time: Annotated[str | None, _column("Column with the event time. Default: none.")] = None,
    id: Annotated[
        str | None, _column("Column with the record id. Default: the row number.")
    ] = None,
    key: Annotated[
        str | None, _column("Column whose value selects the partition. Default: the record id.")
    ] = None,
    drop: Annotated[list[str] | None, _column("Column to ignore. May be repeated.")] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the stream. Default: derived from the name of DATA.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite NAME.toml if it exists.")
    ] = False,
    json: Json = False,
) -> None:
    """Inspect DATA, and write a commented stream file, NAME.toml, to the current folder.

    Prints a summary of each column, so that you can check the stream file and edit it.

    Example: driftline init elec2.csv.gz --target class --time at
    """
    source = open_source(data)
    profile = look(source, target, time=time, id=id, key=key, drop=drop or [])
    if not profile.features:
        raise DataError(f"{data}: no feature columns are left")
    path, content = _write(profile, stream_name(source.name) if name is None else name, force)
    if json:
        print(json_line(profile))
        return
    _show(profile)
    run = f"driftline run {quote(data)} --stream {path}"
    if profile.time is None or profile.time.format or profile.time.step:
        _try_out(loads(content, name=str(path)), source)
    else:
        run = f"set [time] format in {path}, then {run}"
    stdout.print(f"wrote {path}; next: {run}", soft_wrap=True)


def _write(profile: DataProfile, name: str, force: bool) -> tuple[Path, str]:
    """Write the stream file NAME.toml, and return its path and content. Raises SettingsError."""
    if name != slug(name):
        raise SettingsError(
            f"--name {name!r}: expected lower-case letters, digits and hyphens",
            hint=f"for example {slug(name)!r}",
        )
    path, content = Path(f"{name}.toml"), draft(profile, name)
    if path.exists() and not force and path.read_text(encoding="utf-8") != content:
        raise SettingsError(
            f"{path} already exists", hint="overwrite it with --force, or choose another --name"
        )
    path.write_text(content, encoding="utf-8")
    return path, content


def _show(profile: DataProfile) -> None:
    rows = f"{profile.rows:,} rows"
    if profile.total is None or profile.total > profile.rows:
        rows = f"first {MAX_ROWS:,} of {_count(profile.total)} rows"
    stdout.print(f"{escape(profile.source)}: {rows}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for heading in ("column", "used as", "kind", "distinct", "missing", "notes"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("column", "notes"))
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
    stdout.print(f"{profile.task} of {escape(profile.target)}{escape(classes)}")
    metric = profile.metric
    stdout.print(
        f"metric {metric.measure.name}: {escape(metric.reason)}; {metric.others}", soft_wrap=True
    )
    clock = profile.time
    if clock is not None and not clock.backwards and clock.unreadable < profile.rows:
        stdout.print(f"{escape(clock.column)} never decreases")
    for note in profile.notes:
        stdout.print(f"- {escape(note)}")


def _count(total: int | None) -> str:
    return "an unknown number of" if total is None else f"{total:,}"


def _try_out(stream: Stream, source: RowSource) -> None:
    """Decode the first rows as inference does, and print how many of them it would reject."""
    plays = Playback(stream, source, limit=_TRIED).play()
    records = [play.value for play in plays if play.kind == "record"]
    batch = RecordCodec(stream).decode(records)
    if batch.rejected:
        first = escape(batch.rejected[0].reason)
        stdout.print(
            f"- {len(batch.rejected)} of the first {len(records)} records would become dead "
            f"letters, the first because of: {first}",
        )
