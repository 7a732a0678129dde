"""Compare the estimated metrics in `windows` with metrics computed from the labels in `outcomes`.

Input: the two topics. Output: an `EstimateComparison` for each window that has both an estimate and
labels, and a sentence that summarizes the estimates' errors.
"""

from collections.abc import Callable
from typing import NamedTuple

from driftline.broker.port import Broker
from driftline.broker.scan import Progress, ranges, scan, size
from driftline.config.stream import Stream
from driftline.wire.envelope import decode, outcomes_decoder, windows_decoder
from driftline.wire.events import Outcome
from driftline.wire.topics import Topics
from driftline.wire.window_events import DataWindow
from monitor.estimates.coverage import Coverage, EstimateComparison, Truth
from monitor.estimates.estimator import MIN_HELD


class ComparedEstimates(NamedTuple):
    """The comparisons, the number of closed windows, and how many of these have an estimate."""

    pairs: list[EstimateComparison]
    windows: int
    estimated: int


def compare_estimates(
    broker: Broker, stream: Stream, total: Callable[[int], None], progress: Progress
) -> ComparedEstimates:
    """Compare estimates with labels in each window that has both.

    `total` is called once with the number of offsets to read, and `progress` with the number read
    since its last call. Raises BrokerError.
    """
    topics = Topics(stream)
    span = ranges(broker, [topics.windows, topics.outcomes])
    total(size(span))
    windows: list[DataWindow] = []
    truth = Truth(stream)
    for messages in scan(broker, span, progress=progress):
        outcomes = []
        for message in messages:
            if message.topic == topics.windows:
                window = decode(windows_decoder, message)
                if isinstance(window, DataWindow):
                    windows.append(window)
            elif isinstance(outcome := decode(outcomes_decoder, message), Outcome):
                outcomes.append(outcome)
        truth.add(outcomes)
    estimated = sum(any(group.estimate for group in window.groups) for window in windows)
    return ComparedEstimates(truth.compare(windows), len(windows), estimated)


def missing_sentence(found: ComparedEstimates) -> str:
    """Return a sentence that explains why there are no comparisons.

    >>> missing_sentence(ComparedEstimates([], windows=9, estimated=2))
    '2 windows have an estimate, but no labels of their records have arrived'
    """
    if not found.windows:
        return "no window has closed yet"
    if not found.estimated:
        return (
            f"none of the {found.windows} closed windows has an estimate: the model's package "
            f"needs at least {MIN_HELD} held-out records, and a classifier must return scores"
        )
    return (
        f"{found.estimated} windows have an estimate, but no labels of their records have arrived"
    )


def error_sentence(found: Coverage) -> str:
    """Return a sentence that summarizes the estimates' errors.

    >>> error_sentence(Coverage(9, 0.0214, 8 / 9, 0.0405))
    'estimates without labels: mean error 0.0214 over 9 windows, 89% of the true values within \
the 95% interval (mean error of the held-out metric: 0.0405)'
    """
    return (
        f"estimates without labels: mean error {found.mean_absolute_error:.3g} over "
        f"{found.windows} windows, {found.covered:.0%} of the true values within the 95% interval "
        f"(mean error of the held-out metric: {found.held_out_error:.3g})"
    )
