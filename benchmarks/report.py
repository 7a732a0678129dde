"""Print a benchmark's progress to standard error, and collect the runs that failed."""

import sys


class Report:
    """Print progress and collect failures, so that one failed run does not stop the others."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def say(self, text: str) -> None:
        """Print a progress message."""
        print(text, file=sys.stderr, flush=True)

    def fail(self, problem: str) -> None:
        """Print why a run failed, and add this text to `failed`."""
        self.failed.append(problem)
        self.say(f"failed: {problem}")
