"""Run the `driftline` command in a process of its own, with its own DRIFTLINE_HOME."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# A command that takes longer than this hangs.
TIMEOUT_S = 300


class Invoked(NamedTuple):
    """The output and exit code of a command."""

    exit_code: int
    stdout: str
    stderr: str


def invoke(
    home: Path,
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Invoked:
    """Run `driftline ARGUMENTS` with DRIFTLINE_HOME set, and wait until it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "driftline_app.cli", *arguments],
        env={**os.environ, "DRIFTLINE_HOME": str(home), **(environment or {})},
        cwd=cwd or home.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Invoked(done.returncode, done.stdout, done.stderr)
