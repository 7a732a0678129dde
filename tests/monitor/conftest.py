"""A fixture that several tests of the monitor share."""

from collections.abc import Iterator

import pytest

from monitor.reference import thresholds


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """Reduce the resamples, for tests that compute many thresholds and need no exact ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "RESAMPLES", 100)
        yield
