"""Convert a fitted model to ONNX in memory, and choose ONNX or scikit-learn for scoring.

ONNX is chosen if its results equal scikit-learn's and it is not clearly slower. Input: a fitted
estimator, and rows on which to compare both libraries. Output: the chosen library, and the ONNX
model if there is one. Measured times are not stored in packages, which must be reproducible.
"""

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.errors import DriftlineError
from driftline.models.package import Scoring
from driftline.models.score import ONNX_INPUT, OnnxScorer, Scorer, Scores, SklearnScorer
from trainer.search import Fitted, one_thread

log = logging.getLogger(__name__)

# ONNX is chosen unless it takes more than this many times as long as scikit-learn. The margin keeps
# measurement noise from changing the choice: for models that convert well, ONNX is 5 to 500 times
# faster on one row.
CLEARLY_SLOWER: Final = 2.0
BATCH_SIZES: Final = (1, 256)
# Largest accepted difference between two scorers' probabilities. For regression, the largest
# accepted difference between predictions is this number times the sum of the prediction's absolute
# value and the standard deviation of all predictions.
MAX_DIFFERENCE: Final = 1e-4
_COMPARED_ROWS: Final = 1000
_REPEATS: Final = 5

Timer = Callable[[], float]


class Conversion(msgspec.Struct, frozen=True):
    """The library to score with. `onnx` is None if the conversion failed or gave wrong scores."""

    onnx: bytes | None
    scoring: Scoring
    reason: str


def convert(
    fitted: Fitted, stream: Stream, matrix: NDArray[np.float32], timer: Timer = time.perf_counter
) -> Conversion:
    """Convert the model to ONNX, and choose ONNX or scikit-learn by comparing them on `matrix`.

    `matrix` is float32 (n, width).
    """
    classes = fitted.schema.classes
    sklearn = SklearnScorer(fitted.estimator, stream.task, classes)
    onnx = to_onnx(fitted, matrix.shape[1])
    if isinstance(onnx, str):
        return Conversion(None, "sklearn", onnx)
    try:
        scorer = OnnxScorer(onnx, stream.task, classes)
        sample = matrix[:_COMPARED_ROWS]
        if not equal(sklearn.score(sample), scorer.score(sample)):
            return Conversion(None, "sklearn", "its ONNX form gives different results")
    except (DriftlineError, RuntimeError, ValueError) as error:
        log.info("the converted ONNX model fails, serving with scikit-learn: %s", error)
        return Conversion(None, "sklearn", f"its ONNX conversion fails: {type(error).__name__}")
    if fitted.candidate.scoring is not None:
        return Conversion(onnx, fitted.candidate.scoring, "ONNX is slower for this kind of model")
    with one_thread():
        slower = any(
            _seconds(scorer, matrix, rows, timer)
            > CLEARLY_SLOWER * _seconds(sklearn, matrix, rows, timer)
            for rows in BATCH_SIZES
        )
    if slower:
        return Conversion(onnx, "sklearn", "ONNX was measured and is clearly slower")
    return Conversion(onnx, "onnx", "equal to scikit-learn and not slower")


def to_onnx(fitted: Fitted, width: int) -> bytes | str:
    """Return the ONNX model's bytes, or the reason why the conversion failed. The model's
    input is float32 (n, width)."""
    try:
        from skl2onnx import to_onnx as skl_to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError:
        return "skl2onnx is not installed"
    classifies = bool(fitted.schema.classes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = skl_to_onnx(
                fitted.estimator,
                initial_types=[(ONNX_INPUT, FloatTensorType([None, width]))],
                options={"zipmap": False} if classifies else None,
                name="driftline",  # the default name is random and would change the digest
            )
    except Exception as error:  # noqa: BLE001 - a converter may raise anything
        log.info("%s cannot be converted to ONNX: %s", fitted.candidate.name, error)
        return f"cannot be converted to ONNX: {type(error).__name__}"
    # The converter keeps operator sets in a hash set, whose order differs between processes.
    operator_sets = sorted(model.opset_import, key=lambda used: used.domain)
    del model.opset_import[:]
    model.opset_import.extend(operator_sets)
    _name_in_order(model.graph)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _name_in_order(graph: Any) -> None:
    """Rename intermediate values to numbers in graph order.

    The converter continues its numbering across all conversions in a process, so without this step
    the same model would get a different digest each time.
    """
    own = [value.name for value in (*graph.input, *graph.output)]
    names: dict[str, str] = {"": "", **{name: name for name in own}}

    def named(name: str) -> str:
        return names.setdefault(name, f"n{len(names)}")

    def walk(part: Any) -> None:
        for item in (*part.input, *part.initializer, *part.value_info):
            item.name = named(item.name)
        for node in part.node:
            node.name = ""
            node.input[:] = [named(name) for name in node.input]
            for attribute in node.attribute:
                if attribute.HasField("g"):  # loop body; may use values of the outer graph
                    attribute.g.name = "body"
                    walk(attribute.g)
                elif attribute.HasField("t"):
                    attribute.t.name = ""
            node.output[:] = [named(name) for name in node.output]
        for item in part.output:
            item.name = named(item.name)

    walk(graph)


def equal(one: Scores, other: Scores) -> bool:
    """Return whether two scorers' results agree, allowing for rounding errors and near ties."""
    if one.probabilities is not None and other.probabilities is not None:
        if one.probabilities.shape != other.probabilities.shape:
            return False
        if np.abs(one.probabilities - other.probabilities).max(initial=0.0) > MAX_DIFFERENCE:
            return False
        ordered = np.sort(one.probabilities, axis=1)
        tied = ordered[:, -1] - ordered[:, -2] <= 2 * MAX_DIFFERENCE
        same = np.array(
            [a == b for a, b in zip(one.predictions, other.predictions, strict=True)], dtype=bool
        )
        return bool((same | tied).all())
    if isinstance(one.predictions, np.ndarray) and isinstance(other.predictions, np.ndarray):
        spread = max(float(np.std(one.predictions)), 1e-9, MAX_DIFFERENCE)
        difference = np.abs(one.predictions - other.predictions)
        return bool((difference <= MAX_DIFFERENCE * (spread + np.abs(one.predictions))).all())
    return one.probabilities is other.probabilities and one.predictions == other.predictions


def _seconds(scorer: Scorer, matrix: NDArray[np.float32], rows: int, timer: Timer) -> float:
    """Time several calls on `rows` rows. Return the shortest time, because noise only adds time."""
    batch: Any = np.resize(matrix, (rows, matrix.shape[1]))
    scorer.score(batch)
    times = []
    for _ in range(_REPEATS):
        start = timer()
        scorer.score(batch)
        times.append(timer() - start)
    return min(times)
