"""Define candidate models: kinds of scikit-learn estimators, each with a small parameter grid.

Input: a candidate's name from the stream file. Output: a `Candidate`, which builds estimators. All
estimators are fitted on a float32 matrix, run in one thread and use the stream's seed.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal

import msgspec

from driftline.config.stream_sections import Task
from driftline.errors import TrainingError

Parameters = dict[str, str | int | float | bool | None]

NAMES: Final = (
    "logistic_regression",
    "linear_regression",
    "decision_tree",
    "k_nearest_neighbours",
    "random_forest",
    "hist_gradient_boosting",
    "neural_network",
)


class FitWork(msgspec.Struct, frozen=True):
    """The work of one fit, including the predictions for held-out rows.

    One unit is the work of a decision tree on one row, some 8 µs. `fixed` does not depend on the
    number of rows.
    """

    fixed: int
    per_row: float


# `python -m benchmarks.evidence search_work` measures the work (see decision 30). Boosting spends
# 0.2 s on building 100 trees, however few rows there are. A class path has unknown work, so it
# counts as much as a forest.
_LINEAR: Final = FitWork(1_000, 0.2)
_TREE: Final = FitWork(0, 1.0)
_NEIGHBOURS: Final = FitWork(0, 4.0)
_BOOSTING: Final = FitWork(25_000, 1.5)
_NETWORK: Final = FitWork(2_000, 20.0)
_FOREST: Final = FitWork(15_000, 30.0)


class Candidate(msgspec.Struct, frozen=True):
    """One kind of model. `grid[0]` holds its default parameters.

    The model is fitted on at most the newest `max_rows` rows. `scoring` is the library to score
    with. If `scoring` is None, `convert` compares ONNX with scikit-learn and chooses one.
    """

    name: str
    grid: tuple[Parameters, ...]
    build: Callable[[Parameters, int], Any]
    work: FitWork
    max_rows: int | None = None
    scoring: Literal["sklearn"] | None = None

    def used(self, rows: int) -> int:
        """Return how many of `rows` rows a fit uses."""
        return rows if self.max_rows is None else min(rows, self.max_rows)


def candidate(name: str, task: Task) -> Candidate:
    """Return the candidate for a task, given the candidate's name or class path.

    Raises TrainingError if the candidate is unknown or does not support the task.
    """
    classifies = task == "classification"
    match name:
        case "logistic_regression" if classifies:
            return Candidate(name, _grid({"C": 1.0}, {"C": 0.05}, {"C": 20.0}), _logistic, _LINEAR)
        case "linear_regression" if not classifies:
            # Use ridge regression: ordinary least squares is unstable with one-hot columns.
            return Candidate(name, _grid({"alpha": 1.0}, {"alpha": 100.0}), _linear, _LINEAR)
        case "decision_tree":
            return Candidate(
                name,
                tuple(
                    {"max_depth": depth, "min_samples_leaf": leaf}
                    for depth in (8, 4, 16)
                    for leaf in (10, 50)
                ),
                lambda parameters, seed: _tree(classifies, parameters, seed),
                _TREE,
            )
        case "k_nearest_neighbours":
            # Scoring time grows with the number of training rows, to 0.2 ms per record at 20,000.
            # ONNX is about as fast as scikit-learn up to 300 rows, slower with more rows, and 20
            # times slower at 10,000. Always use scikit-learn: a choice based on measured times
            # could differ between identical runs.
            return Candidate(
                name,
                _grid({"n_neighbors": 15}, {"n_neighbors": 5}, {"n_neighbors": 45}),
                lambda parameters, _: _neighbours(classifies, parameters),
                _NEIGHBOURS,
                max_rows=20_000,
                scoring="sklearn",
            )
        case "random_forest" | "hist_gradient_boosting" | "neural_network":
            return _complex(name, classifies)
        case "logistic_regression" | "linear_regression":
            raise TrainingError(f"candidate {name!r} does not support {task}", hint=_HINT)
        case _:
            return _by_path(name, task)


def _complex(name: str, classifies: bool) -> Candidate:
    """Return a candidate with hundreds of parameters or more."""
    match name:
        case "random_forest":
            return Candidate(
                name,
                _grid(
                    {"max_depth": None, "min_samples_leaf": 5},
                    {"max_depth": 12, "min_samples_leaf": 2},
                ),
                lambda parameters, seed: _forest(classifies, parameters, seed),
                _FOREST,
            )
        case "hist_gradient_boosting":
            return Candidate(
                name,
                _grid(
                    {"learning_rate": 0.1, "max_leaf_nodes": 31},
                    {"learning_rate": 0.05, "max_leaf_nodes": 15},
                ),
                lambda parameters, seed: _boosting(classifies, parameters, seed),
                _BOOSTING,
                scoring="sklearn",  # its conversion to ONNX fails
            )
        case _:
            return Candidate(
                name,
                _grid({"alpha": 1e-4}, {"alpha": 1e-2}),
                lambda parameters, seed: _network(classifies, parameters, seed),
                _NETWORK,
                # The target of a regression is scaled, which the conversion to ONNX cannot express.
                scoring=None if classifies else "sklearn",
            )


_HINT = f"[models.candidates] accepts {', '.join(NAMES)} or a class path"


def _grid(*points: Parameters) -> tuple[Parameters, ...]:
    return points


def _scaled(estimator: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator)


def _logistic(parameters: Parameters, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _scaled(LogisticRegression(max_iter=500, random_state=seed, **parameters))


def _linear(parameters: Parameters, _seed: int) -> Any:
    from sklearn.linear_model import Ridge

    return _scaled(Ridge(solver="cholesky", **parameters))


def _neighbours(classifies: bool, parameters: Parameters) -> Any:
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    kind = KNeighborsClassifier if classifies else KNeighborsRegressor
    return _scaled(kind(n_jobs=1, **parameters))


def _tree(classifies: bool, parameters: Parameters, seed: int) -> Any:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if classifies else DecisionTreeRegressor
    return kind(random_state=seed, **parameters)


def _forest(classifies: bool, parameters: Parameters, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if classifies else RandomForestRegressor
    # For regression, each split considers a third of the features, as in Breiman's implementation.
    # scikit-learn's default, all features, takes three times as long.
    features: Any = "sqrt" if classifies else 1 / 3
    fixed: Any = {"n_estimators": 100, "max_features": features, "n_jobs": 1}
    return kind(random_state=seed, **fixed, **parameters)


def _boosting(classifies: bool, parameters: Parameters, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if classifies else HistGradientBoostingRegressor
    return kind(early_stopping=False, random_state=seed, **parameters)


def _network(classifies: bool, parameters: Parameters, seed: int) -> Any:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    # With more iterations, a network needs more work without predicting better in most cases.
    fixed: Any = {"hidden_layer_sizes": (64,), "max_iter": 50, "random_state": seed}
    if classifies:
        return _scaled(MLPClassifier(**fixed, **parameters))
    # Weights start at the size of standardised targets, and learn slowly for any other scale.
    regressor = _scaled(MLPRegressor(**fixed, **parameters))
    return TransformedTargetRegressor(regressor, transformer=StandardScaler())


def _by_path(path: str, task: Task) -> Candidate:
    """Return a candidate for a scikit-learn-compatible class, with its default parameters."""
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise TrainingError(f"unknown candidate {path!r}", hint=_HINT)
    try:
        kind: Any = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TrainingError(f"candidate {path!r}: {error}", hint=_HINT) from error
    missing = [name for name in ("fit", "predict", "get_params") if not hasattr(kind, name)]
    if not inspect.isclass(kind) or missing:
        raise TrainingError(
            f"candidate {path!r} is not a scikit-learn estimator: it "
            + (f"has no {', '.join(missing)}" if missing else "is not a class"),
            hint=_HINT,
        )
    try:
        estimator: Any = kind()
        known = estimator.get_params()
    except TypeError as error:
        raise TrainingError(
            f"candidate {path!r} cannot be created without arguments: {error}", hint=_HINT
        ) from error
    fixed: dict[str, Any] = {"n_jobs": 1} if "n_jobs" in known else {}
    _refuse_other_task(estimator, path, task)

    def build(parameters: Parameters, seed: int) -> Any:
        drawn = {"random_state": seed} if "random_state" in known else {}
        return kind(**fixed, **drawn, **parameters)

    return Candidate(path, ({},), build, _FOREST)


def _refuse_other_task(estimator: Any, path: str, task: Task) -> None:
    from sklearn.base import is_classifier, is_regressor

    if not (is_classifier if task == "classification" else is_regressor)(estimator):
        raise TrainingError(f"candidate {path!r} does not support {task}", hint=_HINT)
