"""Faults of the disk: the join's cache deleted, and small disks that are full for a while.

In: a cell. Out: nothing; each returns when the fault is over. A full disk that no service has met
proves nothing, so a run in which none did deviates.
"""

import errno
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.faults.cell import Cell
from tests.faults.workers import Slot

# Enough for the services to begin; the fault fills the rest.
_DISK_MB: Final = 48
_FULL_PATIENCE_S: Final = 30.0
# A start, or a training, on busy cores.
_MET_PATIENCE_S: Final = 120.0
_MAX_REQUESTS: Final = 4
_STORE_FAILED: Final = "waits, and is retried"  # in the log of the trainer
_NO_SPACE: Final = "No space left"  # in the log of the outcomes service


def state_deleted(cell: Cell) -> None:
    """The cache of the join goes, under a worker that runs or before one that starts."""
    shutil.rmtree(cell.site.settings.home / "state", ignore_errors=True)
    if cell.random.random() < 0.5:
        slot = Slot("outcomes", 0)
        cell.workers.kill(slot)
        cell.workers.start(slot)


def mount(name: str) -> Callable[[Cell], None]:
    """Put a folder of the home on a small disk of its own, with what is in it."""

    def before(cell: Cell) -> None:
        path = cell.site.settings.home / name
        kept = {file.name: file.read_bytes() for file in path.glob("*")} if path.exists() else {}
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"a small disk cannot be mounted: {done.stderr.strip()}")
        for file, content in kept.items():
            (path / file).write_bytes(content)

    return before


def unmount(name: str) -> Callable[[Cell], None]:
    """Undo `mount`."""

    def after(cell: Cell) -> None:
        subprocess.run(["umount", "-l", str(cell.site.settings.home / name)], check=True)

    return after


def state_full(cell: Cell) -> None:
    """The disk of the join's cache is full, while a worker closes its cache and the next opens it:
    before, the cache may keep all that is new in memory."""
    slot = Slot("outcomes", 0)
    log = cell.workers.logs / f"{slot}.log"
    with _full(cell, "state"):
        cell.workers.stop(slot)
        cell.workers.start(slot)
        cell.wait_for(
            lambda: _NO_SPACE in log.read_text(encoding="utf-8", errors="replace"),
            _MET_PATIENCE_S,
            "the disk was full, but no write of the join's cache failed",
        )


def models_full(cell: Cell) -> None:
    """Fill the model store while the trainer has a package to write.

    A challenger that loses is not written. The first request therefore trains on the concept that
    has just started, where the challenger should win; more requests follow until one is written.
    """
    data, seed = cell.site.scenario.data, cell.site.scenario.seed
    concept_start = data.rows * 6 // 8  # of the eight concepts of `scenario.sea`
    cell.load.allow((concept_start * 1.1 - data.warm_up) / (data.rows - data.warm_up))
    cell.wait_for(
        lambda: cell.load.idle and cell.lag() == 0, _MET_PATIENCE_S, "the concept is not reached"
    )
    log = cell.workers.logs / f"{Slot('trainer', 0)}.log"

    def waits() -> bool:
        return _STORE_FAILED in log.read_text(encoding="utf-8", errors="replace")

    with _full(cell, "models"):
        for number in range(_MAX_REQUESTS):
            request = f"retrain-full-{seed}-{number}"
            cell.ask(request, since=None if number else concept_start)
            cell.wait_for(
                lambda request=request: waits() or cell.answered(request),  # type: ignore[misc]
                _MET_PATIENCE_S,
                f"the disk was full, but {request} neither waited nor was decided on",
            )
            if waits():
                break
        else:
            raise RuntimeError("the disk was full, but no package had to be written")
    cell.wait_for(
        lambda: cell.answered(request),
        _MET_PATIENCE_S,
        f"there is space again, but {request} is not decided on",
    )


@contextmanager
def _full(cell: Cell, name: str) -> Iterator[None]:
    """Keep a disk full during the block, and for at least 5 or 15 s.

    Raises RuntimeError if no write of the harness itself fails.
    """
    balloon = cell.site.settings.home / name / "balloon"
    until_s = time.monotonic() + cell.random.choice((5.0, 15.0))
    refused, over = threading.Event(), threading.Event()
    filling = threading.Thread(target=fill, args=(balloon, refused, over), daemon=True)
    filling.start()
    try:
        if not refused.wait(_FULL_PATIENCE_S):
            raise RuntimeError(f"{balloon.parent} does not become full")
        yield
        over.wait(max(0.0, until_s - time.monotonic()))
    finally:
        over.set()
        filling.join()
        balloon.unlink(missing_ok=True)


def fill(balloon: Path, refused: threading.Event, over: threading.Event) -> None:
    """Write to a file until `over` is set, also into space that others free.

    Sets `refused` when the disk is full.
    """
    with balloon.open("wb", buffering=0) as file:
        while not over.is_set():
            try:
                file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                refused.set()
                over.wait(0.01)
