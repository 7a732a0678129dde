"""`driftline models` and `driftline freeze`: what was trained, who answers, and changing that."""

from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from driftline.cli.options import (
    BootstrapServers,
    Context,
    Json,
    Run,
    StreamFile,
    open_context,
    stdout,
)
from driftline.errors import SettingsError
from driftline.events import ModelAnnounced, ModelsEvent, RolePointer
from driftline.models.catalog import (
    CHAMPION_KEY,
    FREEZE_KEY,
    Catalog,
    key_of,
    read_catalog,
    record_of,
)
from driftline.models.keys import Signer, Trusted
from driftline.models.package import Manifest
from driftline.models.signed import sign
from driftline.plain import json_line
from driftline.topics import Topics

models = typer.Typer(
    help="The stream's models: list, show, promote, roll back, export.", no_args_is_help=True
)

# Enough hex digits to tell a stream's models apart, and to type.
_DIGITS = 12

Digest = Annotated[
    str,
    typer.Argument(
        metavar="DIGEST", help='The beginning of a digest, without "sha256:", or "champion".'
    ),
]
Why = Annotated[str, typer.Option("--reason", help="Why; it stays in the history.")]


class ExportFormat(Enum):
    """`models.export.Format` as Typer takes it: a list of literals is beyond it."""

    JOBLIB = "joblib"
    ONNX = "onnx"
    PICKLE = "pickle"


class ModelLine(msgspec.Struct, frozen=True):
    """A model of `models list`."""

    champion: bool
    model: ModelAnnounced


@models.command("list")
def list_(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """List the announced models, oldest first; the champion is marked.

    Example: driftline models list --run last
    """
    catalog = _catalog(open_context(file, bootstrap_server, run))
    found = [
        ModelLine(announced.digest == catalog.champion_digest, announced)
        for announced in catalog.announcements.values()
    ]
    if json:
        for line in found:
            print(json_line(line))
        return
    for key, why in catalog.refused.items():
        stdout.print(f"ignored record {key}: {why}", style="red", markup=False, soft_wrap=True)
    if not found:
        stdout.print("no models; `driftline train FILE --data DATA` makes the first")
        return
    table = Table(box=None)
    for name in ("", "model", "trained (UTC)", "candidate"):
        table.add_column(name, no_wrap=True)
    table.add_column("metric", justify="right")
    table.add_column("parent", no_wrap=True)
    table.add_column("cause")
    for champion, model in ((line.champion, line.model) for line in found):
        table.add_row(
            "champion" if champion else "",
            _short(model.digest),
            model.trained_at[:19],
            model.candidate,
            f"{model.metric} {model.value:.4g}",
            _short(model.parent) if model.parent else "none",
            model.cause or "by hand",
        )
    stdout.print(table)
    if catalog.freeze is not None and catalog.frozen:
        stdout.print(f"promotion is frozen: {catalog.freeze.reason}", markup=False)


class ModelShown(msgspec.Struct, frozen=True):
    """A model of `models show`."""

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
    """Show one model: how it was made, from what, and how it is scored. Verifies its package.

    Example: driftline models show champion --run last
    """
    from driftline.models.load import Models

    context = open_context(file, bootstrap_server, run)
    catalog = _catalog(context)
    announced = _find(catalog, digest)
    manifest = Models.of(context.settings, context.stream).fetch(announced).manifest()
    is_champion = announced.digest == catalog.champion_digest
    if json:
        print(json_line(ModelShown(is_champion, announced, manifest)))
        return
    parameters = ", ".join(f"{name}={value}" for name, value in manifest.parameters.items())
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    features = ", ".join(feature.name for feature in manifest.schema.features)
    lines = [
        ("model", announced.digest + (" (champion)" if is_champion else "")),
        ("candidate", f"{manifest.candidate} ({parameters or 'usual parameters'})"),
        (manifest.metric, f"{manifest.value:.4g} on {manifest.held_out:,} held-out outcomes"),
        ("trained", f"{announced.trained_at} on {manifest.rows:,} records, {manifest.range}"),
        ("positions", f"{manifest.first_position} to {manifest.last_position}"),
        ("features", features),
        ("classes", ", ".join(manifest.classes) or "none: a number"),
        ("scored by", f"{manifest.scoring}: {manifest.scoring_reason}"),
        ("parent", announced.parent or "none"),
        ("cause", announced.cause or "by hand"),
        ("signed by", announced.key_id),
        ("location", announced.location),
        ("libraries", libraries),
    ]
    lines += [("taken out", f"{item.count:,} × {item.reason}") for item in manifest.removed]
    lines += [
        ("tried", f"{trial.candidate} on {trial.range}, {trial.rows:,} rows: {trial.metric:.4g}")
        for trial in manifest.trials
    ]
    for name, value in lines:
        stdout.print(f"{name:<17} {value}", markup=False, soft_wrap=True)


@models.command()
def promote(
    digest: Digest,
    reason: Why = "promoted by hand",
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
) -> None:
    """Make a model the champion. It answers as soon as inference has verified it.

    Example: driftline models promote 3f9a --reason "better on holidays"
    """
    context = open_context(file, bootstrap_server)
    catalog = _catalog(context)
    _point(context, catalog, _find(catalog, digest), reason)


@models.command()
def rollback(
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DIGEST", help="Default: the model that the champion replaced."
        ),
    ] = None,
    reason: Why = "rolled back by hand",
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
) -> None:
    """Make an earlier model the champion again. `driftline freeze` keeps it so.

    Example: driftline models rollback --reason "complaints since noon"
    """
    context = open_context(file, bootstrap_server)
    catalog = _catalog(context)
    previous = to or catalog.previous()
    if previous is None:
        raise SettingsError(
            f"stream {context.stream.name!r}: the champion has no model before it",
            hint="`driftline models list` shows what there is; name one with --to",
        )
    _point(context, catalog, _find(catalog, previous), reason)


@models.command()
def export(
    digest: Digest,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go.")],
    formats: Annotated[
        list[ExportFormat] | None,
        typer.Option("--format", help="Default: all that the package has."),
    ] = None,
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
) -> None:
    """Write a verified model as joblib, ONNX and pickle files, with its manifest beside them.

    All take a float32 matrix; the manifest's `schema` says how its columns are made, and its
    classes are what the numbers that scikit-learn predicts stand for.

    Example: driftline models export champion exported --run last
    """
    from driftline.models.export import Format, export_model
    from driftline.models.load import Models

    context = open_context(file, bootstrap_server, run)
    announced = _find(_catalog(context), digest)
    package = Models.of(context.settings, context.stream).fetch(announced)
    chosen: tuple[Format, ...] = tuple(item.value for item in formats or ())
    for path in export_model(package, folder, chosen or None):
        stdout.print(str(path), markup=False, soft_wrap=True)


@models.command("sign")
def sign_(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
) -> None:
    """Sign announcements, champion and freeze that were written before Driftline signed them.

    A running trainer does this by itself. Look at `driftline models list` first: what counts now is
    what will be signed.

    Example: driftline models sign --stream elec2.toml
    """
    context = open_context(file, bootstrap_server)
    signer = Signer(context.settings.keys)
    events = _catalog(context).restatements()
    _send(context, signer, *events)
    for event in events:
        stdout.print(f"signed: {key_of(event)}", markup=False, soft_wrap=True)
    if not events:
        stdout.print("everything that counts is signed")


def freeze(
    file: StreamFile = None,
    off: Annotated[bool, typer.Option("--off", help="Allow automatic promotion again.")] = False,
    reason: Why = "by hand",
    bootstrap_server: BootstrapServers = None,
) -> None:
    """Stop automatic promotion: models are trained and announced, and the champion stays.

    Example: driftline freeze elec2.toml --reason "audit until Friday"
    """
    context = open_context(file, bootstrap_server)
    signer = Signer(context.settings.keys)
    event = _catalog(context).freezing(frozen=not off, reason=reason, at=_now())
    _send(context, signer, event)
    if _catalog(context).freeze != event:
        raise _not_taken(context, FREEZE_KEY)
    stdout.print("automatic promotion is allowed" if off else "automatic promotion is frozen")


# ---- helpers -------------------------------------------------------------------------------------


def _catalog(context: Context) -> Catalog:
    trusted = Trusted(context.settings.keys)
    return read_catalog(context.broker, Topics(context.stream), trusted)


def _find(catalog: Catalog, digest: str) -> ModelAnnounced:
    if digest == "champion":
        if catalog.champion_digest is None:
            raise SettingsError("there is no champion", hint="`driftline train` makes one")
        digest = catalog.champion_digest
    found = catalog.find(digest)
    if len(found) == 1:
        return found[0]
    names = ", ".join(_short(announced.digest) for announced in found)
    raise SettingsError(
        f"several models begin with {digest!r}: {names}" if found else f"no model {digest!r}",
        hint="`driftline models list` shows the digests",
    )


def _point(context: Context, catalog: Catalog, announced: ModelAnnounced, reason: str) -> None:
    if announced.digest == catalog.champion_digest:
        stdout.print(f"{_short(announced.digest)} is the champion already")
        return
    signer = Signer(context.settings.keys)
    pointer: RolePointer = catalog.pointer(announced.digest, by="person", reason=reason, at=_now())
    _send(context, signer, pointer)
    now = _catalog(context)
    if now.champion is None or now.champion.id != pointer.id:
        # Ours is the newest of its key, and compaction would keep it rather than the other one.
        _send(context, signer, *now.restatements())
        raise _not_taken(context, CHAMPION_KEY)
    stdout.print(f"champion: {_short(announced.digest)}")


def _not_taken(context: Context, key: str) -> SettingsError:
    why = _catalog(context).refused.get(key)
    if why is None:
        return SettingsError(
            f"{key}: another one was written at the same moment, and counts",
            hint="look at `driftline models list` and try again",
        )
    return SettingsError(
        f"{key}: readers will ignore what was written: {why}",
        hint="`driftline keys trust signing.pub`, wherever this stream's services run",
    )


def _send(context: Context, signer: Signer, *events: ModelsEvent) -> None:
    producer = context.broker.producer(client_id="driftline-models")
    try:
        for event in events:
            producer.send(sign(record_of(Topics(context.stream), event), signer))
        producer.flush()
    finally:
        producer.close()


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_DIGITS]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
