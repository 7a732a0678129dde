"""`driftline models` and `driftline freeze`: list and export models, and change the champion."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from driftline.errors import SettingsError
from driftline.models.catalog import Catalog, key_of
from driftline.models.package import Manifest
from driftline.safe_text import json_line
from driftline.wire.events import ModelAnnounced
from driftline_app.champion_change import (
    ChampionChange,
    catalog_of,
    make_champion,
    set_freeze,
    sign_unsigned,
)
from driftline_app.cli.options import BootstrapServers, Json, Run, StreamFile, stdout
from driftline_app.context import open_context
from driftline_app.message_lines import short_digest

models = typer.Typer(
    help="List, inspect, promote, roll back and export the stream's models.", no_args_is_help=True
)

Digest = Annotated[
    str,
    typer.Argument(
        metavar="DIGEST", help='First digits of a digest (without "sha256:"), or "champion".'
    ),
]
Why = Annotated[
    str, typer.Option("--reason", help="Reason for the change; published along with it.")
]


class ExportFormat(Enum):
    """The values of `models.export.Format` as an enum: Typer does not support `list[Literal]`."""

    JOBLIB = "joblib"
    ONNX = "onnx"
    PICKLE = "pickle"


class ModelLine(msgspec.Struct, frozen=True):
    """One line of `models list --json`."""

    champion: bool
    model: ModelAnnounced
    rolled_back: bool = False  # rolled back by an operator; never promoted by the trainer again


@models.command("list")
def list_(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """List all models with their metrics, oldest first, and mark the champion.

    Each model's metric was computed on the held-out records of its own training run. Models that an
    operator has rolled back are marked as well.

    Example: driftline models list --run last
    """
    catalog = catalog_of(open_context(file, bootstrap_server, run))
    rolled_back = catalog.champion.set_aside if catalog.champion else ()
    found = [
        ModelLine(digest == catalog.champion_digest, announced, digest in rolled_back)
        for digest, announced in catalog.announcements.items()
    ]
    if json:
        for line in found:
            print(json_line(line))
        return
    for key, why in catalog.rejected.items():
        stdout.print(f"ignored record {key}: {why}", style="red", markup=False, soft_wrap=True)
    if not found:
        none = "no models; `driftline train --data DATA` creates the first one"
        stdout.print(catalog.lost or none, markup=False, soft_wrap=True)
        return
    stdout.print(_table(found))
    if (pointer := catalog.champion) is not None:
        by = "the trainer" if pointer.by == "trainer" else "an operator"
        since = f" at {_minute(pointer.at)} UTC" if pointer.at else ""
        stdout.print(f"champion chosen by {by}{since}: {pointer.reason}", markup=False)
    if catalog.freeze is not None and catalog.frozen:
        stdout.print(f"automatic promotion is frozen: {catalog.freeze.reason}", markup=False)


def _table(found: Sequence[ModelLine]) -> Table:
    """Return the models as a table that fits into 80 columns."""
    metrics = {line.model.metric for line in found}
    table = Table(box=None)
    for name in ("", "model", "trained (UTC)", "candidate"):
        table.add_column(name, no_wrap=True)
    table.add_column(metrics.pop() if len(metrics) == 1 else "metric", justify="right")
    for line in found:
        model = line.model
        value = f"{model.value:.4g}"
        table.add_row(
            "champion" if line.champion else "rolled back" if line.rolled_back else "",
            short_digest(model.digest),
            _minute(model.trained_at),
            model.candidate,
            f"{model.metric} {value}" if metrics else value,
        )
    return table


class ModelShown(msgspec.Struct, frozen=True):
    """The output of `models show --json`."""

    champion: bool
    announcement: ModelAnnounced
    manifest: Manifest


@models.command()
def show(
    digest: Digest,
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Verify a model's package, and show how the model was trained and how it scores records.

    Example: driftline models show champion --run last
    """
    from driftline.models.load import ModelLoader

    context = open_context(file, bootstrap_server, run)
    catalog = catalog_of(context)
    announced = _find(catalog, digest)
    manifest = ModelLoader.of(context.settings, context.stream).fetch(announced).manifest()
    is_champion = announced.digest == catalog.champion_digest
    if json:
        print(json_line(ModelShown(is_champion, announced, manifest)))
        return
    parameters = ", ".join(f"{name}={value}" for name, value in manifest.parameters.items())
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    features = ", ".join(feature.name for feature in manifest.schema.features)
    lines = [
        ("model", announced.digest + (" (champion)" if is_champion else "")),
        ("candidate", f"{manifest.candidate} ({parameters or 'default parameters'})"),
        (manifest.metric, f"{manifest.value:.4g} on {manifest.held_out:,} held-out outcomes"),
        ("trained", f"{announced.trained_at} on {manifest.rows:,} records, {manifest.range}"),
        ("positions", f"{manifest.first_position} to {manifest.last_position}"),
        ("features", features),
        ("classes", ", ".join(manifest.classes) or "none: it predicts a number"),
        ("scored by", f"{manifest.scoring}: {manifest.scoring_reason}"),
        ("parent", announced.parent or "none"),
        ("cause", announced.cause or "trained without a retrain request"),
        ("signed by", announced.key_id),
        ("location", announced.location),
        ("libraries", libraries),
    ]
    lines += [("left out", f"{item.count:,} × {item.reason}") for item in manifest.removed]
    lines += [
        ("tried", f"{trial.candidate} on {trial.range}, {trial.rows:,} rows: {trial.metric:.4g}")
        for trial in manifest.trials
    ]
    for name, value in lines:
        stdout.print(f"{name:<17} {value}", markup=False, soft_wrap=True)


@models.command()
def promote(
    digest: Digest,
    reason: Why = "promoted manually",
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    json: Json = False,
) -> None:
    """Make a model the champion. Inference uses the model once its package has been verified.

    Prints the metrics of the new and the previous champion.

    Example: driftline models promote 3f9a --reason "better on holidays"
    """
    context = open_context(file, bootstrap_server)
    catalog = catalog_of(context)
    _show_change(make_champion(context, catalog, _find(catalog, digest), reason), json)


@models.command()
def rollback(
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DIGEST",
            help="Model to return to. Default: the model that the champion replaced, or the "
            "champion's parent if an operator promoted the champion.",
        ),
    ] = None,
    reason: Why = "rolled back manually",
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    json: Json = False,
) -> None:
    """Make an earlier model the champion again.

    Prints the metrics of the restored and the replaced model. The trainer never promotes the
    replaced model again, but it may still promote new models. To pause all automatic promotion, run
    `driftline freeze`.

    Example: driftline models rollback --reason "complaints since noon"
    """
    context = open_context(file, bootstrap_server)
    catalog = catalog_of(context)
    previous = to or catalog.previous()
    if previous is None:
        raise SettingsError(
            f"stream {context.stream.name!r}: the champion has not replaced a model",
            hint="choose one from `driftline models list` with --to DIGEST",
        )
    _show_change(make_champion(context, catalog, _find(catalog, previous), reason), json)


@models.command()
def export(
    digest: Digest,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the files.")],
    formats: Annotated[
        list[ExportFormat] | None,
        typer.Option(
            "--format",
            help="Format to write. May be repeated. Default: all formats in the package.",
        ),
    ] = None,
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
) -> None:
    """Verify a model's package, and write the model as joblib, ONNX and pickle files.

    Also writes the model's manifest, and prints the path of each file. The input of each exported
    model is a float32 matrix. In the manifest, `schema` describes how to compute the columns of
    this matrix, and `classes` lists the labels in the order of the predicted class numbers.

    Example: driftline models export champion exported --run last
    """
    from driftline.models.export import Format, export_model
    from driftline.models.load import ModelLoader

    context = open_context(file, bootstrap_server, run)
    announced = _find(catalog_of(context), digest)
    package = ModelLoader.of(context.settings, context.stream).fetch(announced)
    chosen: tuple[Format, ...] = tuple(item.value for item in formats or ())
    for path in export_model(package, folder, chosen or None):
        stdout.print(str(path), markup=False, soft_wrap=True)


@models.command("sign")
def sign_(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
) -> None:
    """Sign records in the models topic that an earlier version of Driftline left unsigned.

    Signs model announcements, the champion pointer and the freeze, and prints the signed records'
    keys. A running trainer signs unsigned records automatically. Before you use this command, check
    the output of `driftline models list`, because the command signs the state shown there.

    Example: driftline models sign
    """
    context = open_context(file, bootstrap_server)
    events = sign_unsigned(context)
    for event in events:
        stdout.print(f"signed: {key_of(event)}", markup=False, soft_wrap=True)
    if not events:
        stdout.print("all records are already signed")


def freeze(
    file: StreamFile = None,
    off: Annotated[bool, typer.Option("--off", help="Resume automatic promotion.")] = False,
    reason: Why = "changed manually",
    bootstrap_server: BootstrapServers = None,
) -> None:
    """Pause the automatic promotion of new models, or resume it with --off.

    While promotion is paused, the trainer still trains and announces models, and you can still
    promote a model with `driftline models promote`.

    Example: driftline freeze --reason "audit until Friday"
    """
    context = open_context(file, bootstrap_server)
    set_freeze(context, frozen=not off, reason=reason)
    stdout.print("automatic promotion is allowed" if off else "automatic promotion is frozen")


# ---- helpers -------------------------------------------------------------------------------------


def _show_change(change: ChampionChange, json: bool) -> None:
    if json:
        print(json_line(change))
        return
    if not change.changed:
        stdout.print(f"already the champion: {_described(change.champion)}")
        return
    stdout.print(f"champion: {_described(change.champion)}")
    before = "none" if change.before is None else _described(change.before)
    stdout.print(f"before:   {before}")
    if change.before is not None:
        stdout.print("Each model's metric was computed on its own held-out records.")


def _described(model: ModelAnnounced) -> str:
    return f"{short_digest(model.digest)}  {model.candidate}, {model.metric} {model.value:.4g}"


def _find(catalog: Catalog, digest: str) -> ModelAnnounced:
    if digest == "champion":
        if catalog.champion_digest is None:
            raise SettingsError("there is no champion", hint="`driftline train` creates one")
        if catalog.lost is not None:
            raise SettingsError(catalog.lost)
        digest = catalog.champion_digest
    found = catalog.find(digest)
    if len(found) == 1:
        return found[0]
    names = ", ".join(short_digest(announced.digest) for announced in found)
    raise SettingsError(
        f"several digests begin with {digest!r}: {names}" if found else f"no model {digest!r}",
        hint="`driftline models list` lists the digests",
    )


def _minute(moment: str) -> str:
    """Shorten an RFC 3339 time in UTC to its date, hour and minute."""
    return moment[:16].replace("T", " ")
