"""Run `driftline run` with the code of any checkout, and read the topics that the run saves.

Input: the folder of a checkout, a data file and a stream file. Output: the run's result and its
events as plain JSON values, because other versions define other structs. If the checkout has its
own `.venv`, its Python is used, because another version may need other packages.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

HERE: Final = Path(__file__).resolve().parents[2]
Event = dict[str, Any]


class CheckoutError(Exception):
    """A command of a checkout failed. The message contains the end of its error output."""


class Ran(msgspec.Struct, frozen=True):
    """A finished run. `home` is the folder in which the run is stored."""

    code: Path
    home: Path
    result: Event  # the output of `driftline run --json`

    def topic(self, role: str) -> list[Event]:
        """Return the events of a topic such as `drift`, in the order in which they were written."""
        options = [role, "--run", "last", "--json", "--from-start"]
        lines = _driftline(self.code, self.home, ["tail", *options]).splitlines()
        return [msgspec.json.decode(line) for line in lines if line.strip()]

    def drift(self, *kinds: str) -> list[Event]:
        """Return the changes of drift events, by default of all kinds."""
        return [event for event in self.topic("drift") if not kinds or event["kind"] in kinds]


def run(code: Path, data: Path, stream_file: Path, home: Path, *, warmup: float = 0.2) -> Ran:
    """Stream a data file with a checkout's code. Raises CheckoutError."""
    home.mkdir(parents=True, exist_ok=True)
    data, stream_file = data.resolve(), stream_file.resolve()
    # At da34ce9, the stream file is an argument in front of the data.
    arguments = [str(data), "--stream", str(stream_file)]
    if not _has_application(code):
        arguments = [str(stream_file), str(data)]
    options = ["--warmup", repr(warmup), "--json"]
    output = _driftline(code, home, ["run", *arguments, *options])
    return Ran(code, home, msgspec.json.decode(output.splitlines()[-1]))


def opened(events: list[Event], column: str | None = None) -> list[Event]:
    """Return the events that were opened, or the changes that added `column` to an event."""
    if column is None:
        return [event for event in events if event["action"] == "opened"]
    named: dict[str, Event] = {}
    for event in events:
        if event["action"] != "resolved" and column in event["columns"]:
            named.setdefault(event["id"], event)
    return list(named.values())


def open_positions(events: list[Event], end: int) -> int:
    """Return how many positions below `end` have an open event of the kinds in `events`."""
    total, since, are_open = 0, 0, set[str]()
    for event in sorted(events, key=lambda event: int(event["position"])):
        before = bool(are_open)
        if event["action"] == "resolved":
            are_open.discard(event["id"])
        else:
            are_open.add(event["id"])
        if are_open and not before:
            since = event["position"]
        elif before and not are_open:
            total += event["position"] - since
    return total + (end - since if are_open else 0)


def _has_application(code: Path) -> bool:
    return (code / "driftline_app").is_dir()


def _driftline(code: Path, home: Path, arguments: list[str]) -> str:
    module = "driftline_app.cli" if _has_application(code) else "driftline.cli"
    environment = {
        **os.environ,
        "PYTHONPATH": str(code.resolve()),
        "DRIFTLINE_HOME": str(home.resolve()),
    }
    own = code.resolve() / ".venv" / "bin" / "python"
    # The current folder must contain neither a stream file nor another checkout's packages.
    done = subprocess.run(
        [str(own) if own.exists() else sys.executable, "-m", module, *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        problem = done.stderr.strip()[-1000:]
        raise CheckoutError(f"`driftline {' '.join(arguments)}` of {code} failed: {problem}")
    return done.stdout
