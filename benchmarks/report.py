"""What is said while measuring, on standard error, and which runs failed."""

import sys


class Report:
    """Tells what is going on; keeps what failed, so that one failure does not cost all others."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def say(self, text: str) -> None:
        """Tell."""
        print(text, file=sys.stderr, flush=True)

    def fail(self, problem: str) -> None:
        """Tell of a run that failed, and keep it."""
        self.failed.append(problem)
        self.say(f"failed: {problem}")
