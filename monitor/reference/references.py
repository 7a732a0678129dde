"""Load models' references from verified model packages, and cache them for window comparisons."""

import logging
from functools import lru_cache
from math import isfinite
from typing import Any, Final, Protocol

import numpy as np

from driftline.config.measure import Measure
from driftline.config.stream import Stream
from driftline.errors import PackageError, StoreUnavailable
from driftline.learning.metrics import Answers, answers_of, evaluate, losses, scores_of
from driftline.learning.ranking import Ranking
from driftline.models.package_reference import Reference
from monitor.error_scale import error_scale, floor_of
from monitor.estimates.calibration import Calibration
from monitor.estimates.estimator import MIN_HELD, Approach, Estimator, MetricEstimator
from monitor.estimates.loss_model import LossModel
from monitor.estimates.support import Support
from monitor.metric_sums import HeldErrors
from monitor.optional import optional
from monitor.reference.profile import ReferenceProfile
from monitor.score_ranks import ranking_variance
from monitor.variance_inflation import variance_inflation

log = logging.getLogger(__name__)

# Number of models to cache: enough for the champion, the challenger, and older models with records
# in open windows.
KEPT: Final = 4


class Packages(Protocol):
    """The source of references; in a service, this is a `driftline.models.load.ModelLoader`."""

    def reference(self, digest: str) -> Reference:
        """Return the reference from a model's verified package. Raises PackageError."""


class References:
    """The references of the most recently used models, by digest."""

    def __init__(self, packages: Packages, measure: Measure) -> None:
        self._packages = packages
        self._measure = measure
        self._reference = lru_cache(KEPT)(self._load)
        self._held_errors = lru_cache(KEPT)(self._held_errors_of)
        self._variance_inflation = lru_cache(KEPT)(self._variance_inflation_of)
        self._error_scale = lru_cache(KEPT)(self._error_scale_of)

    def of(self, digest: str) -> Reference | None:
        """Return a model's reference, or None if its package is missing, damaged or rejected.
        Without a reference, the model's records are not tested. Raises StoreUnavailable if the
        model store cannot be read."""
        return self._reference(digest)

    def held_errors(self, digest: str) -> HeldErrors | None:
        """Return a model's held-out errors, the losses that the metric implies, or None if there
        are none."""
        return self._held_errors(digest)

    def error_inflation(self, digest: str) -> float:
        """Return the variance inflation of a model's mean held-out error."""
        return self._variance_inflation(digest)

    def error_scale(self, digest: str) -> float | None:
        """Return the scale of a model's held-out errors (see `monitor.error_scale`), or None if it
        is unknown."""
        return self._error_scale(digest)

    def _load(self, digest: str) -> Reference | None:
        consequence = f"records of model {digest} are not tested"
        try:
            return optional(lambda: self._packages.reference(digest), None, consequence)
        except StoreUnavailable:
            raise  # the caller retries, so that an outage does not change a window's results
        except PackageError as error:
            log.warning("%s: %s", consequence, error)
            return None

    def _held_errors_of(self, digest: str) -> HeldErrors | None:
        reference = self.of(digest)
        if reference is None:
            return None
        consequence = f"errors of model {digest} are not compared with its held-out errors"
        return optional(lambda: held_errors(self._measure, reference), None, consequence)

    def _variance_inflation_of(self, digest: str) -> float:
        held = self.held_errors(digest)
        if held is None:
            return 1.0
        consequence = f"errors of model {digest} are treated as independent"
        found = optional(lambda: variance_inflation(held.values), 1.0, consequence)
        return found if isfinite(found) else 1.0

    def _error_scale_of(self, digest: str) -> float | None:
        reference, held = self.of(digest), self.held_errors(digest)
        if reference is None or held is None:
            return None
        consequence = f"the scale of model {digest}'s errors is taken from the stream"
        return optional(
            lambda: error_scale(self._measure, held.values, reference.held_labels),
            None,
            consequence,
        )


class Profiles:
    """The reference profiles and estimators of the most recently used models, by digest."""

    def __init__(self, stream: Stream, references: References) -> None:
        self._stream = stream
        self._references = references
        self._profile = lru_cache(KEPT)(self._profile_of)
        self._estimator = lru_cache(KEPT)(self._estimator_of)

    def of(self, digest: str) -> ReferenceProfile | None:
        """Return a model's reference profile, or None if its reference is missing or unusable."""
        return self._profile(digest)

    def estimator(self, digest: str) -> Estimator | None:
        """Return a model's estimator, or None if its reference is missing, too small or
        unusable."""
        return self._estimator(digest)

    def _profile_of(self, digest: str) -> ReferenceProfile | None:
        reference = self._references.of(digest)
        if reference is None:
            return None
        consequence = f"records of model {digest} are not tested"
        return optional(lambda: ReferenceProfile(self._stream, reference), None, consequence)

    def _estimator_of(self, digest: str) -> Estimator | None:
        reference = self._references.of(digest)
        if reference is None:
            return None
        consequence = f"windows are published without an estimate for model {digest}"
        return optional(lambda: estimator_for(self._stream, reference), None, consequence)


def estimator_for(stream: Stream, reference: Reference) -> Estimator | None:
    """Return a model's estimator, or None if the reference lacks the necessary data. Equal
    references yield equal estimators. Only the newest 10,000 held-out records are used."""
    if len(reference.held_labels) < MIN_HELD:
        return None
    measure = stream.judged_by
    approach: Approach[Any, Any] | None = (
        LossModel.of(stream, reference)
        if stream.task == "regression"
        else Calibration.of(measure, reference)
    )
    if approach is None:
        return None
    before = evaluate(measure, reference.held_labels, held_answers(measure, reference))
    return MetricEstimator[Any, Any](
        measure,
        approach,
        before,
        support=Support(reference.columns),
        floor=_metric_floor(measure, reference),
    )


def held_errors(measure: Measure, reference: Reference) -> HeldErrors | None:
    """Return the losses of a model's held-out records that the metric implies, or None if there
    are none. Raises ValueError if the metric needs probabilities that the reference lacks."""
    if not measure.loss:
        # The package contains 0/1 errors or absolute errors.
        return HeldErrors.of(reference.errors) if len(reference.errors) else None
    answers = held_answers(measure, reference)
    values = losses(measure, reference.held_labels, answers)
    if not len(values):
        return None
    if not measure.is_ranking:
        return HeldErrors.of(values)
    positive = np.array([label == measure.positive for label in reference.held_labels])
    ranking = Ranking.of(scores_of(measure, answers), positive)
    return HeldErrors(values, ranking_variance("roc_auc", ranking))


def _metric_floor(measure: Measure, reference: Reference) -> float:
    """Return the smallest error to which an increase is related, in the unit of the metric. If a
    higher metric is better, the error is 1 minus the metric, whose scale is 1."""
    if measure.higher_is_better:
        return floor_of(1.0)
    held = held_errors(measure, reference)
    if held is None:
        return 0.0
    return floor_of(error_scale(measure, held.values, reference.held_labels))


def held_answers(measure: Measure, reference: Reference) -> Answers:
    """Return the model's answers for its held-out records. Raises ValueError if the metric needs
    probabilities that the reference lacks."""
    return answers_of(
        measure,
        reference.held_labels,
        reference.held_predictions,
        reference.held_scores,
        reference.classes,
    )
