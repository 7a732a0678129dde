"""The references that windows are compared with: each model's own, out of its verified package."""

import logging
from collections import OrderedDict
from typing import Final, Protocol

from driftline.errors import PackageError
from driftline.evaluation import evaluate
from driftline.models.reference import Reference
from driftline.stream import Stream
from monitor.calibration import Calibration
from monitor.dependence import inflation
from monitor.estimates import MIN_HELD, Estimator, MetricEstimator
from monitor.loss_model import LossModel
from monitor.profile import Profile

log = logging.getLogger(__name__)

# Models in use at one time: champion, challenger, and those that their windows still hold.
KEPT: Final = 4


class Packages(Protocol):
    """Where references come from; `driftline.models.load.Models` in a service."""

    def reference(self, digest: str) -> Reference:
        """The reference of a model whose package was verified. Raises PackageError."""


class References:
    """The newest few references, by digest."""

    def __init__(self, packages: Packages) -> None:
        self._packages = packages
        self._known: OrderedDict[str, Reference | None] = OrderedDict()
        self._inflations: OrderedDict[str, float] = OrderedDict()

    def error_inflation(self, digest: str) -> float:
        """By how much the mean of held-out errors varies more than that of independent ones."""
        if digest not in self._inflations:
            reference = self.of(digest)
            self._inflations[digest] = 1.0 if reference is None else inflation(reference.errors)
            if len(self._inflations) > KEPT:
                self._inflations.popitem(last=False)
        return self._inflations[digest]

    def of(self, digest: str) -> Reference | None:
        """None if the package is not there or must not be used: its records are not tested."""
        if digest not in self._known:
            try:
                self._known[digest] = self._packages.reference(digest)
            except PackageError as error:
                log.warning("records of model %s are not tested: %s", digest, error)
                self._known[digest] = None
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return self._known[digest]


class Profiles:
    """The references made ready for testing, by digest."""

    def __init__(self, stream: Stream, references: References) -> None:
        self._stream = stream
        self._references = references
        self._known: OrderedDict[str, Profile | None] = OrderedDict()
        self._estimators: OrderedDict[str, Estimator | None] = OrderedDict()

    def estimator(self, digest: str) -> Estimator | None:
        """None where there is no reference, or too little in it."""
        if digest not in self._estimators:
            reference = self._references.of(digest)
            made = None if reference is None else estimator_for(self._stream, reference)
            self._estimators[digest] = made
            if len(self._estimators) > KEPT:
                self._estimators.popitem(last=False)
        self._estimators.move_to_end(digest)
        return self._estimators[digest]

    def of(self, digest: str) -> Profile | None:
        """None where there is no reference."""
        if digest not in self._known:
            reference = self._references.of(digest)
            self._known[digest] = None if reference is None else Profile(self._stream, reference)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return self._known[digest]


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
