"""`driftline reconcile`: read a stream's topics, and account for every record and label."""

from typing import Annotated

import typer
from rich.table import Table

from driftline.audit.reconcile import Missing, Reconciliation
from driftline.audit.reconcile_findings import Lost
from driftline.safe_text import json_line
from driftline_app.cli.options import BootstrapServers, Json, Run, StreamFile, stdout
from driftline_app.cli.progress_bar import progress_bar
from driftline_app.context import open_context


def reconcile(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    name_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="List all missing or misplaced records and labels, not only the first 20 of each.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Also exit with code 1 if inference has not read all records yet."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Read all of the stream's topics, and account for every record and label.

    Each record must have become a prediction or a dead letter, and each label an outcome or a dead
    letter. Records that inference has not read yet are counted separately. You can use this command
    while the services are running.

    Prints the number of records and labels in each state, and lists the missing records and labels.
    Exits with code 1 if a record or label is missing, was deleted before it was read, or has two
    outcomes, or if a label is not in its record's partition.

    Example: driftline reconcile --run last
    """
    from driftline.audit.reconcile import reconcile as count

    context = open_context(file, bootstrap_server, run)
    with progress_bar("reading topics", hidden=json) as (started, passed):
        found = count(
            context.broker,
            context.stream,
            limit=None if name_all else 20,
            total=started,
            progress=passed,
        )
    if json:
        print(json_line(found))
    else:
        _show(found)
    if not found.clean or (strict and found.waiting):
        raise typer.Exit(1)


# Field → the description printed with its count. A count of zero is printed only for fields in
# `_ALWAYS`.
_RECORDS = {
    "records": "feature records",
    "predictions": "predicted",
    "outcomes": "  with an outcome (their label arrived)",
    "unlabelled": "  without an outcome",
    "dead_letters": "dead letters",
    "waiting": "not read by inference yet",
    "expired": "unknown: retention may have deleted their results",
    "missing": "missing",
}
_BESIDE = {
    "revised": "revised labels, each with an outcome of its own",
    "duplicate_ids": "records with the id of an earlier record",
    "replayed": "records resent from dead letters",
    "redelivered": "predictions published twice, which readers drop",
    "doubled_outcomes": "outcomes published twice, which no Driftline service does",
    "misplaced_labels": "labels outside their record's partition, which cannot be joined",
    "foreign_records": "predictions and outcomes from other programs",
    "foreign_letters": "dead letters from other programs",
}
_LABELS = {
    "total": "labels",
    "joined": "labels in an outcome",
    "repeated": "labels that repeat an earlier label",
    "replaced": "labels revised before their prediction arrived",
    "dead_letters": "dead letters: unreadable, or no prediction within the label's grace period",
    "waiting": "labels not read yet, or waiting for their prediction",
    "expired": "unknown: retention may have deleted their results",
    "missing": "missing",
}
_ALWAYS = ("records", "predictions", "dead_letters", "missing", "total", "joined")


def _show(found: Reconciliation) -> None:
    table = Table(box=None, show_header=False, title=found.stream, title_justify="left")
    table.add_column(justify="right")
    table.add_column()
    for names, values in ((_RECORDS, found), (_LABELS, found.labels), (_BESIDE, found)):
        for field, words in names.items():
            count: int = getattr(values, field)
            if count or field in _ALWAYS:
                red = field in ("missing", "doubled_outcomes", "misplaced_labels") and count
                table.add_row(f"{count:,}", words, style="red" if red else None)
        table.add_section()
    stdout.print(table)
    _name("records", found.missing, found.missing_records)
    _name("labels", found.labels.missing, found.missing_labels)
    for lost in found.lost:
        _red(f"lost: {_explained(lost)}")
    for label in found.named_misplaced:
        where = f"labels[{label.partition}]@{label.offset} id {label.id}"
        why = f"its record is in partition {label.record_partition}; {label.cause}"
        _red(f"misplaced: {where}: {why}")
    if found.misplaced_labels > len(found.named_misplaced):
        more = found.misplaced_labels - len(found.named_misplaced)
        _red(f"and {more:,} more misplaced labels; --all lists them")
    if found.clean:
        stdout.print("nothing is missing, and no result is duplicated", style="green")


def _explained(lost: Lost) -> str:
    where = f"{lost.topic}[{lost.partition}]"
    if lost.end is None:
        return (
            f"{where} was recreated: records of the old topic from offset {lost.start:,} "
            "were not read"
        )
    count = lost.end - lost.start
    return f"{where}@{lost.start:,} to {lost.end - 1:,}: {count:,} offsets were deleted unread"


def _red(text: str) -> None:
    stdout.print(text, markup=False, style="red", soft_wrap=True)


def _name(what: str, count: int, missing: tuple[Missing, ...]) -> None:
    for item in missing:
        named = "unreadable" if item.id is None else f"id {item.id}"
        place = f"{what}[{item.partition}]@{item.offset}"
        stdout.print(f"missing: {place} {named}", markup=False, style="red")
    if count > len(missing):
        stdout.print(f"and {count - len(missing):,} more {what}; --all lists them", style="red")
