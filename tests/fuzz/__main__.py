"""`scripts/fuzz`: feed mutated bytes to everything that reads bytes from outside."""

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
    help="Feed mutated bytes to the decoders of records, labels and events, and to the readers of "
    "stream files, pointers and packages.\n\n"
    "A target must reject the bytes with a subclass of DriftlineError, or read them. What it reads "
    "must survive being written and read again. Every violation is printed with the smallest input "
    "found. Exit code 1: a violation was found.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stderr = Console(stderr=True)

Targets = Annotated[
    str, typer.Option("--target", help="Names or prefixes of targets, separated by commas, or all.")
]


@app.command()
def run(
    target: Targets = "all",
    executions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Executions of each target. Default: 1,000,000, or 100,000 for the slow targets: "
            "stream files, pointers, packages, references and manifests.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Most minutes for each target.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for the inputs.")] = 0,
    results: Annotated[
        Path | None, typer.Option(help="File of JSON lines to append sessions to.")
    ] = None,
    keep_found: Annotated[
        bool, typer.Option("--keep", help="Add failing inputs to tests/fuzz/corpus.")
    ] = False,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Also measure which lines of the readers were executed."),
    ] = False,
) -> None:
    """Fuzz targets with random inputs. The same seed gives the same inputs.

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
    """Check that no input of tests/fuzz/corpus fails any more.

    Example: scripts/fuzz replay
    """
    found = list(replay())
    for one in found:
        print(f"{one.target}: {one.problem}\n    {one.value[:300]!r}")
    if found:
        sys.exit(1)


@app.command()
def guided(
    target: Annotated[str, typer.Argument(help="Name of one target.")],
    minutes: Annotated[float, typer.Option(help="Duration in minutes.")] = 1.0,
    folder: Annotated[Path, typer.Option(help="Folder for inputs that reach new code.")] = Path(
        ".driftline/fuzz"
    ),
) -> None:
    """Fuzz one target guided by coverage. It needs Atheris: `pip install atheris`.

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
        f"{len(session.found)} violations",
        highlight=False,
    )
    for one in session.found:
        print(f"{one.target}: {one.problem}\n    {one.value[:300]!r}")
        if keep_found:
            print(f"    saved as {keep(one)}")


if __name__ == "__main__":
    app()
