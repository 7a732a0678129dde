"""Refit the winning model and package it as bytes (step 9 of docs/model-life.md).

Input: the search's winner and the cleaned rows. Output: a manifest and the package's bytes. The
same rows, seed and libraries always produce the same bytes.
"""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import default_measure
from driftline.config.stream import Stream
from driftline.errors import TrainingError
from driftline.learning.encoding import encode_matrix
from driftline.learning.metrics import Answers, losses
from driftline.models.package import CheckRecord, Manifest, write_package
from driftline.models.package_reference import MAX_REFERENCE_ROWS, Reference
from driftline.models.score import OnnxScorer, Scorer, Scores, SklearnScorer
from driftline.wire.columns import Columns
from driftline.wire.events import Removed, Trial
from driftline.wire.feature_records import RecordCodec
from trainer.convert import Conversion, convert
from trainer.dump import dump
from trainer.rows import TrainingRows, objects
from trainer.search import NOT_FINITE, Fitted, Found, fit
from trainer.split import Places

log = logging.getLogger(__name__)

T = TypeVar("T")

_LIBRARIES = ("driftline", "numpy", "scikit-learn", "joblib", "skl2onnx", "onnx", "onnxruntime")


class Origin(msgspec.Struct, frozen=True):
    """A model's origin: the champion at training time, the request's id, and the training time.

    `training_records` is the digest of the training records, if they are stored.
    """

    parent: str | None
    cause: str | None
    trained_at: str
    training_records: str | None = None


class CandidateFailed(TrainingError):
    """Raised if the search's winner cannot be refitted or packaged."""

    def __init__(self, candidate: str, reason: str) -> None:
        super().__init__(f"{candidate}: {reason}")
        self.candidate = candidate
        self.reason = reason


def without_failing(attempt: Callable[[Mapping[str, str]], T]) -> T:
    """Return the result of `attempt`. After each CandidateFailed, retry without that candidate.

    `attempt` receives the failed candidates, with the reason for each failure, and passes them to
    `search`, which raises TrainingError when no candidate is left.
    """
    failed: dict[str, str] = {}
    while True:
        try:
            return attempt(failed)
        except CandidateFailed as error:
            log.warning(
                "could not package the best candidate, trying the next one: %s", error.message
            )
            failed[error.candidate] = error.reason


@contextmanager
def _failures_of(candidate: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # libraries may raise anything
        raise CandidateFailed(candidate, str(error)) from error


def assemble(
    stream: Stream,
    rows: TrainingRows,
    found: Found,
    held: Places,
    *,
    value: float,
    origin: Origin,
    removed: tuple[Removed, ...],
    trials: tuple[Trial, ...],
) -> tuple[Manifest, bytes]:
    """Refit the winner on its training range plus the held-out rows, and package it.

    `held` contains the held-out rows' indices in `rows`. Raises CandidateFailed.
    """
    winner = found.fitted
    with _failures_of(winner.candidate.name):
        places = np.union1d(found.range.places, held)
        # `fit` uses only these rows, so the manifest and the reference must describe them.
        everything = rows.take(places[-winner.candidate.used(len(places)) :])
        fitted = fit(stream, winner.candidate, winner.parameters, everything)
        sample = encode_matrix(fitted.schema, rows.take(held).columns)
        conversion = convert(fitted, stream, sample)
        scorer = _scorer(fitted, stream, conversion)
        if scorer.score(sample).not_finite():
            raise TrainingError(NOT_FINITE)
        manifest = Manifest(
            stream=stream.name,
            task=stream.task,
            target=stream.target,
            schema=fitted.schema,
            derived=stream.derived,
            candidate=winner.candidate.name,
            parameters=winner.parameters,
            scoring=conversion.scoring,
            scoring_reason=conversion.reason,
            libraries=_libraries(),
            metric=stream.judged_by.name,
            value=value,
            rows=len(everything),
            held_out=len(held),
            first_position=int(everything.positions[0]),
            last_position=int(everything.positions[-1]),
            range=found.range.name,
            parent=origin.parent,
            cause=origin.cause,
            trained_at=origin.trained_at,
            training_records=origin.training_records,
            removed=removed,
            trials=trials,
            check=_check_records(stream, fitted, scorer, rows.newest),
        )
        reference = _reference(stream, fitted, scorer, everything, rows.take(held), found)
        return manifest, write_package(
            manifest,
            joblib=dump(fitted.estimator),
            onnx=conversion.onnx,
            reference=reference,
        )


def _scorer(fitted: Fitted, stream: Stream, conversion: Conversion) -> Scorer:
    """Return the scorer that inference will use. The package's check records store this scorer's
    results."""
    if conversion.scoring == "onnx" and conversion.onnx is not None:
        return OnnxScorer(conversion.onnx, stream.task, fitted.schema.classes)
    return SklearnScorer(fitted.estimator, stream.task, fitted.schema.classes)


def _check_records(
    stream: Stream, fitted: Fitted, scorer: Scorer, records: tuple[bytes, ...]
) -> tuple[CheckRecord, ...]:
    batch = RecordCodec(stream).decode(records)
    if not len(batch):
        return ()
    scores = scorer.score(encode_matrix(fitted.schema, batch.columns))
    rows = None if scores.probabilities is None else scores.probabilities.tolist()
    not_finite = set(scores.not_finite())  # JSON cannot represent NaN or infinity
    return tuple(
        CheckRecord(
            record=records[index].decode(),
            prediction=_plain(scores.predictions[place]),
            scores=None if rows is None else tuple(rows[place]),
        )
        for place, index in enumerate(batch.kept)
        if place not in not_finite
    )


def _reference(
    stream: Stream,
    fitted: Fitted,
    scorer: Scorer,
    everything: TrainingRows,
    held: TrainingRows,
    found: Found,
) -> Reference:
    held_scores = found.scores  # from the model fitted without the held-out rows
    newest = everything.take(
        np.arange(max(0, len(everything) - MAX_REFERENCE_ROWS), len(everything))
    )
    scores = scorer.score(encode_matrix(fitted.schema, newest.columns))
    watched = {name for name, feature in stream.inputs.items() if feature.watch}
    watched |= set(stream.derived)
    numbers = everything.columns.numbers
    newest_held = held.take(np.arange(max(0, len(held) - MAX_REFERENCE_ROWS), len(held)))
    return Reference(
        columns=_only(newest.columns, watched),
        positions=newest.positions,
        predictions=_array(scores),
        held_labels=held.labels,
        held_predictions=_array(held_scores),
        held_scores=held_scores.probabilities,
        errors=losses(default_measure(stream.task), held.labels, Answers(held_scores.predictions)),
        levels={
            name: tuple(sorted({value for value in values if value is not None}))
            for name, values in everything.columns.categories.items()
        },
        ranges={
            name: (float(np.nanmin(values)), float(np.nanmax(values)))
            for name, values in numbers.items()
            if not np.isnan(values).all()
        },
        classes=found.fitted.schema.classes,
        held_columns=_only(newest_held.columns, watched),
    )


def _only(columns: Columns, names: set[str]) -> Columns:
    return Columns(
        {name: values for name, values in columns.numbers.items() if name in names},
        {name: values for name, values in columns.categories.items() if name in names},
        len(columns),
    )


def _array(scores: Scores) -> NDArray[Any]:
    predictions = scores.predictions
    return predictions if isinstance(predictions, np.ndarray) else objects(predictions)


def _plain(value: object) -> str | float:
    return value if isinstance(value, str) else float(value)  # type: ignore[arg-type]  # a number


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # the library belongs to an extra that is not installed
    return found
