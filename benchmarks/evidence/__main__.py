"""Runs one of the measurements in this folder: `python -m benchmarks.evidence NAME [OPTIONS]`."""

import importlib
import pkgutil
import sys
from pathlib import Path


def names() -> list[str]:
    """The measurements: modules here that have a `main`."""
    found = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [
        name
        for name in sorted(found)
        if not name.startswith("_")
        and hasattr(importlib.import_module(f"benchmarks.evidence.{name}"), "main")
    ]


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    known = names()
    if not arguments or arguments[0] not in known:
        print(f"usage: python -m benchmarks.evidence NAME [OPTIONS]; NAME: {', '.join(known)}")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    module = importlib.import_module(f"benchmarks.evidence.{arguments[0]}")
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
