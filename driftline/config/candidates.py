"""Define the table [models] of a stream file, the default candidates, and the work of fitting them.

Work is counted in rows × fits, so that equal searches do equal work on any machine. One unit is the
work of fitting and scoring a decision tree on one row.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from driftline.config.stream_sections import Task

# CPU time of fitting a candidate with its default parameters and scoring a quarter as many rows, as
# a multiple of the decision tree's 6 µs per row. `python -m benchmarks.evidence search_work`
# measured, on 10,000 and on 1,000 rows with 8 numbers, in a classification and a regression:
# linear models 0.1 to 0.8, nearest neighbours 1.3 to 3.5, forests 28 to 34 in the classification,
# boosting 4 to 32, neural networks 15 to 26. Boosting has a constant part: building 100 trees takes
# 0.16 s on 1,000 rows, and 0.25 s on 10,000.
WORK: Final[dict[str, int]] = {
    "logistic_regression": 1,
    "linear_regression": 1,
    "decision_tree": 1,
    "k_nearest_neighbours": 4,
    "random_forest": 30,
    "hist_gradient_boosting": 10,
    "neural_network": 20,
}
# A class path may name anything, so it counts as much as the most expensive candidate.
OTHER_WORK: Final = max(WORK.values())
# A fit on fewer rows counts as one on this many rows: below, the time of building trees and calling
# libraries hardly depends on the number of rows.
MIN_FIT_ROWS: Final = 1_000


def default_candidates(task: Task) -> tuple[str, ...]:
    """Return the candidates of a stream file that names none."""
    linear = "logistic_regression" if task == "classification" else "linear_regression"
    return (
        linear,
        "decision_tree",
        "k_nearest_neighbours",
        "random_forest",
        "hist_gradient_boosting",
    )


def least_budget(candidates: tuple[str, ...]) -> int:
    """Return the smallest budget with which each candidate can be trained once.

    The first trainings may use half of a budget.
    """
    return 2 * MIN_FIT_ROWS * sum(WORK.get(name, OTHER_WORK) for name in candidates)


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The candidate models, and how they are compared."""

    candidates: Annotated[
        tuple[str, ...],
        Meta(
            description="models to train: logistic_regression, linear_regression, decision_tree, "
            "k_nearest_neighbours, random_forest, hist_gradient_boosting, neural_network, or a "
            "class path; default: all of these that fit the task, except neural_network"
        ),
    ] = ()
    holdout: Annotated[
        Annotated[float, Meta(gt=0, lt=1)],
        Meta(description="fraction of the records held out to select and judge models"),
    ] = 0.2
    split: Annotated[
        Literal["time", "stratified"],
        Meta(
            description="which records to hold out; time: the newest; stratified: the same share "
            "of each class, for data without a meaningful order"
        ),
    ] = "time"
    tune: Annotated[
        bool, Meta(description="whether to try several parameter values for each candidate")
    ] = True
    # With this default, a search on 10,000 rows takes about twice as long as a full search of
    # the first three default candidates alone (`python -m benchmarks.evidence search_work`).
    budget: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(
            description="largest work of a search for a model, in rows × fits; on each row, a "
            "decision tree or linear model counts 1, k_nearest_neighbours 4, "
            "hist_gradient_boosting 10, neural_network 20, random_forest and class paths 30"
        ),
    ] = 500_000
    keep_training_records: Annotated[
        bool,
        Meta(
            description="whether the model store keeps the records and labels of a model that is "
            "trained on a data set, so that later models can be trained on them, too"
        ),
    ] = True
    # NumPy seeds have 32 bits, and tuning uses `seed` + 1.
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**32 - 2)], Meta(description="seed for all random numbers")
    ] = 0
