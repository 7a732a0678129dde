"""Score column arrays with a loaded model, using ONNX Runtime or scikit-learn.

Input: `Columns`. Output: `Scores`, that is, predictions and probabilities. Each library is imported
only when a model needs it: scoring with ONNX Runtime imports neither scikit-learn nor pandas.
"""

import io
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.config.stream_sections import Task
from driftline.errors import MissingExtra, PackageCheckFailed, PackageError
from driftline.learning.encoding import FeatureSchema, MatrixEncoder
from driftline.models.package import Manifest, Scoring
from driftline.wire.columns import Columns
from driftline.wire.feature_records import RecordCodec

# The largest number of columns in a feature matrix: 1,000 categories with 100 levels each.
MAX_WIDTH: Final = 100_000
# The number of decimals to which probabilities are rounded. With float32 models, further decimals
# depend on the batch size.
SCORE_DIGITS: Final = 6
# The largest accepted difference between a score and the score stored in the package. Library
# versions may round differently.
SCORE_TOLERANCE: Final = 1e-3
ONNX_INPUT: Final = "features"


# Model families that cannot be converted to ONNX (neural networks only for regression), or that are
# much faster with scikit-learn than with ONNX Runtime.
SCORED_BY_SKLEARN: Final = frozenset(
    {"k_nearest_neighbours", "hist_gradient_boosting", "neural_network"}
)


def import_sklearn() -> None:
    """Import the libraries that `SCORED_BY_SKLEARN` models need.

    Call this before such a model is needed, because the import blocks all threads for a few tenths
    of a second.
    """
    import joblib  # noqa: F401
    import sklearn.ensemble
    import sklearn.neighbors
    import sklearn.neural_network  # noqa: F401


class Scores(msgspec.Struct, frozen=True):
    """The result of scoring n records.

    `predictions` are class names, or float64 (n,) for regression. `probabilities` is float64 (n, k)
    in the order of the classes, rounded to six decimals, or None for regression and for models that
    return no probabilities.
    """

    predictions: list[str] | NDArray[np.float64]
    probabilities: NDArray[np.float64] | None

    def not_finite(self) -> list[int]:
        """Return the indices of the records whose prediction or probabilities are not finite.

        >>> Scores(np.array([1.0, np.inf, np.nan]), None).not_finite()
        [1, 2]
        """
        numbers = self.predictions if self.probabilities is None else self.probabilities
        if not isinstance(numbers, np.ndarray) or (finite := np.isfinite(numbers)).all():
            return []
        found: list[int] = np.flatnonzero(~finite.reshape(len(numbers), -1).all(axis=1)).tolist()
        return found


class Scorer(Protocol):
    """A model that scores an encoded matrix instead of columns."""

    def score(self, matrix: NDArray[np.float32]) -> Scores:
        """Score a float32 matrix (n, width), n ≥ 1."""


class OnnxScorer:
    """Score with ONNX Runtime.

    Raises MissingExtra if ONNX Runtime is not installed, and PackageCheckFailed if the bytes are
    not a model.
    """

    def __init__(self, model: bytes, task: Task, classes: Sequence[str]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "onnx") from error
        options = onnxruntime.SessionOptions()
        # Batches are small, so a second thread would cost more time than it saves.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise PackageCheckFailed(f"the ONNX model cannot be loaded: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._task = task
        self._classes = classes

    def score(self, matrix: NDArray[np.float32]) -> Scores:
        if self._task == "regression":
            (values,) = self._session.run(self._outputs[:1], {ONNX_INPUT: matrix})
            return Scores(np.asarray(values, dtype=np.float64).reshape(-1), None)
        (raw,) = self._session.run(self._outputs[1:2], {ONNX_INPUT: matrix})
        return classified(np.asarray(raw), self._classes)


class SklearnScorer:
    """Score with a scikit-learn estimator whose labels are indices into `classes`."""

    def __init__(self, estimator: Any, task: Task, classes: Sequence[str]) -> None:
        self._estimator = estimator
        self._task = task
        self._classes = classes

    @classmethod
    def load(cls, joblib_bytes: bytes, task: Task, classes: Sequence[str]) -> "SklearnScorer":
        """Load an estimator. The bytes must be verified, because unpickling runs code.

        Raises PackageCheckFailed.
        """
        import joblib

        try:
            estimator = joblib.load(io.BytesIO(joblib_bytes))
        except Exception as error:  # unpickling may raise anything
            raise PackageCheckFailed(
                f"the joblib model cannot be loaded: {error}",
                hint="compare the installed library versions with the manifest's versions",
            ) from error
        return cls(estimator, task, classes)

    def score(self, matrix: NDArray[np.float32]) -> Scores:
        # Extreme values may make scores overflow. The caller reports scores that are not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                return self._score(matrix)
            except ValueError:
                # If scaling makes even one value infinite, scikit-learn rejects the whole matrix.
                infinite = self._scaled_to_infinity(matrix)
                if not infinite.any():
                    raise
                return self._score_others(matrix, infinite)

    def _score(self, matrix: NDArray[np.float32]) -> Scores:
        if self._task == "regression":
            return Scores(np.asarray(self._estimator.predict(matrix), dtype=np.float64), None)
        if hasattr(self._estimator, "predict_proba"):
            return classified(np.asarray(self._estimator.predict_proba(matrix)), self._classes)
        places = np.asarray(self._estimator.predict(matrix), dtype=np.intp)
        return Scores([self._classes[place] for place in places], None)

    def _scaled_to_infinity(self, matrix: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return a mask (n,): true for rows that the pipeline's scaling makes non-finite."""
        scaled: NDArray[Any] = matrix
        for _, step in getattr(self._estimator, "steps", [])[:-1]:
            scaled = step.transform(scaled)
        found: NDArray[np.bool_] = ~np.isfinite(scaled).all(axis=1)
        return found

    def _score_others(self, matrix: NDArray[np.float32], infinite: NDArray[np.bool_]) -> Scores:
        """Score all rows except the `infinite` rows, whose scores become NaN."""
        filled = matrix.copy()
        filled[infinite] = 0.0
        scores = self._score(filled)
        if scores.probabilities is not None:
            scores.probabilities[infinite] = np.nan
        elif isinstance(scores.predictions, np.ndarray):
            scores.predictions[infinite] = np.nan
        return scores


def classified(probabilities: NDArray[Any], classes: Sequence[str]) -> Scores:
    """Return each row's most probable class, and the rounded probabilities.

    `probabilities` is (n, k), in the order of `classes`. If several classes are equally probable,
    the first one is returned.
    """
    rounded = np.asarray(probabilities, dtype=np.float64).round(SCORE_DIGITS)
    return Scores([classes[place] for place in rounded.argmax(axis=1)], rounded)


class Model:
    """A loaded model, which turns columns into scores.

    `load.ModelLoader` creates a model from a verified package. Call `check` before the model
    serves.
    """

    def __init__(self, digest: str, manifest: Manifest, scorer: Scorer, stream: Stream) -> None:
        self.digest = digest
        self.manifest = manifest
        self._scorer = scorer
        self._stream = stream
        self._encoder = MatrixEncoder(manifest.schema)
        if self._encoder.width > MAX_WIDTH:
            raise PackageCheckFailed(f"{digest}: {self._encoder.width:,} columns are too many")

    @property
    def schema(self) -> FeatureSchema:
        """Return the model's features and classes."""
        return self.manifest.schema

    @property
    def scoring(self) -> Scoring:
        """Return the scoring library that the manifest specifies."""
        return self.manifest.scoring

    def predict(self, columns: Columns) -> Scores:
        """Score n decoded records, n ≥ 0. Raises PackageCheckFailed if a feature has no column."""
        if not len(columns):
            empty = np.zeros((0, len(self.schema.classes)))
            if self.manifest.task == "classification":
                return Scores([], empty)
            return Scores(np.zeros(0), None)
        try:
            matrix = self._encoder.encode(columns)
        except KeyError as error:
            raise PackageCheckFailed(
                f"{self.digest}: feature {error} is not in stream {self._stream.name!r}",
                hint="the stream file has changed since this model was trained: train a new one",
            ) from error
        return self._scorer.score(matrix)

    def unseen(self, columns: Columns) -> dict[str, NDArray[np.bool_]]:
        """Return a mask (n,) for each category column: true for values not in the training data."""
        return self._encoder.unseen(columns)

    def warm_up(self) -> None:
        """Score one row and a batch of zeros, so that the first real records are not slow.

        Raises PackageCheckFailed if the model cannot score.
        """
        for rows in (1, 256):
            self._score_zeros(rows)

    def check(self) -> None:
        """Score the package's check records and compare the results with the stored results.

        Raises PackageCheckFailed if the stream file no longer matches the model, or if a result
        differs from the stored result.
        """
        if self.manifest.derived != self._stream.derived:
            raise PackageCheckFailed(
                f"{self.digest}: derived features differ from those of stream "
                f"{self._stream.name!r}",
                hint="the stream file has changed since this model was trained: train a new one",
            )
        expected = self.manifest.check
        batch = RecordCodec(self._stream).decode([record.record.encode() for record in expected])
        if batch.rejected:
            raise PackageCheckFailed(
                f"{self.digest}: a check record is rejected: {batch.rejected[0].reason}",
                hint="the stream file has changed since this model was trained: train a new one",
            )
        try:
            scores = self.predict(batch.columns)
        except PackageError:
            raise
        except Exception as error:  # an incompatible library version may raise anything
            raise PackageCheckFailed(f"{self.digest}: it cannot score: {error}") from error
        for place, record in enumerate(expected):
            prediction = scores.predictions[place]
            probabilities = None if scores.probabilities is None else scores.probabilities[place]
            if not _agrees(record.prediction, prediction, record.scores, probabilities):
                raise PackageCheckFailed(
                    f"{self.digest}: it predicts {prediction!r} for a check record, but after its "
                    f"training it predicted {record.prediction!r}",
                    hint="compare the installed library versions with `driftline models show`",
                )

    def _score_zeros(self, rows: int) -> None:
        zeros = np.zeros((rows, self._encoder.width), dtype=np.float32)
        try:
            self._scorer.score(zeros)
        except Exception as error:  # an incompatible library version may raise anything
            raise PackageCheckFailed(f"{self.digest}: it cannot score: {error}") from error


def _agrees(
    expected: str | float,
    prediction: str | float,
    scores: Sequence[float] | None,
    probabilities: NDArray[np.float64] | None,
) -> bool:
    if scores is not None and probabilities is not None:
        # Compare probabilities instead of classes, because rounding errors decide which of two
        # equally probable classes is predicted.
        return bool(np.allclose(scores, probabilities, rtol=0, atol=SCORE_TOLERANCE))
    if isinstance(expected, str):
        return expected == prediction
    return bool(np.isclose(expected, float(prediction), rtol=SCORE_TOLERANCE, atol=SCORE_TOLERANCE))
