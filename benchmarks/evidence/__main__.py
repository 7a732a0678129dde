"""Run a measurement from this folder: `python -m benchmarks.evidence NAME [OPTIONS]`.

If NAME is `all`, run every measurement in sequence, which takes several hours.
"""

import importlib
import pkgutil
import sys
from pathlib import Path


def names() -> list[str]:
    """Return the names of all measurements: the modules in this folder that define `main`."""
    found = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [
        name
        for name in sorted(found)
        if not name.startswith("_")
        and hasattr(importlib.import_module(f"benchmarks.evidence.{name}"), "main")
    ]


def run(arguments: list[str]) -> int:
    """Run one measurement, or all if the name is `all`, and return the exit code."""
    known = names()
    if arguments == ["all"]:
        codes = []
        for name in known:
            print(f"\n# {name}\n", flush=True)
            codes.append(_main(name, []))
        return max(codes)
    if not arguments or arguments[0] not in known:
        print(f"usage: python -m benchmarks.evidence NAME [OPTIONS]; NAME: {', '.join(known)}, all")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    return _main(arguments[0], arguments[1:])


def _main(name: str, options: list[str]) -> int:
    module = importlib.import_module(f"benchmarks.evidence.{name}")
    return int(module.main(options))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
