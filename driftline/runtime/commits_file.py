"""Store a worker's latest commits in a file, so that the next process in its slot knows them.

Input: committed offsets with their metadata. Output: the file, and its content after a restart. The
file is a cache: a missing or damaged file only means that the next process cannot tell whether
Kafka returns outdated offsets.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from driftline.broker.port import Committed, TopicPartition
from driftline.files import replace_file

log = logging.getLogger(__name__)

_Row = tuple[str, int, int, str]  # topic, partition, offset, metadata


class Commits(NamedTuple):
    """A worker's latest commits. `is_final` is False if the worker may have made newer ones."""

    offsets: Mapping[TopicPartition, Committed]
    is_final: bool


class _Content(msgspec.Struct, frozen=True):
    is_final: bool
    commits: tuple[_Row, ...]


class CommitsFile:
    """The file of one slot of a service. Only one process may use it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_failing = False  # whether the last write failed; set by `write`

    def read(self) -> Commits:
        """Return the previous process's commits. From now on, they count as not final."""
        try:
            content = msgspec.json.decode(self.path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return Commits({}, is_final=True)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("ignoring the commits in %s: %s", self.path, error)
            return Commits({}, is_final=True)
        offsets = {
            TopicPartition(topic, partition): Committed(offset, metadata)
            for topic, partition, offset, metadata in content.commits
        }
        self.write(Commits(offsets, is_final=False))
        return Commits(offsets, content.is_final)

    def write(self, commits: Commits) -> None:
        """Replace the file's content. If this fails, log it once and continue without the file."""
        rows = tuple((*partition, *at) for partition, at in commits.offsets.items())
        try:
            # Without a flush, a power failure may leave an older or damaged file, which is safe.
            content = msgspec.json.encode(_Content(commits.is_final, rows))
            replace_file(self.path, content, flush=False)
        except OSError as error:
            if not self._is_failing:
                log.error("could not write %s, continuing without it: %s", self.path, error)
            self._is_failing = True
        else:
            self._is_failing = False
