"""Starts a service as `python -m driftline.cli` does, with faults that only its inside can have.

In: the environment variable `FAULTS_ENTRY`, a JSON of `Inside`. Out: the service, unchanged but for
these. Product code knows nothing of it.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from driftline.broker.port import Message
from driftline.cli import compose
from driftline.handler import Handler, Output
from driftline.topics import SERVICES

VARIABLE: Final = "FAULTS_ENTRY"
_READ_EVERY_S: Final = 0.05
_CLOSE_S: Final = 0.5  # on busy cores, batches of a backlog are that far apart


class Inside(msgspec.Struct, frozen=True):
    """Files that the harness writes while the service runs, and sizes that make a run small."""

    clock: str | None = None  # its content: seconds by which the wall clock is off
    raising: str | None = None  # while it is there, batches raise; see `Raising`
    memory_records: int | None = None  # what the join keeps in memory, so that it uses the disk


class Raising:
    """A handler that raises while a file is there.

    Content `once`: one batch raises and the file goes. `always`: every batch raises. A second
    word, `after`, lets the handler take the batch in first, so that its output is lost. The name of
    a service lets it raise in that one alone, in a batch that follows close upon another: its
    offsets may be committed together with those of the other one.
    """

    def __init__(self, handler: Handler, flag: Path) -> None:
        self._handler = handler
        self._flag = flag
        self._handled_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def handle(self, messages: Sequence[Message]) -> Output:
        try:
            words = self._flag.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return self._handler.handle(messages)
        if named := set(SERVICES) & set(words):
            handled_s, self._handled_s = self._handled_s, time.monotonic()
            if sys.argv[1] not in named or self._handled_s - handled_s > _CLOSE_S:
                return self._handler.handle(messages)
        if "once" in words:
            self._flag.unlink(missing_ok=True)
        if "after" in words:
            self._handler.handle(messages)
        raise RuntimeError("raised by the harness")


def _shift_clock(offset: Path) -> None:
    real, monotonic = time.time, time.monotonic
    known_s, until_s = 0.0, 0.0

    def shifted() -> float:
        nonlocal known_s, until_s
        if monotonic() >= until_s:
            until_s = monotonic() + _READ_EVERY_S
            known_s = float(offset.read_text(encoding="utf-8"))
        return real() + known_s

    time.time = shifted


def _raise_in_handlers(flag: Path) -> None:
    build = compose.build_handler

    def building(*arguments: Any, **options: Any) -> Any:
        return Raising(build(*arguments, **options), flag)

    compose.build_handler = building


def _use_the_disk(memory_records: int) -> None:
    from consumers.outcomes import OutcomesHandler

    defaults = OutcomesHandler.__init__.__kwdefaults__
    assert defaults is not None
    defaults["memory_records"] = memory_records


def main() -> None:
    """Build the faults in, then run the command line."""
    inside = msgspec.json.decode(os.environ[VARIABLE], type=Inside)
    if inside.clock is not None:
        _shift_clock(Path(inside.clock))
    if inside.raising is not None:
        _raise_in_handlers(Path(inside.raising))
    if inside.memory_records is not None:
        _use_the_disk(inside.memory_records)
    from driftline.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
