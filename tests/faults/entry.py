"""Start a service as `python -m driftline_app.cli` does, with faults inside the process.

In: the environment variable `FAULTS_ENTRY`, an `Inside` as JSON. Out: the service, unchanged except
for these faults. The product's code does not know this module.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from driftline.broker.port import Message
from driftline.runtime.handler import Handler, Output
from driftline.wire.topics import SERVICES
from driftline_app import assembly as compose

VARIABLE: Final = "FAULTS_ENTRY"
_READ_EVERY_S: Final = 0.05
_CLOSE_S: Final = 0.5  # on busy cores, the batches of a backlog are up to this far apart


class Inside(msgspec.Struct, frozen=True):
    """Files through which the harness causes faults in a running service, and a size limit."""

    clock: str | None = None  # file with the seconds by which the wall clock is shifted
    raising: str | None = None  # while this file exists, batches raise; see `Raising`
    memory_records: int | None = None  # memory limit of the join, so that it uses the disk


class Raising:
    """A handler that raises while a file exists. The file contains words:

    - `once`: one batch raises, and the file is deleted. `always`: every batch raises.
    - `after`: the handler processes the batch before the exception, so that its output is lost.
    - the name of a service: only this service raises, and only in a batch that closely follows
      another one, because the offsets of the two may then be committed together.
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
    from consumers.outcomes.handler import OutcomesHandler

    defaults = OutcomesHandler.__init__.__kwdefaults__
    assert defaults is not None
    defaults["memory_records"] = memory_records


def main() -> None:
    """Install the faults, then run the command line."""
    inside = msgspec.json.decode(os.environ[VARIABLE], type=Inside)
    if inside.clock is not None:
        _shift_clock(Path(inside.clock))
    if inside.raising is not None:
        _raise_in_handlers(Path(inside.raising))
    if inside.memory_records is not None:
        _use_the_disk(inside.memory_records)
    from driftline_app.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
