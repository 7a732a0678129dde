"""Assemble the `driftline` command line, and turn errors into messages and exit codes.

Exit codes: 0 for success, 1 if a check failed or nothing was found, 2 after an error message, 130
after Ctrl-C.
"""

import errno
import logging
import os
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from types import ModuleType
from typing import Annotated, Final, NoReturn

import msgspec
import typer

from driftline.errors import DriftlineError, MachineError
from driftline.interrupts import EXIT_CODE, catch, pressed
from driftline.logs import log_command
from driftline.safe_text import json_line, visible_lines
from driftline_app.cli.command import Command

log = logging.getLogger(__name__)

app = typer.Typer(
    name="driftline",
    help="Score a Kafka stream with a scikit-learn model, detect drift, retrain the model, and "
    "replace it while the stream runs.\n\nStart with `driftline demo`. For your own data, run "
    "`driftline init DATA --target COLUMN`, then `driftline run DATA`.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# Panel of `driftline --help` → modules, each with its commands. A `typer.Typer` becomes a command
# group.
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
    "Inspect": [
        ("tail", ("tail",)),
        ("trace", ("trace",)),
        ("deadletters", ("deadletters",)),
        ("estimates", ("estimates",)),
        ("reconcile", ("reconcile",)),
    ],
}


# Operating-system error number → hint that tells the user what to do.
_HINTS: Final[dict[int, str]] = {
    errno.EACCES: "check the owner and permissions, or choose another folder",
    errno.EROFS: "choose a writable folder",
    errno.ENOSPC: "free some space on this disk",
    errno.EDQUOT: "free some space on this disk",
    errno.EEXIST: "a folder is needed here, but this is a file or a broken link; rename or move it",
    errno.ENOTDIR: "a folder is needed here, but this is a file; rename or move it",
    errno.EMFILE: "raise the limit on open files: ulimit -n",
}


class ErrorDetail(msgspec.Struct, frozen=True):
    """An error: its class (from `driftline.errors`, or "UsageError"), its message and its hint."""

    type: str
    message: str
    hint: str = ""


class ErrorLine(msgspec.Struct, frozen=True):
    """The line that a command with `--json` prints to standard error if its exit code is 2."""

    error: ErrorDetail


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        print(f"driftline {installed_version('driftline')}")
    except PackageNotFoundError:
        print("driftline (not installed, running from source files)")
    raise typer.Exit


@app.callback()
def prepare(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Write a detailed log, including the Kafka client's log, to standard error.",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Set up logging for all commands except the services, which set up their own logging."""
    log_command(verbose=verbose or os.environ.get("DRIFTLINE_LOG_LEVEL", "").lower() == "debug")


@cache
def command_line() -> typer.Typer:
    """Return the application with all commands. The first call imports the commands' modules."""
    for panel, modules in _COMMANDS.items():
        for module_name, names in modules:
            module: ModuleType = import_module(f"driftline_app.cli.{module_name}")
            for name in names:
                command = getattr(module, name)
                if isinstance(command, typer.Typer):
                    for each in command.registered_commands:
                        each.cls = Command
                    app.add_typer(command, name=name, rich_help_panel=panel)
                else:
                    app.command(name, cls=Command, rich_help_panel=panel)(command)
    return app


def main() -> None:
    """Run the `driftline` script."""
    as_json = "--json" in sys.argv[1:]
    catch()
    try:
        if as_json:
            sys.exit(_run_for_scripts())
        command_line()()
    except KeyboardInterrupt:
        _end_interrupted()
    except BrokenPipeError:  # the process that reads the pipe, such as `head`, has ended
        # Redirect standard output; otherwise, the flush at exit would raise the same error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (DriftlineError, OSError) as error:
        known = error if isinstance(error, DriftlineError) else _explained(error)
        if as_json:
            _print_error(type(known).__name__, known.message, known.hint)
        else:
            print(visible_lines(f"error: {known}"), file=sys.stderr)
        sys.exit(2)
    except Exception:
        if pressed():  # a library has turned the interrupt into another error
            _end_interrupted()
        raise


def _end_interrupted() -> NoReturn:
    print("interrupted", file=sys.stderr)
    sys.exit(EXIT_CODE)


def _explained(error: OSError) -> MachineError:
    """Convert an operating-system error to a MachineError with the path and the reason."""
    log.debug("the cause:", exc_info=error)
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    reason = error.strerror or str(error) or type(error).__name__
    message = f"{' and '.join(paths)}: {reason}" if paths else reason
    return MachineError(message, hint=_HINTS.get(error.errno or 0, ""))


def _run_for_scripts() -> int:
    """Run the command and return its exit code. Print usage errors as JSON."""
    try:
        return int(command_line()(standalone_mode=False) or 0)
    except Exception as error:
        # Typer's usage errors have no public base class, but all have a `format_message` method.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        _print_error("UsageError", format_message(), "")
        return 2


def _print_error(kind: str, message: str, hint: str) -> None:
    print(json_line(ErrorLine(ErrorDetail(kind, message, hint))), file=sys.stderr)
