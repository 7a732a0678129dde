"""Decide whether a challenger may be compared with the champion (step 7 of docs/model-life.md).

Input: both models' answers for the same held-out rows. Output: a verdict and its reason. This
module performs no I/O.
"""

from typing import Final

import msgspec
import numpy as np

from driftline.config.stream import Stream
from driftline.learning.metrics import Answers, Values, better, evaluate
from trainer.split import Places

# A champion looks better on rows that it was trained on, so models are judged on newer rows only.
# With fewer newer rows than this, chance would decide, so all held-out rows are used instead.
MIN_UNSEEN: Final = 50


class Verdict(msgspec.Struct, frozen=True):
    """The result of a comparison: whether the challenger won, both metrics, and the reason."""

    won: bool
    challenger: float
    champion: float | None
    reason: str


def judged_places(held_positions: Places, champion_last: int | None) -> Places:
    """Return the indices of the held-out rows to judge the models on.

    These are the rows newer than the champion's training rows, or all held-out rows if too few of
    them are newer. `held_positions`, int64 (m,), contains the held-out rows' positions.
    `champion_last` is the newest position that the champion was trained on, or None if there is no
    champion.
    """
    everything = np.arange(len(held_positions))
    if champion_last is None:
        return everything
    unseen = np.flatnonzero(held_positions > champion_last)
    return unseen if len(unseen) >= MIN_UNSEEN else everything


def judge(stream: Stream, labels: Values, challenger: Answers, champion: Answers | None) -> Verdict:
    """Compare two models' answers. `champion` is None if there is no champion.

    The result only selects a challenger: the best of many trials looks too good on the outcomes
    that selected it. `compare` decides on newer outcomes whether it is promoted.
    """
    measure = stream.judged_by
    metric, ours = measure.name, evaluate(measure, labels, challenger)
    where = f"on the newest {len(labels)} held-out outcomes"
    if champion is None:
        return Verdict(True, ours, None, f"{metric} {ours:.4g} {where}; there is no champion")
    theirs = evaluate(measure, labels, champion)
    comparison = f"{metric} {ours:.4g} against {theirs:.4g} of the champion {where}"
    if not better(measure, ours, theirs):
        return Verdict(False, ours, theirs, f"{comparison}: the champion stays")
    return Verdict(True, ours, theirs, comparison)
