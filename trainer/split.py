"""Split rows into a training part and a held-out part (step 6 of docs/model-life.md).

In: cleaned rows in time order. Out: places of the train part and the held-out part, both in order.
For streams the newest are held out, as the model will meet what comes after; `stratified` draws the
same share of each class where order means nothing.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from driftline.stream import Task

Places = NDArray[np.intp]


def split(
    labels: NDArray[np.object_] | NDArray[np.float64],
    *,
    share: float,
    how: Literal["time", "stratified"],
    task: Task,
    seed: int,
) -> tuple[Places, Places]:
    """Places (train, held out) of `n` rows; at least one in each for n ≥ 2.

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
        # A class of one row is kept for training: without it the model could never name it.
        take = math.floor(len(group) * share + 0.5) if len(group) > 1 else 0
        chosen[random.permutation(group)[: min(take, len(group) - 1)]] = True
    if not chosen.any():
        chosen[-1] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
