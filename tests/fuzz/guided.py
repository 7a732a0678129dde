"""Fuzz guided by coverage, with Atheris: `python -m tests.fuzz.guided TARGET FOLDER SECONDS`.

It runs in a separate process, because Atheris must instrument the readers at their import. The
folder gets the inputs that reach new code and the input that fails.
"""

import sys
from pathlib import Path
from random import Random

# The modules that turn bytes from outside into values.
_READERS = [
    "driftline.wire",
    "driftline.config.stream",
    "driftline.config.expressions",
    "driftline.models",
]


def main() -> None:
    """Run until an input fails or the time is over."""
    import atheris  # optional, and in no requirements file

    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    with atheris.instrument_imports(include=_READERS):
        from tests.fuzz.mutate import Mutator
        from tests.fuzz.targets import TARGETS, run

    target = TARGETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)

    def check(value: bytes) -> None:
        if (problem := run(target, value)) is not None:
            raise AssertionError(problem)

    def mutated(data: bytes, size: int, seed: int) -> bytes:
        return Mutator([data or b"{}"], target.words(), Random(seed)).draw()[:size]

    atheris.Setup(
        [sys.argv[0], str(folder), f"-max_total_time={seconds}", f"-artifact_prefix={folder}/"],
        check,
        custom_mutator=mutated,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
