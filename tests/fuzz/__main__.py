"""`scripts/fuzz`: feeds changed bytes to everything that reads bytes from outside."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from tests.fuzz.coverage import Measured
from tests.fuzz.engine import Session, fuzz, keep, replay
from tests.fuzz.targets import TARGETS, Target

app = typer.Typer(
    help="Feeds changed bytes to the decoders of records, labels and events, to stream files, "
    "pointers and packages.\n\n"
    "Each must refuse them with an error under DriftlineError, or read them; and what was read can "
    "be written and read again. Anything else is printed with the smallest input found. Exit code "
    "1: something was found.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stderr = Console(stderr=True)

Targets = Annotated[
    str, typer.Option("--target", help="Names or their beginnings, by comma; or all.")
]


@app.command()
def run(
    target: Targets = "all",
    executions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each target. Default: 1,000,000, or 100,000 of files, pointers, packages.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Of each target, at most.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the inputs.")] = 0,
    results: Annotated[
        Path | None, typer.Option(help="File of JSON lines; sessions are added to it.")
    ] = None,
    keep_found: Annotated[
        bool, typer.Option("--keep", help="Add what is found to tests/fuzz/corpus.")
    ] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Also measure which lines of the readers were run.")
    ] = False,
) -> None:
    """Fuzz with drawn inputs; the same seed draws the same.

    Example: scripts/fuzz run --target records,labels --executions 10000
    """
    bad = 0
    measured = Measured() if coverage else None
    for each in _named(target):
        if measured is not None:
            measured.start()
        session = fuzz(
            each,
            seed,
            executions or each.executions,
            seconds=None if minutes is None else minutes * 60,
        )
        if measured is not None:
            measured.stop()
        bad += len(session.found)
        _say(session, keep_found)
        if results is not None:
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("ab") as file:
                file.write(msgspec.json.encode(session) + b"\n")
    if measured is not None:
        print(measured.table())
    if bad:
        sys.exit(1)


@app.command("replay")
def replay_corpus() -> None:
    """Check what was found before: it must be found no more.

    Example: scripts/fuzz replay
    """
    found = list(replay())
    for one in found:
        print(f"{one.target}: {one.problem}\n    {one.value[:300]!r}")
    if found:
        sys.exit(1)


@app.command()
def guided(
    target: Annotated[str, typer.Argument(help="One target.")],
    minutes: Annotated[float, typer.Option(help="How long.")] = 1.0,
    folder: Annotated[Path, typer.Option(help="Where inputs that reach new code are kept.")] = Path(
        ".driftline/fuzz"
    ),
) -> None:
    """Fuzz one target guided by coverage, with Atheris: `pip install atheris` first.

    Example: scripts/fuzz guided records.rfc3339 --minutes 10
    """
    if target not in TARGETS:
        raise typer.BadParameter(f"{target!r}: no such target; see `scripts/fuzz list`")
    module = [sys.executable, "-m", "tests.fuzz.guided"]
    os.execv(sys.executable, [*module, target, str(folder / target), str(round(minutes * 60))])


@app.command("list")
def list_targets() -> None:
    """Print the names of all targets.

    Example: scripts/fuzz list
    """
    print("\n".join(TARGETS))


def _named(names: str) -> list[Target]:
    if names == "all":
        return list(TARGETS.values())
    wanted = tuple(names.split(","))
    found = [target for name, target in TARGETS.items() if name.startswith(wanted)]
    if not found:
        raise typer.BadParameter(f"{names!r}: no such target; see `scripts/fuzz list`")
    return found


def _say(session: Session, keep_found: bool) -> None:
    stderr.print(
        f"{session.target}: {session.executions:,} executions in {session.seconds:g} s, "
        f"{len(session.found)} found",
        highlight=False,
    )
    for one in session.found:
        print(f"{one.target}: {one.problem}\n    {one.value[:300]!r}")
        if keep_found:
            print(f"    kept as {keep(one)}")


if __name__ == "__main__":
    app()
