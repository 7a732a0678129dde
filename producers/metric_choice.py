"""Propose a metric for a data set from the values of its target, and explain the proposal.

Input: the target's known values. Output: a `MetricChoice`. Costs and quantiles depend on what the
predictions are used for, so `cost` and `pinball_loss` are never proposed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from driftline.config.measure import Measure, Metric

# Below this share of a class, always predicting the other classes is so accurate that accuracy says
# little about the model.
_IMBALANCED: Final = 0.2
# Below this share, even a poor ranking has a high ROC AUC, because almost all records are easy
# negatives. Precision and recall show the difference (Saito and Rehmsmeier, The precision-recall
# plot is more informative than the ROC plot when evaluating binary classifiers on imbalanced
# datasets, 2015).
_RARE: Final = 0.05
# With fewer records of the positive class in a window, the metric of a window is mostly noise: with
# 10, the standard error of an average precision of 0.5 is about 0.15.
MIN_POSITIVES: Final = 10
# A target is skewed if its 95% quantile is more than this many times its median. For comparison,
# the factor is 4.3 for an exponential distribution, and 10 for a lognormal one with sigma 1.4.
_SKEW: Final = 10.0


class MetricChoice(msgspec.Struct, frozen=True):
    """A proposed metric, with the reason in one sentence, and what to choose for other needs.
    `positives` is the share of the positive class, or None if the metric has none."""

    measure: Measure
    reason: str
    others: str
    positives: float | None = None


def metric_for_classes(labels: Sequence[str]) -> MetricChoice:
    """Propose a metric for the labels of a classification target.

    >>> choice = metric_for_classes(["no"] * 995 + ["yes"] * 5)
    >>> choice.measure.name, choice.measure.positive
    ('average_precision', 'yes')
    >>> choice.reason
    "only 0.5% of the labels are 'yes': always predicting 'no' has an accuracy of 99.5%"
    """
    counts = Counter(labels)
    # In a tie, the alphabetical order decides.
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    most, rarest = ordered[0], ordered[-1]
    share, rare = counts[most] / len(labels), counts[rarest] / len(labels)
    if len(counts) == 2 and rare < _IMBALANCED:
        name: Metric = "average_precision" if rare < _RARE else "roc_auc"
        reason = (
            f"only {_percent(rare)} of the labels are {rarest!r}: always predicting {most!r} has "
            f"an accuracy of {_percent(share)}"
        )
        others = "or roc_auc, f1, log_loss; cost if you know what each mistake costs"
        if name == "roc_auc":
            others = others.replace("roc_auc", "average_precision")
        return MetricChoice(Measure(name, positive=rarest), reason, others, rare)
    if len(counts) > 2 and share > 1.0 - _IMBALANCED:
        reason = (
            f"{_percent(share)} of the labels are {most!r}, so accuracy would hardly depend on the "
            "other classes"
        )
        others = "or f1_macro, log_loss, or f1 of one class; cost if you know what mistakes cost"
        return MetricChoice(Measure("balanced_accuracy"), reason, others)
    reason = f"the most frequent label has {_percent(share)} of the labels"
    others = "or balanced_accuracy, f1_macro, log_loss, roc_auc; cost if mistakes differ in cost"
    return MetricChoice(Measure("accuracy"), reason, others)


def metric_for_numbers(labels: Sequence[float]) -> MetricChoice:
    """Propose a metric for the labels of a regression target.

    >>> metric_for_numbers([0.0] * 60 + [1.0, 20.0] * 20).measure.name
    'rmsle'
    >>> metric_for_numbers([10.0, 11.0, 12.5]).measure.name
    'mae'
    """
    values = np.array(labels, dtype=np.float64)
    median, high = (float(value) for value in np.quantile(values, [0.5, 0.95]))
    others = "or rmse, pinball_loss for a quantile"
    if values.min() >= 0.0 and high > _SKEW * median:
        zeros = float((values == 0.0).mean())
        reason = (
            f"{_percent(zeros)} of the values are 0, so always predicting 0 would have the best mae"
            if median == 0.0
            else f"the values are skewed: 5% of them are more than {high / median:.0f} times the "
            "median, and would dominate mae"
        )
        return MetricChoice(Measure("rmsle"), reason, f"or mae, {others.removeprefix('or ')}")
    others = others.replace("rmse", "rmse, rmsle") if values.min() >= 0.0 else others
    return MetricChoice(Measure("mae"), "the values are not strongly skewed", others)


def too_few_positives(choice: MetricChoice, window: int) -> str:
    """Return a warning if a window of `window` records is expected to have too few records of the
    positive class, or "" otherwise.

    >>> too_few_positives(metric_for_classes(["no"] * 995 + ["yes"] * 5), 400)
    "about 2 of 'yes' in a window; a useful metric needs at least 2,000 records"
    """
    share, positive = choice.positives, choice.measure.positive
    if share is None or share * window >= MIN_POSITIVES:
        return ""
    needed = math.ceil(round(MIN_POSITIVES / share, 6))
    return (
        f"about {share * window:.2g} of {positive!r} in a window; a useful metric needs at least "
        f"{needed:,} records"
    )


def _percent(share: float) -> str:
    """Format a share with enough digits to show a rare class.

    >>> _percent(0.005), _percent(0.995), _percent(0.58), _percent(0.0004)
    ('0.5%', '99.5%', '58%', '0.04%')
    """
    edge = round(min(share, 1.0 - share), 9)
    digits = 0 if edge >= 0.1 or edge == 0.0 else 1 if edge >= 0.001 else 2
    return f"{share:.{digits}%}"
