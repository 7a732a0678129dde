"""Which model answers: the champion of the `models` topic, verified, warm and checked.

In: records of the `models` topic. Out: the model to score with. One that fails is refused and the
old one answers on. Loading runs beside the scoring: a swap is an assignment between two batches.
"""

import logging
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from driftline.broker.port import Message
from driftline.errors import PackageError
from driftline.events import ModelAnnounced
from driftline.models.catalog import Catalog
from driftline.models.load import Models
from driftline.models.score import SCORED_BY_SKLEARN, Model, import_sklearn
from driftline.stream import Stream

log = logging.getLogger(__name__)

# How long the loading thread may keep the interpreter to itself; with the default of 5 ms, each of
# the scoring thread's calls into the client could wait that long.
_SWITCH_INTERVAL_S = 0.0005


class Champion:
    """Follows the catalog. With `in_thread`, models are loaded while the present one answers."""

    def __init__(self, stream: Stream, models: Models, *, in_thread: bool) -> None:
        self._models = models
        self._catalog = Catalog()
        self._loader = ThreadPoolExecutor(1, "driftline-model") if in_thread else None
        if self._loader is not None and not SCORED_BY_SKLEARN.isdisjoint(stream.models.candidates):
            self._loader.submit(import_sklearn)
        self._loading: Future[Model] | None = None
        self._wanted: ModelAnnounced | None = None  # what is being loaded
        self._refused: dict[str, str] = {}  # digest → why
        self.model: Model | None = None

    @property
    def digest(self) -> str | None:
        """Of the model that answers; None while there is none."""
        return self.model.digest if self.model else None

    @property
    def refused(self) -> Mapping[str, str]:
        """Models that were not let in, and why."""
        return self._refused

    def apply(self, message: Message) -> None:
        """Take in a record of the `models` topic. Raises DataError if it is none."""
        self._catalog.apply(message)

    def swap(self) -> None:
        """Let the champion answer if it is good and loaded; else the present model stays.

        With none present (after a restart), the champion's ancestors are tried, newest first.
        """
        while True:
            if self._loading is None:
                self._wanted = self._next()
                if self._wanted is None:
                    return
                self._loading = self._load(self._wanted)
            if not self._loading.done():
                return
            self._take(self._loading)
            self._loading = None

    def close(self) -> None:
        """Do not wait for a model that is being loaded."""
        if self._loader is not None:
            self._loader.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> ModelAnnounced | None:
        """The model to load now."""
        digest = self._catalog.champion_digest
        while digest is not None and digest != self.digest:
            announced = self._catalog.announcements.get(digest)
            if announced is not None and digest not in self._refused:
                return announced
            if self.model is not None:
                return None
            digest = announced.parent if announced else None
        return None

    def _load(self, announced: ModelAnnounced) -> Future[Model]:
        if self._loader is not None:
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            return self._loader.submit(self._loaded, announced)
        future: Future[Model] = Future()
        try:
            future.set_result(self._loaded(announced))
        except PackageError as error:
            future.set_exception(error)
        return future

    def _loaded(self, announced: ModelAnnounced) -> Model:
        model = self._models.load(announced)
        model.warm_up()
        model.check()
        return model

    def _take(self, loading: "Future[Model]") -> None:
        assert self._wanted is not None
        digest = self._wanted.digest
        try:
            model = loading.result()
        except PackageError as error:
            self._refused[digest] = error.message
            log.error(
                "model %s refused: %s; serving: %s", digest, error.message, self.digest or "none"
            )
            return
        if self._next() != self._wanted:
            log.info("model %s is no longer wanted", digest)  # rolled back while it was loaded
            return
        log.info("model %s answers, instead of %s", digest, self.digest or "none")
        self.model = model
