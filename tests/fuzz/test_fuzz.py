"""Run a seeded part of `scripts/fuzz`, and replay the inputs that failed before."""

from random import Random

import pytest

from tests.fuzz.engine import corpus, fuzz
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS, Target, run

# Keeps all tests together within some seconds; a package takes milliseconds.
EXECUTIONS = {"package": 200, "reference": 200, "stream-file": 500}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_changed_bytes_are_refused_or_can_be_written_again(target: Target) -> None:
    session = fuzz(target, seed=1, executions=EXECUTIONS.get(target.name, 2000))
    assert not session.found


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_valid_bytes_are_taken(target: Target) -> None:
    assert target.seeds()
    for seed in target.seeds():
        target.check(seed)  # raises nothing, also no DriftlineError


@pytest.mark.parametrize("name", [name for name in TARGETS if corpus(name)])
def test_what_was_found_is_found_no_more(name: str) -> None:
    problems = {file: run(TARGETS[name], value) for file, value in corpus(name).items()}
    found = {file: problem for file, problem in problems.items() if problem}
    assert found == {}


def test_a_seed_draws_the_same_inputs_again() -> None:
    def drawn(seed: int) -> list[bytes]:
        mutator = Mutator([b'{"a": 1, "b": "x"}'], (), Random(seed))
        return [mutator.draw() for _ in range(50)]

    assert drawn(1) == drawn(1) != drawn(2)
