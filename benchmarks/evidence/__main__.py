"""`python -m benchmarks.evidence NAME`: runs one measurement; without a name, lists them."""

import sys
from importlib import import_module
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run the module that is named; its own `--help` says more."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if not argv or argv[0] not in names:
        print(f"usage: python -m benchmarks.evidence NAME [--help]\nNAME: {', '.join(names)}")
        return 0 if argv in ([], ["--help"]) else 2
    code: int = import_module(f"benchmarks.evidence.{argv[0]}").main(argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
