"""Choose the kind of tally that a metric is computed from."""

from driftline.config.measure import Measure
from monitor.confusion import ClassTally
from monitor.metric_sums import NumberTally, Tally
from monitor.score_ranks import RankTally


def new_tally(measure: Measure) -> Tally:
    """Return an empty tally for a metric."""
    if measure.is_ranking:
        return RankTally(measure)
    if measure.kind.task == "classification" and not measure.needs_scores:
        return ClassTally(measure)
    return NumberTally(measure)
