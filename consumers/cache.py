"""The join's cache on disk: a RocksDB for one partition. It may be lost at any time.

In and out: bytes of records by id, of blocks by their first offset, and a note of what is covered.
It is written after commits, without a log of its own: after a kill it holds an older state, whole
in itself. What cannot be opened or is of other topics is emptied; the topics are read again then.
When the disk fails, a worker goes on without caches.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)
from rocksdict import Cache as BlockCache

from driftline.errors import StateLost

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 1
# Of one partition. A killed worker reads again what had not left this buffer: 30,000 records or so.
_WRITE_BUFFER_BYTES = 16 << 20
# Of the whole process, whatever the number of partitions.
_ALL_BUFFERS_BYTES = 64 << 20
_BLOCK_CACHE_BYTES = 64 << 20
# Small blocks: an id is looked for by itself, and a block is decompressed for it.
_BLOCK_BYTES = 4 << 10
_BLOOM_BITS = 10  # 1% of the ids that are not there are looked for in vain


class Covered(msgspec.Struct, frozen=True):
    """What a cache holds: records that stand before these offsets and were needed then."""

    topics: tuple[str, str]
    token: str  # of the group's commits since they began, also written beside the offsets
    predictions: int = 0
    source: int = -1  # largest source offset of predictions before that
    labels: int = 0
    version: int = _VERSION


class CacheFailed(StateLost):
    """A cache can be neither read nor written: a full disk, a lost folder, damage."""


class Caches:
    """The caches of one worker, a folder for each partition. After one has failed there are none
    until a restart: all of them are on the same disk."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.have_failed = False

    def open(self, partition: int) -> "Cache | None":
        """Return the cache of a partition; None if this worker has no folder, or one has failed."""
        if self._folder is None or self.have_failed:
            return None
        try:
            return Cache(self._folder / str(partition), self.failed)
        except CacheFailed:
            return None

    def failed(self, path: Path, error: Exception) -> None:
        """Use no cache from now on. Logged once."""
        if not self.have_failed:
            self.have_failed = True
            log.error(
                "the join's cache %s failed and no cache is used until the next start: what it "
                "held is read again from the committed offsets, and all records within the horizon "
                "are kept in memory: %s",
                path,
                error,
            )


def _ignore(path: Path, error: Exception) -> None:
    """Whoever opens a single cache sees what it raises."""


class Cache:
    """An open cache. Every method but `close` raises CacheFailed when the disk fails; the cache is
    then of no use any more. `on_failure` is called before that, with the path and the reason."""

    def __init__(self, path: Path, on_failure: Callable[[Path, Exception], None] = _ignore) -> None:
        self._path = path
        self._on_failure = on_failure
        self._is_borrowed = False
        self._db: Rdict | None = None  # None: it has failed or is closed
        try:
            self._db = self._opened()
        except Exception as error:
            raise self._failed(error) from error
        self._write = WriteOptions()
        self._write.disable_wal = True

    def covered(self) -> Covered | None:
        """What it holds; None if it is new or cannot be understood."""
        with self._guard() as db:
            value = db.get(b"C")
        if value is None:
            return None
        try:
            covered = msgspec.msgpack.decode(value, type=Covered)
        except msgspec.DecodeError:
            return None
        return covered if covered.version == _VERSION else None

    def records(
        self, side: bytes, ids: list[str], batch: "Batch | None" = None
    ) -> list[bytes | None]:
        """The records of each id; those in `batch`, not yet written, go first."""
        with self._guard() as db:
            found: list[bytes | None] = db.get([side + record_id.encode() for record_id in ids])
        if batch is not None and batch.records:
            fresh = batch.records
            found = [
                fresh.get((side, record_id), value)
                for record_id, value in zip(ids, found, strict=True)
            ]
        return found

    def ids(self, side: bytes, first: int) -> bytes | None:
        """The ids of a block."""
        with self._guard() as db:
            value: bytes | None = db.get(_key(b"I", side, first))
            return value

    def blocks(self, side: bytes) -> Iterator[bytes]:
        """All blocks of a side, by offset."""
        prefix = b"B" + side
        with self._guard() as db:
            for key, value in db.items(from_key=prefix):
                if not key.startswith(prefix):
                    return
                yield value

    def is_shared(self, side: bytes) -> bool:
        """Whether an id may have records of several blocks."""
        with self._guard() as db:
            return db.get(b"S" + side) is not None

    def decode(self, decoder: Callable[[bytes], T], value: bytes) -> T:
        """Return what one of its values says. One that cannot be decoded fails like the disk."""
        with self._guard():
            return decoder(value)

    def write(self, batch: "Batch", covered: Covered) -> None:
        """Write a batch and what the cache covers with it, both or neither."""
        batch.operations.put(b"C", msgspec.msgpack.encode(covered))
        with self._guard() as db:
            db.write(batch.operations, self._write)

    def clear(self) -> None:
        """Begin anew."""
        with self._guard() as db:
            db.close()
            shutil.rmtree(self._path, ignore_errors=True)
            self._db = _open(self._path, _options())

    def close(self) -> None:
        """Let others open it. What a full disk does not take is read again after the next start."""
        db, self._db = self._db, None
        if db is None:
            return
        try:
            db.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._on_failure(self._path, error)
        if self._is_borrowed:
            shutil.rmtree(self._path, ignore_errors=True)

    def _opened(self) -> Rdict:
        options = _options()
        try:
            return _open(self._path, options)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more specific
            if "LOCK" in str(error):
                # Another process has not let go of it yet. This worker's own will do meanwhile.
                self._path = _beside(self._path)
                self._is_borrowed = True
            log.warning("the join's cache %s is of no use and begun anew: %s", self._path, error)
            shutil.rmtree(self._path, ignore_errors=True)
            return _open(self._path, options)

    @contextmanager
    def _guard(self) -> Iterator[Rdict]:
        """Give the database; whatever it raises is the end of this cache."""
        if self._db is None:
            raise CacheFailed(f"the join's cache {self._path} has failed, or is closed")
        try:
            yield self._db
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CacheFailed:
        """Close it and free its space, which others need now."""
        self._on_failure(self._path, error)
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except Exception as closing:  # noqa: BLE001 - as above
                log.debug("the failed cache %s did not close: %s", self._path, closing)
            shutil.rmtree(self._path, ignore_errors=True)
        return CacheFailed(f"the join's cache {self._path} failed: {error}")


class Batch:
    """What is to be written at once."""

    def __init__(self) -> None:
        self.operations = WriteBatch(raw_mode=True)
        self.records: dict[tuple[bytes, str], bytes | None] = {}

    def put_record(self, side: bytes, record_id: str, value: bytes) -> None:
        self.operations.put(side + record_id.encode(), value)
        self.records[side, record_id] = value

    def delete_record(self, side: bytes, record_id: str) -> None:
        self.operations.delete(side + record_id.encode())
        self.records[side, record_id] = None

    def put_block(self, side: bytes, first: int, value: bytes) -> None:
        self.operations.put(_key(b"B", side, first), value)

    def put_ids(self, side: bytes, first: int, value: bytes) -> None:
        self.operations.put(_key(b"I", side, first), value)

    def delete_block(self, side: bytes, first: int) -> None:
        self.operations.delete(_key(b"B", side, first))
        self.operations.delete(_key(b"I", side, first))

    def set_shared(self, side: bytes) -> None:
        self.operations.put(b"S" + side, b"")


def _open(path: Path, options: Options) -> Rdict:
    path.mkdir(parents=True, exist_ok=True)
    return Rdict(str(path), options)


def _beside(path: Path) -> Path:
    number = 1
    while (other := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return other


@functools.cache
def _shared() -> tuple[BlockCache, WriteBufferManager]:
    return BlockCache(_BLOCK_CACHE_BYTES), WriteBufferManager(_ALL_BUFFERS_BYTES, False)


def _options() -> Options:
    block_cache, buffers = _shared()
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_write_buffer_manager(buffers)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    table = BlockBasedOptions()
    table.set_block_cache(block_cache)
    table.set_block_size(_BLOCK_BYTES)
    table.set_bloom_filter(_BLOOM_BITS, False)
    # A billion ids have a gigabyte of filters: in parts, of which the cache keeps those in use.
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_top_level_index_and_filter(True)
    options.set_block_based_table_factory(table)
    return options


def _key(kind: bytes, side: bytes, first: int) -> bytes:
    return kind + side + first.to_bytes(8, "big")
