"""The `driftline` command: registers the sub-commands and turns errors into exit codes.

Exit codes: 0 done, 1 the answer is no (something is missing, a check failed), 2 an error that the
message explains, 130 interrupted.
"""

import os
import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Annotated

import typer

from driftline.errors import DriftlineError
from driftline.logs import log_command
from driftline.plain import visible_lines

app = typer.Typer(
    name="driftline",
    help="Score a Kafka stream with a scikit-learn model, notice drift, retrain, swap models while "
    "the stream runs.\n\nStart: `driftline demo`, or `driftline init DATA --target COLUMN` and "
    "`driftline run NAME.toml DATA`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# Panel → (module, commands in it). A name that is a Typer application becomes a group.
_COMMANDS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "Start": [
        ("init", ("init",)),
        ("config", ("config",)),
        ("run", ("run", "demo")),
        ("backtest", ("backtest",)),
    ],
    "Operate": [
        ("up", ("up", "down")),
        ("status", ("status",)),
        ("broker", ("broker",)),
        ("topics", ("topics",)),
        ("produce", ("produce",)),
        ("doctor", ("doctor",)),
    ],
    "Services": [
        ("services", ("inference", "outcomes", "monitor", "trainer")),
        ("health", ("health",)),
    ],
    "Models": [
        ("train", ("train",)),
        ("models", ("models", "freeze")),
        ("keys", ("keys",)),
    ],
    "Look": [
        ("tail", ("tail",)),
        ("trace", ("trace",)),
        ("deadletters", ("deadletters",)),
        ("estimates", ("estimates",)),
        ("reconcile", ("reconcile",)),
    ],
}


@app.callback()
def prepare(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Log to standard error what the command and its Kafka client do.",
        ),
    ] = False,
) -> None:
    """Set up what all commands share. Services set up their own log."""
    log_command(verbose=verbose or os.environ.get("DRIFTLINE_LOG_LEVEL", "").lower() == "debug")


@cache
def command_line() -> typer.Typer:
    """The application with all its commands, which are imported at the first call."""
    for panel, modules in _COMMANDS.items():
        for module_name, names in modules:
            module: ModuleType = import_module(f"driftline.cli.{module_name}")
            for name in names:
                command = getattr(module, name)
                if isinstance(command, typer.Typer):
                    app.add_typer(command, name=name, rich_help_panel=panel)
                else:
                    app.command(name, rich_help_panel=panel)(command)
    return app


def main() -> None:
    """Entry point of the `driftline` script."""
    try:
        command_line()()
    except DriftlineError as error:
        print(visible_lines(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
