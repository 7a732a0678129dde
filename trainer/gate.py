"""Decide whether a challenger model beats the champion (step 7 of docs/model-life.md).

Input: both models' answers for the same held-out rows. Output: a verdict and its reason. This
module performs no I/O.
"""

from typing import Final

import msgspec
import numpy as np

from driftline.config.measure import Measure
from driftline.config.stream import Stream
from driftline.learning.metrics import Answers, Values, better, evaluate
from trainer.split import Places

# The gain's standard error is computed from the gains on this many blocks of held-out rows. Each
# block consists of consecutive rows, because consecutive rows are correlated.
BLOCKS: Final = 10
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

    The champion stays if the gain is at most one standard error: chance alone produces a larger
    gain in one in six comparisons, and each swap restarts the monitor's comparisons.
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
    noise = _noise(measure, labels, challenger, champion)
    # Allow for rounding errors: if the whole gain comes from one row, it equals `noise`.
    if abs(ours - theirs) <= noise * (1 + 1e-9):
        reason = f"{comparison}: the gain may be chance (± {noise:.2g}), so the champion stays"
        return Verdict(False, ours, theirs, reason)
    return Verdict(True, ours, theirs, comparison)


def _noise(measure: Measure, labels: Values, challenger: Answers, champion: Answers) -> float:
    """Return the gain's standard error, computed over blocks of consecutive rows.

    Blocks in which the metric is undefined are left out. The result is infinite if fewer than two
    of several blocks remain.
    """
    sign = 1.0 if measure.higher_is_better else -1.0
    gains: list[float] = []
    for block in np.array_split(np.arange(len(labels)), min(BLOCKS, len(labels))):
        at = slice(int(block[0]), int(block[-1]) + 1)
        ours = evaluate(measure, labels[at], challenger.take(at))
        gains.append(sign * (ours - evaluate(measure, labels[at], champion.take(at))))
    if len(gains) < 2:
        return 0.0
    known = [gain for gain in gains if np.isfinite(gain)]
    if len(known) < 2:
        return float("inf")
    return float(np.std(known, ddof=1) / np.sqrt(len(known)))
