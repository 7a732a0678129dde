"""Measure which lines of the readers a fuzzing session executes."""

import io

import coverage

from tests.fuzz.targets import ROOT

# The modules that turn bytes from outside into values.
_READERS = (
    "driftline/wire/*",
    "driftline/config/stream.py",
    "driftline/config/stream_keys.py",
    "driftline/config/expressions.py",
    "driftline/models/package.py",
    "driftline/models/package_reference.py",
    "driftline/models/catalog.py",
)


class Measured:
    """Collects coverage over several sessions. It makes them a few times slower."""

    def __init__(self) -> None:
        self._coverage = coverage.Coverage(
            data_file=None, branch=True, include=[str(ROOT / pattern) for pattern in _READERS]
        )

    def start(self) -> None:
        """Start measuring."""
        self._coverage.start()

    def stop(self) -> None:
        """Stop measuring until the next `start`."""
        self._coverage.stop()

    def table(self) -> str:
        """Return coverage.py's report by file. Definitions count as missed: they run at import."""
        text = io.StringIO()
        self._coverage.report(file=text, show_missing=True, skip_empty=True)
        return text.getvalue()
