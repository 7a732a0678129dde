"""Run targets on random inputs and collect the failures.

In: a target, a seed, a number of executions. Out: a `Found` for each kind of failure, with its
smallest input. `corpus/<target>/` contains inputs that failed before; tests replay them.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS, Target, run

CORPUS: Final = Path(__file__).parent / "corpus"
_SMALLER: Final = 300  # attempts to shrink an input
_LONGEST_KEPT: Final = 100_000


class Found(msgspec.Struct, frozen=True):
    """One kind of failure of a target, with its smallest input."""

    target: str
    problem: str
    value: bytes
    execution: int


class Session(msgspec.Struct, frozen=True):
    """The result of fuzzing one target."""

    target: str
    seed: int
    executions: int
    seconds: float
    found: tuple[Found, ...]


def fuzz(target: Target, seed: int, executions: int, *, seconds: float | None = None) -> Session:
    """Draw and check this many inputs, or as many as the time allows."""
    random = Random(f"{target.name} {seed}")
    mutator = Mutator([*target.seeds(), *corpus(target.name).values()], target.words(), random)
    kinds: dict[str, Found] = {}
    began_s = time.monotonic()
    done = 0
    while done < executions and (seconds is None or time.monotonic() - began_s < seconds):
        value = mutator.draw()
        done += 1
        problem = run(target, value)
        if problem is None:
            continue
        kind = _kind(problem)
        known = kinds.get(kind)
        if known is None or len(value) < len(known.value):
            kinds[kind] = Found(target.name, problem, value, done)
    found = tuple(_smaller(target, one) for one in kinds.values())
    return Session(target.name, seed, done, round(time.monotonic() - began_s, 1), found)


def corpus(name: str) -> dict[str, bytes]:
    """Return the inputs of the corpus by file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*"))}


def keep(found: Found) -> Path:
    """Add a failing input to the corpus and return its path."""
    folder = CORPUS / found.target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(found.value).hexdigest()[:12]
    path.write_bytes(found.value[:_LONGEST_KEPT])
    return path


def replay() -> Iterator[Found]:
    """Yield the inputs of the corpus that fail."""
    for name, target in TARGETS.items():
        for value in corpus(name).values():
            if (problem := run(target, value)) is not None:
                yield Found(name, problem, value, 0)


def _kind(problem: str) -> str:
    """Return the problem without the parts that differ between inputs."""
    plain = re.sub(r"0x[0-9a-f]+|b?'[^']*'|\"[^\"]*\"|-?[0-9][0-9.e+]*", "N", problem)
    return plain[:80]


def _smaller(target: Target, found: Found) -> Found:
    """Shrink an input by cutting parts out, as long as it fails in the same way."""
    random, value, kind = Random(0), found.value, _kind(found.problem)
    for _ in range(_SMALLER):
        if len(value) < 2:
            break
        size = max(1, random.randrange(1, len(value)) // random.choice((1, 2, 8)))
        start = random.randrange(len(value))
        cut = value[:start] + value[start + size :]
        problem = run(target, cut)
        if problem is not None and _kind(problem) == kind:
            value = cut
    return msgspec.structs.replace(found, value=value)
