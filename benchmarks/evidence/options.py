"""Define the command-line options that all measurements of `benchmarks.evidence` share."""

import argparse
from pathlib import Path

from benchmarks.evidence.sets import DATA


def options(name: str, purpose: str | None, *, data: bool = True) -> argparse.ArgumentParser:
    """Return a parser with `--json` and, if the measurement reads data sets, `--data`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.evidence {name}", description=purpose
    )
    if data:
        parser.add_argument("--data", type=Path, default=DATA, help="folder with the data sets")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser
