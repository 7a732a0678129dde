"""Update the join's RocksDB cache after each successful commit, and never earlier.

Input: the join's buffers and commits. Output: the cache's content. After an abort, the join rereads
the records since the last commit, and may need records that it has evicted since then. The cache
therefore always has the state of one commit, from which a restarted worker can continue.
"""

import logging
import secrets
from typing import Any

import msgspec

from consumers.outcomes.buffer import Buffer
from consumers.outcomes.low_watermark import JoinProgress
from consumers.outcomes.state_store import Cache, CacheBatch, CacheFailed, Covered

log = logging.getLogger(__name__)


class _Commit(msgspec.Struct, frozen=True):
    """A commit's next offsets, and the numbers of evicted blocks that can be deleted after it."""

    predictions: int
    labels: int
    evicted_predictions: int
    evicted_labels: int


class Spill:
    """Keeps one partition's cache, if any, at the state of the last commit.

    `token` is stored in the cache and with the committed offsets. If the two tokens are equal, the
    cache belongs to these commits, not to commits of deleted topics or of another group.
    """

    def __init__(
        self,
        progress: JoinProgress,
        predictions: Buffer[Any],
        labels: Buffer[Any],
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
        # Next offsets (predictions, labels) of the last successful commit. Set by `on_committed`.
        self._committed = (progress.predictions.published, progress.labels.published)
        self._commit: _Commit | None = None  # the commit in progress; set by `begin_commit`
        if cache is not None:
            self._begin(cache)

    def begin_commit(self) -> None:
        """Note the offsets and evictions that the loop's next commit will cover."""
        if not self._progress.is_rebuilding:
            self._commit = _Commit(
                self._progress.predictions.next_offset,
                self._progress.labels.next_offset,
                self._predictions.evicted(),
                self._labels.evicted(),
            )

    def on_committed(self) -> None:
        """Write the committed state to the cache. Raises CacheFailed."""
        commit, self._commit = self._commit, None
        if commit is not None:
            self._committed = (commit.predictions, commit.labels)
            self._predictions.confirm_evictions()
            self._labels.confirm_evictions()
            self._write(commit.evicted_predictions, commit.evicted_labels)

    def write_reread(self) -> None:
        """Write reread records, which were committed before a restart, to the cache."""
        self._write()

    def close(self) -> None:
        """Write all committed records, and close the cache. Unwritten records are reread later."""
        if self._cache is not None:
            try:
                self._predictions.undo_evictions()
                self._labels.undo_evictions()
                self._write(everything=True)
            except CacheFailed as error:
                log.debug("closed without writing the join cache: %s", error)
            self._cache.close()
            self._cache = None

    def _begin(self, cache: Cache) -> None:
        predictions, labels = self._progress.predictions, self._progress.labels
        covered = cache.covered()
        # Empty the cache if the offsets that it covers are unknown, if it belongs to other topics
        # or commits, or if it is newer than the commits.
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
        self._predictions.attach(cache, predictions.resumed.offset)
        self._labels.attach(cache, labels.resumed.offset)
        if covered is None:
            return
        if covered.predictions > predictions.next_offset:
            predictions.next_offset = covered.predictions
            self._progress.source = covered.source
        labels.next_offset = max(labels.next_offset, covered.labels)

    def _write(
        self, evicted_predictions: int = 0, evicted_labels: int = 0, *, everything: bool = False
    ) -> None:
        if self._cache is None:
            return
        batch = CacheBatch()
        for buffer, dropped, committed in (
            (self._predictions, evicted_predictions, self._committed[0]),
            (self._labels, evicted_labels, self._committed[1]),
        ):
            buffer.write(batch, deletions=dropped, committed=committed, everything=everything)
        if not batch.operations.is_empty():
            predictions, source = self._predictions.next_uncached or (0, -1)
            labels, _ = self._labels.next_uncached or (0, -1)
            self._cache.write(batch, Covered(self._topics, self.token, predictions, source, labels))
