"""Store one partition's buffered join records in RocksDB, as a cache that can be rebuilt.

The cache holds records by id, blocks by first offset, and the offsets up to which it is complete.
It is written after commits, without a write-ahead log. If the process is killed, the cache
therefore has the consistent state of an earlier commit. A cache that cannot be opened or belongs to
other topics is emptied, and the topics are reread. If the disk fails, the worker continues without
a cache.
"""

import functools
import itertools
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
# The size of one partition's write buffer. If the process is killed, the records in the buffer
# (about 30,000) are reread.
_WRITE_BUFFER_BYTES = 16 << 20
# The next two limits apply to the whole process, regardless of the number of partitions.
_ALL_BUFFERS_BYTES = 64 << 20
_BLOCK_CACHE_BYTES = 64 << 20
# RocksDB blocks are small, because each lookup of an id decompresses a whole block.
_BLOCK_BYTES = 4 << 10
_BLOOM_BITS = 10  # with 10 bits, 1% of lookups of absent ids still read a block


class Covered(msgspec.Struct, frozen=True):
    """The offsets up to which a cache contains all records that are still needed."""

    topics: tuple[str, str]
    token: str  # identifies the cache's commits, whose metadata contains the same token
    predictions: int = 0
    source: int = -1  # largest `source` offset in these predictions
    labels: int = 0
    version: int = _VERSION


class CacheFailed(StateLost):
    """Raised if a cache cannot be used: full disk, missing folder or damaged data."""


class Caches:
    """The caches of one worker, one folder per partition. After one cache fails, the worker uses no
    cache until it restarts, because all caches are on the same disk."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.have_failed = False  # set by `failed`, never reset

    def open(self, partition: int) -> "Cache | None":
        """Return a partition's cache, or None if there is no folder or a cache has failed."""
        if self._folder is None or self.have_failed:
            return None
        try:
            return Cache(self._folder / str(partition), self.failed)
        except CacheFailed:
            return None

    def failed(self, path: Path, error: Exception) -> None:
        """Stop using caches. Log only the first failure."""
        if not self.have_failed:
            self.have_failed = True
            log.error(
                "the join's cache %s failed; no cache is used until the next start, all records "
                "within the join window are buffered in memory, and records that were in the cache "
                "are read again from the committed offsets: %s",
                path,
                error,
            )


def _ignore(path: Path, error: Exception) -> None:
    """Do nothing. A caller that opens a single cache handles the exception itself."""


class Cache:
    """An open cache. If the disk fails, `on_failure` is called with the path and the error. From
    then on, every method except `close` raises CacheFailed."""

    def __init__(self, path: Path, on_failure: Callable[[Path, Exception], None] = _ignore) -> None:
        self._path = path
        self._on_failure = on_failure
        self._is_borrowed = False  # True if the folder is temporary; set by `_opened`
        self._db: Rdict | None = None  # replaced by `clear`; None after a failure or `close`
        try:
            self._db = self._opened()
        except Exception as error:
            raise self._failed(error) from error
        self._write = WriteOptions()
        self._write.disable_wal = True

    def covered(self) -> Covered | None:
        """Return the offsets up to which the cache is complete, or None if the cache is new,
        unreadable or has another format version."""
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
        self, side: bytes, ids: list[str], batch: "CacheBatch | None" = None
    ) -> list[bytes | None]:
        """Return each id's encoded records. Unwritten changes in `batch` take precedence."""
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
        """Return the encoded ids of the block whose first offset is `first`."""
        with self._guard() as db:
            value: bytes | None = db.get(_key(b"I", side, first))
            return value

    def blocks(self, side: bytes) -> Iterator[bytes]:
        """Yield the encoded blocks of a side (one of the two topics) in offset order."""
        prefix = b"B" + side
        with self._guard() as db:
            for key, value in db.items(from_key=prefix):
                if not key.startswith(prefix):
                    return
                yield value

    def is_shared(self, side: bytes) -> bool:
        """Return whether an id of this side may have several records."""
        with self._guard() as db:
            return db.get(b"S" + side) is not None

    def decode(self, decoder: Callable[[bytes], T], value: bytes) -> T:
        """Decode a cached value. If decoding fails, the cache is treated as failed."""
        with self._guard():
            return decoder(value)

    def write(self, batch: "CacheBatch", covered: Covered) -> None:
        """Atomically write a batch, and the offsets up to which it makes the cache complete."""
        batch.operations.put(b"C", msgspec.msgpack.encode(covered))
        with self._guard() as db:
            db.write(batch.operations, self._write)

    def clear(self) -> None:
        """Delete the cache and open an empty one."""
        with self._guard() as db:
            db.close()
            shutil.rmtree(self._path, ignore_errors=True)
            self._db = _open(self._path, _options())

    def close(self) -> None:
        """Close the cache. Records that do not fit on the disk are reread after the next start."""
        db, self._db = self._db, None
        if db is None:
            return
        try:
            db.close()
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more specific
            self._on_failure(self._path, error)
        if self._is_borrowed:
            shutil.rmtree(self._path, ignore_errors=True)

    def _opened(self) -> Rdict:
        options = _options()
        try:
            return _open(self._path, options)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more specific
            log.warning(
                "discarding unusable join cache %s; its records are read again: %s",
                self._path,
                error,
            )
            if "LOCK" in str(error):
                # Another process still has the cache open. Use a temporary folder next to it.
                self._path = _beside(self._path)
                self._is_borrowed = True
            else:
                shutil.rmtree(self._path, ignore_errors=True)
            return _open(self._path, options)

    @contextmanager
    def _guard(self) -> Iterator[Rdict]:
        """Yield the database. If the caller's `with` block raises, treat the cache as failed."""
        if self._db is None:
            raise CacheFailed(f"the join's cache {self._path} has failed, or is closed")
        try:
            yield self._db
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CacheFailed:
        """Report the failure. If the cache is open, delete it, because the disk may be full."""
        self._on_failure(self._path, error)
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except Exception as closing:  # noqa: BLE001 - rocksdict raises nothing more specific
                log.debug("could not close the failed cache %s: %s", self._path, closing)
            shutil.rmtree(self._path, ignore_errors=True)
        return CacheFailed(f"the join's cache {self._path} failed: {error}")


class CacheBatch:
    """Changes that `Cache.write` applies atomically."""

    def __init__(self) -> None:
        self.operations = WriteBatch(raw_mode=True)
        # The batch's record changes by (side, id), for `Cache.records`. None marks a deletion.
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
    """Return the first alternative path next to `path` that no other process has open.

    Delete the folder at this path, which a killed process may have left behind.
    """
    for number in itertools.count(1):
        other = path.with_name(f"{path.name}-{number}")
        try:
            _open(other, _options()).close()
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more specific
            if "LOCK" in str(error):
                continue
        shutil.rmtree(other, ignore_errors=True)
        return other
    raise AssertionError("unreachable")


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
    # The filters for a billion ids take 1 GB. With partitioning, memory holds only filters in use.
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_top_level_index_and_filter(True)
    options.set_block_based_table_factory(table)
    return options


def _key(kind: bytes, side: bytes, first: int) -> bytes:
    return kind + side + first.to_bytes(8, "big")
