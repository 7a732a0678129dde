"""Print progress to standard error and keep a list of failed runs."""

import sys


class Report:
    """Print progress and collect failures, so that the other runs continue after one fails."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(text, file=sys.stderr, flush=True)

    def fail(self, problem: str) -> None:
        """Print and record a failed run."""
        self.failed.append(problem)
        self.say(f"failed: {problem}")
