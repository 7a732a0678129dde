"""What several of the monitor's tests share."""

from collections.abc import Iterator

import pytest

from monitor.reference import thresholds


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """For tests that make many models' thresholds and in which nothing hangs on their exactness."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "RESAMPLES", 100)
        yield
