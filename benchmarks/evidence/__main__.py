"""Run a measurement from this folder: `python -m benchmarks.evidence NAME [OPTIONS]`.

With `all` as the name, run every measurement in sequence. This takes several hours.
"""

import importlib
import pkgutil
import sys
from pathlib import Path


def names() -> list[str]:
    """Return the measurements' names: the modules in this folder that have a `main`."""
    found = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [
        name
        for name in sorted(found)
        if not name.startswith("_")
        and hasattr(importlib.import_module(f"benchmarks.evidence.{name}"), "main")
    ]


def run(arguments: list[str]) -> int:
    """Run the measurements named in the arguments, and return the exit code."""
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
