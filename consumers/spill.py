"""When the join's cache is written: after a commit has succeeded, and never ahead of it.

What was read after the last commit may be read again after an abort, and then be followed by other
records; what was forgotten may still be needed, if what followed from it was aborted.
So the cache is always one of a committed moment, and a restart goes on from there.
"""

import logging
import secrets
from typing import Any

import msgspec

from consumers.cache import Batch, Cache, CacheFailed, Covered
from consumers.pending import Pending
from consumers.progress import Progress

log = logging.getLogger(__name__)


class _Commit(msgspec.Struct, frozen=True):
    """What a commit covers: next offsets, and dropped blocks that may be deleted."""

    predictions: int
    labels: int
    dropped_predictions: int
    dropped_labels: int


class Spill:
    """Keeps a cache, if there is one, behind the commits of one partition.

    `token` stands in the cache and beside the committed offsets: where both are the same, the cache
    is of these topics, and of the group's commits since they began.
    """

    def __init__(
        self,
        progress: Progress,
        predictions: Pending[Any],
        labels: Pending[Any],
        cache: Cache | None,
        topics: tuple[str, str],
    ) -> None:
        self._progress = progress
        self._predictions = predictions
        self._labels = labels
        self._cache = cache
        self._topics = topics
        tokens = {progress.predictions.at.token, progress.labels.at.token}
        self.token = tokens.pop() if len(tokens) == 1 else ""
        # The last commit, and one that is under way; it has succeeded if the join lives on.
        self._committed = (progress.predictions.published, progress.labels.published)
        self._commit: _Commit | None = None
        if cache is not None:
            self._begin(cache)

    def begin_commit(self) -> None:
        """The loop is about to commit what was read so far."""
        if not self._progress.is_rebuilding:
            self._note_commit(
                self._progress.predictions.next_offset, self._progress.labels.next_offset
            )

    def settle(self) -> None:
        """The loop goes on: what it committed is committed."""
        commit, self._commit = self._commit, None
        if commit is not None:
            self._committed = (commit.predictions, commit.labels)
            self._predictions.settle()
            self._labels.settle()
            self._write(commit.dropped_predictions, commit.dropped_labels)
        elif self._progress.is_rebuilding:
            self._write()  # what is read again was committed before

    def close(self) -> None:
        """Write all that is committed, and close the cache. One that fails here is read again."""
        if self._cache is not None:
            try:
                self._predictions.restore()
                self._labels.restore()
                self._write(everything=True)
            except CacheFailed as error:
                log.debug("closed without its cache: %s", error)
            self._cache.close()
            self._cache = None

    def _note_commit(self, predictions: int, labels: int) -> None:
        self._commit = _Commit(
            predictions, labels, self._predictions.dropped(), self._labels.dropped()
        )

    def _begin(self, cache: Cache) -> None:
        predictions, labels = self._progress.predictions, self._progress.labels
        covered = cache.covered()
        if (
            covered is None
            or covered.topics != self._topics
            or covered.token != self.token
            or covered.predictions > predictions.published
            or covered.labels > labels.published
        ):
            cache.clear()
            covered = None
        self.token = self.token or secrets.token_hex(8)
        self._predictions.load(cache, predictions.resumed.offset)
        self._labels.load(cache, labels.resumed.offset)
        if covered is None:
            return
        if covered.predictions > predictions.next_offset:
            predictions.next_offset = covered.predictions
            self._progress.source = covered.source
        labels.next_offset = max(labels.next_offset, covered.labels)
        self._note_commit(*self._committed)  # what stands before these offsets can be deleted

    def _write(
        self, dropped_predictions: int = 0, dropped_labels: int = 0, *, everything: bool = False
    ) -> None:
        if self._cache is None:
            return
        batch = Batch()
        for pending, dropped, committed in (
            (self._predictions, dropped_predictions, self._committed[0]),
            (self._labels, dropped_labels, self._committed[1]),
        ):
            pending.write(batch, deletions=dropped, committed=committed, everything=everything)
        if not batch.operations.is_empty():
            predictions, source = self._predictions.next_uncached or (0, -1)
            labels, _ = self._labels.next_uncached or (0, -1)
            self._cache.write(batch, Covered(self._topics, self.token, predictions, source, labels))
