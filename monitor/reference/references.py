"""The references that windows are compared with: each model's own, out of its verified package."""

import logging
from functools import lru_cache
from typing import Final, Protocol

from driftline.errors import PackageError, StoreUnavailable
from driftline.evaluation import evaluate
from driftline.models.reference import Reference
from driftline.stream import Stream
from monitor.estimates.calibration import Calibration
from monitor.estimates.estimator import MIN_HELD, Estimator, MetricEstimator
from monitor.estimates.loss_model import LossModel
from monitor.reference.dependence import inflation
from monitor.reference.profile import Profile

log = logging.getLogger(__name__)

# Models in use at one time: champion, challenger, and those that their windows still hold.
KEPT: Final = 4


class Packages(Protocol):
    """Where references come from; `driftline.models.load.Models` in a service."""

    def reference(self, digest: str) -> Reference:
        """The reference of a model whose package was verified. Raises PackageError."""


class References:
    """The references of the newest few models, by digest."""

    def __init__(self, packages: Packages) -> None:
        self._packages = packages
        self._reference = lru_cache(KEPT)(self._load)
        self._inflation = lru_cache(KEPT)(self._inflation_of)

    def of(self, digest: str) -> Reference | None:
        """None if the package is not there or must not be used: its records are not tested.

        Raises StoreUnavailable while the store cannot be read.
        """
        return self._reference(digest)

    def error_inflation(self, digest: str) -> float:
        """By how much the mean of held-out errors varies more than that of independent ones."""
        return self._inflation(digest)

    def _load(self, digest: str) -> Reference | None:
        try:
            return self._packages.reference(digest)
        except StoreUnavailable:
            raise  # the caller retries; a window's result must not depend on when it was tested
        except PackageError as error:
            log.warning("records of model %s are not tested: %s", digest, error)
            return None

    def _inflation_of(self, digest: str) -> float:
        reference = self.of(digest)
        return 1.0 if reference is None else inflation(reference.errors)


class Profiles:
    """The references made ready for testing, by digest."""

    def __init__(self, stream: Stream, references: References) -> None:
        self._stream = stream
        self._references = references
        self._profile = lru_cache(KEPT)(self._profile_of)
        self._estimator = lru_cache(KEPT)(self._estimator_of)

    def of(self, digest: str) -> Profile | None:
        """None where there is no reference."""
        return self._profile(digest)

    def estimator(self, digest: str) -> Estimator | None:
        """None where there is no reference, or too little in it."""
        return self._estimator(digest)

    def _profile_of(self, digest: str) -> Profile | None:
        reference = self._references.of(digest)
        return None if reference is None else Profile(self._stream, reference)

    def _estimator_of(self, digest: str) -> Estimator | None:
        reference = self._references.of(digest)
        return None if reference is None else estimator_for(self._stream, reference)


def estimator_for(stream: Stream, reference: Reference) -> Estimator | None:
    """The estimator for a model; None if its package keeps too little for one.

    The same reference gives the same estimator. At most the newest 10,000 held-out records count.
    """
    if len(reference.held_labels) < MIN_HELD:
        return None
    before = evaluate(
        stream.judged_by, stream.task, reference.held_labels, reference.held_predictions
    )
    if stream.task == "regression":
        losses = LossModel.of(stream, reference)
        return None if losses is None else MetricEstimator(stream.judged_by, losses, before)
    calibration = Calibration.of(stream.judged_by, reference)
    return None if calibration is None else MetricEstimator(stream.judged_by, calibration, before)
