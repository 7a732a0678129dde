"""The join's cache on disk: a RocksDB for one partition. It may be lost at any time.

In and out: bytes of records by id, of blocks by their first offset, and a note of what is covered.
It is written after commits, without a log of its own: after a kill it holds an older state, whole
in itself. What cannot be opened or is of other topics is emptied; the topics are read again then.
"""

import functools
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

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

log = logging.getLogger(__name__)

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


class Cache:
    """An open cache. Raises what RocksDB raises when the disk fails later on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_borrowed = False
        options = _options()
        try:
            self._db = _open(path, options)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more specific
            if "LOCK" in str(error):
                # Another process has not let go of it yet. This worker's own will do meanwhile.
                self._path = _beside(path)
                self._is_borrowed = True
            log.warning("the join's cache %s is of no use and begun anew: %s", path, error)
            shutil.rmtree(self._path, ignore_errors=True)
            self._db = _open(self._path, options)
        self._write = WriteOptions()
        self._write.disable_wal = True

    def covered(self) -> Covered | None:
        """What it holds; None if it is new or cannot be understood."""
        value = self._db.get(b"C")
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
        found: list[bytes | None] = self._db.get([side + record_id.encode() for record_id in ids])
        if batch is not None and batch.records:
            fresh = batch.records
            found = [
                fresh.get((side, record_id), value)
                for record_id, value in zip(ids, found, strict=True)
            ]
        return found

    def ids(self, side: bytes, first: int) -> bytes | None:
        """The ids of a block."""
        value: bytes | None = self._db.get(_key(b"I", side, first))
        return value

    def blocks(self, side: bytes) -> Iterator[bytes]:
        """All blocks of a side, by offset."""
        prefix = b"B" + side
        for key, value in self._db.items(from_key=prefix):
            if not key.startswith(prefix):
                return
            yield value

    def is_shared(self, side: bytes) -> bool:
        """Whether an id may have records of several blocks."""
        return self._db.get(b"S" + side) is not None

    def write(self, batch: "Batch", covered: Covered) -> None:
        """Write a batch and what the cache covers with it, both or neither."""
        batch.operations.put(b"C", msgspec.msgpack.encode(covered))
        self._db.write(batch.operations, self._write)

    def clear(self) -> None:
        """Begin anew."""
        self._db.close()
        shutil.rmtree(self._path, ignore_errors=True)
        self._db = _open(self._path, _options())

    def close(self) -> None:
        """Let others open it."""
        self._db.close()
        if self._is_borrowed:
            shutil.rmtree(self._path, ignore_errors=True)


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
