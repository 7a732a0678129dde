"""Fuzzing guided by coverage, with Atheris, for a person who has it installed."""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from driftline.errors import MissingExtra
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import Target, run


def run_guided(target: Target, folder: Path, *, seconds: int) -> None:
    """Run until something is found or the time is over; does not return. Raises MissingExtra."""
    try:
        import atheris
    except ImportError as error:
        raise MissingExtra("atheris", "dev") from error
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)

    def check(value: bytes) -> None:
        if (problem := run(target, value)) is not None:
            raise AssertionError(problem)

    mutate: Callable[[bytes, int, int], bytes] = lambda data, size, seed: _mutated(  # noqa: E731
        target, data, size, seed
    )
    atheris.instrument_all()
    atheris.Setup(
        [sys.argv[0], str(folder), f"-max_total_time={seconds}", f"-artifact_prefix={folder}/"],
        check,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def _mutated(target: Target, data: bytes, size: int, seed: int) -> bytes:
    return Mutator([data or b"{}"], target.words(), Random(seed)).draw()[:size]
