"""`python -m benchmarks.evidence NAME …`: runs one measurement, a module of this package."""

import importlib
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run the measurement that is named first, with the rest of the arguments."""
    # By their text: importing all would load every library that one of them needs.
    modules = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    names = [module.stem for module in modules if "\ndef main(argv" in module.read_text()]
    if not argv or argv[0] not in names:
        print(f"usage: python -m benchmarks.evidence {{{','.join(names)}}} …", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.evidence.{argv[0]}")
    code: int = module.main(argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
