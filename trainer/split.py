"""Split labelled rows into training and held-out rows (step 6 of docs/model-life.md).

Input: an array of the cleaned rows' labels, in time order. Output: sorted indices of both parts.
With `time`, the newest rows are held out, because a model serves records that are newer than its
training rows. With `stratified`, the same share of each class, chosen at random, is held out. This
suits data without a meaningful order.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream_sections import Task

Places = NDArray[np.intp]


def split(
    labels: NDArray[np.object_] | NDArray[np.float64],
    *,
    share: float,
    how: Literal["time", "stratified"],
    task: Task,
    seed: int,
) -> tuple[Places, Places]:
    """Return the indices of the training and held-out rows. Neither part is empty if n ≥ 2.

    >>> labels = np.array(list("ababababab"), dtype=object)
    >>> train, held = split(labels, share=0.2, how="time", task="classification", seed=0)
    >>> held
    array([8, 9])
    """
    count = len(labels)
    held = min(max(1, math.floor(count * share)), count - 1)
    if how == "time":
        return np.arange(count - held), np.arange(count - held, count)
    random = np.random.default_rng(seed)
    groups = (
        [np.arange(count)]
        if task == "regression"
        else [np.flatnonzero(labels == name) for name in sorted(set(labels))]
    )
    chosen = np.zeros(count, dtype=bool)
    for group in groups:
        # Keep a class's only row for training. Otherwise, no model could predict that class.
        take = math.floor(len(group) * share + 0.5) if len(group) > 1 else 0
        chosen[random.permutation(group)[: min(take, len(group) - 1)]] = True
    if not chosen.any():
        chosen[-1] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
