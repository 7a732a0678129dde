"""Read signed `models` records, then load, verify and swap in the champion that they name.

Input: records from the `models` topic. Output: the model to score with. A champion that cannot be
loaded or fails a check is rejected and retried later. Until it passes, the current model keeps
serving. If there is no current model, for example after a restart, the champion's newest ancestor
that passes the checks is used instead. Models are swapped only between two batches.
"""

import logging
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import msgspec

from driftline.broker.port import Message
from driftline.clock import Clock
from driftline.config.stream import Stream
from driftline.errors import PackageError, StoreUnavailable
from driftline.models.catalog import Catalog
from driftline.models.load import ModelLoader
from driftline.models.score import SCORED_BY_SKLEARN, Model, import_sklearn

log = logging.getLogger(__name__)

# The longest time for which the loading thread may hold the interpreter lock. With Python's default
# of 5 ms, the scoring thread could wait 5 ms for the lock on each call to the Kafka client.
_SWITCH_INTERVAL_S = 0.0005
# An unusable package is first retried after this delay. Each further retry doubles the delay, up to
# `LONGEST_RETRY_S`. In the meantime, an operator may restore the package or trust its key, or the
# store may become reachable again.
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 300.0


class _Failure(msgspec.Struct, frozen=True):
    why: str
    passes: bool  # True if the store is unreachable, so the package itself may be valid
    wait_s: float
    retry_at_s: float


class Champion:
    """Holds the model used for scoring, and replaces it with the catalog's champion.

    If `background` is True, models are loaded in a background thread.
    """

    def __init__(
        self, stream: Stream, models: ModelLoader, clock: Clock, *, background: bool
    ) -> None:
        self._models = models
        self._clock = clock
        self.catalog = Catalog(models.trusted)
        self._loader = ThreadPoolExecutor(1, "driftline-model") if background else None
        if self._loader is not None and not SCORED_BY_SKLEARN.isdisjoint(stream.models.candidates):
            self._loader.submit(import_sklearn)
        self._loading: Future[Model] | None = None  # set when loading starts; reset by `swap`
        self._wanted = ""  # digest of the model that `_loading` loads
        self._failed: dict[str, _Failure] = {}  # by model digest; removed once the model is loaded
        self.model: Model | None = None  # the model used for scoring; replaced by `swap`

    @property
    def digest(self) -> str | None:
        """Return the digest of the model used for scoring, or None if there is none."""
        return self.model.digest if self.model else None

    @property
    def rejected(self) -> Mapping[str, str]:
        """Return the rejection reasons, keyed by model digest or by `models` record key."""
        failed = {
            digest: self._failed[digest].why
            for digest in self.catalog.lineage()
            if digest in self._failed
        }
        return failed | self.catalog.rejected

    def apply(self, message: Message) -> None:
        """Apply a record from the `models` topic. Raises DataError if the record is unreadable."""
        self.catalog.apply(message)

    def swap(self) -> None:
        """Swap in the champion once it is loaded and checked.

        Until then, the current model keeps serving. If there is no current model, for example after
        a restart, try the champion's ancestors as well, newest first.
        """
        while True:
            if self._loading is None:
                wanted = self._next()
                if wanted is None:
                    return
                self._wanted = wanted
                self._loading = self._load(wanted)
            if not self._loading.done():
                return
            self._take(self._loading)
            self._loading = None

    def close(self) -> None:
        """Stop the loading thread without waiting for a load in progress."""
        if self._loader is not None:
            self._loader.shutdown(wait=False, cancel_futures=True)

    def _better(self) -> tuple[str, ...]:
        """Return the digests of the models preferred over the current model, best first."""
        lineage = self.catalog.lineage()
        if self.digest is None:
            return lineage
        if self.digest in lineage:
            return lineage[: lineage.index(self.digest)]
        return lineage[:1]  # only the champion itself may replace the current model

    def _next(self) -> str | None:
        """Return the digest of the model to load now, or None."""
        now_s = self._clock.monotonic()
        for digest in self._better():
            failure = self._failed.get(digest)
            if failure is None or now_s >= failure.retry_at_s:
                return digest
            if failure.passes:
                return None  # the store is unreachable, so no ancestor can be loaded either
        return None

    def _load(self, digest: str) -> Future[Model]:
        if self._loader is not None:
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            return self._loader.submit(self._loaded, digest)
        future: Future[Model] = Future()
        try:
            future.set_result(self._loaded(digest))
        except PackageError as error:
            future.set_exception(error)
        return future

    def _loaded(self, digest: str) -> Model:
        # Without an announcement, the digest suffices: the champion pointer's signature covers it.
        model = self._models.load(self.catalog.announcements.get(digest, digest))
        model.warm_up()
        model.check()
        return model

    def _take(self, loading: "Future[Model]") -> None:
        digest = self._wanted
        try:
            model = loading.result()
        except PackageError as error:
            self._fail(digest, error)
            return
        self._failed.pop(digest, None)
        if digest not in self._better():
            # The champion changed while this model was being loaded.
            log.info("model %s was loaded but is no longer the champion", digest)
            return
        log.info("model %s now serves, replacing %s", digest, self.digest or "none")
        self.model = model

    def _fail(self, digest: str, error: PackageError) -> None:
        before = self._failed.get(digest)
        wait_s = FIRST_RETRY_S if before is None else min(before.wait_s * 2, LONGEST_RETRY_S)
        self._failed[digest] = _Failure(
            why=error.message,
            passes=isinstance(error, StoreUnavailable),
            wait_s=wait_s,
            retry_at_s=self._clock.monotonic() + wait_s,
        )
        if before is None or before.why != error.message:
            log.error(
                "rejecting model %s: %s; model %s keeps serving, and loading will be retried",
                digest,
                error.message,
                self.digest or "none",
            )
