"""Let a challenger win only if it beats the champion (step 7 of docs/model-life.md).

In: both models' answers about the same held-out rows. Out: a verdict with its reason in words.
"""

from typing import Final

import msgspec
import numpy as np

from driftline.evaluation import Values, better, evaluate, higher_is_better
from driftline.stream import Metric, Stream
from trainer.split import Places

# Blocks of the held-out rows whose differences give the gain's error; they keep neighbours, which
# are alike, together.
BLOCKS: Final = 10
# A champion looks better on rows that it was trained on, so that only newer ones count; with fewer
# of those than this, chance decides, and all held-out rows count.
MIN_UNSEEN: Final = 50


class Verdict(msgspec.Struct, frozen=True):
    """Whether the challenger won, both metrics, and why in words."""

    won: bool
    challenger: float
    champion: float | None
    reason: str


def judged_places(held_positions: Places, champion_last: int | None) -> Places:
    """Places among the held-out rows that the champion was not trained on, if they suffice.

    `held_positions` int64 (m,): positions of the held-out rows; `champion_last`: the newest
    position of the champion's training.
    """
    everything = np.arange(len(held_positions))
    if champion_last is None:
        return everything
    unseen = np.flatnonzero(held_positions > champion_last)
    return unseen if len(unseen) >= MIN_UNSEEN else everything


def judge(stream: Stream, labels: Values, challenger: Values, champion: Values | None) -> Verdict:
    """Compare on these rows; the champion's answers are None where there is no champion.

    A tie keeps the champion. So does a gain within one standard error of itself: chance alone gives
    as much in one of six comparisons, and each swap starts the monitor's comparisons anew.
    """
    metric, task = stream.judged_by, stream.task
    ours = evaluate(metric, task, labels, challenger)
    where = f"on the newest {len(labels)} held-out outcomes"
    if champion is None:
        return Verdict(True, ours, None, f"{metric} {ours:.4g} {where}; there is no champion")
    theirs = evaluate(metric, task, labels, champion)
    said = f"{metric} {ours:.4g} against {theirs:.4g} of the champion {where}"
    if not better(metric, ours, theirs):
        return Verdict(False, ours, theirs, f"{said}: the champion stays")
    noise = _noise(metric, stream, labels, challenger, champion)
    if abs(ours - theirs) <= noise * (1 + 1e-9):  # one row more in one block is exactly its noise
        reason = f"{said}: within chance (± {noise:.2g}), the champion stays"
        return Verdict(False, ours, theirs, reason)
    return Verdict(True, ours, theirs, said)


def _noise(
    metric: Metric, stream: Stream, labels: Values, challenger: Values, champion: Values
) -> float:
    """Standard error of the gain over blocks of rows, kept in their order."""
    sign = 1.0 if higher_is_better(metric) else -1.0
    gains = []
    for block in np.array_split(np.arange(len(labels)), min(BLOCKS, len(labels))):
        at = slice(int(block[0]), int(block[-1]) + 1)
        ours = evaluate(metric, stream.task, labels[at], challenger[at])
        gains.append(sign * (ours - evaluate(metric, stream.task, labels[at], champion[at])))
    if len(gains) < 2:
        return 0.0
    return float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
