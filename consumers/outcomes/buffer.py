"""Buffer one topic's records for a partition's join, by record id, in memory and in RocksDB.

Input: records with positions and increasing offsets. Output: an id's records, and the oldest offset
still needed. The newest records are in memory. With a cache, older records are only in the cache.
The join decides when to evict records. They are evicted in blocks of consecutive records.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from consumers.outcomes.state_store import Cache, CacheBatch

# The maximum number of records in a block. Larger blocks would delay eviction and prolong the cache
# write after a commit (now 20 ms). At 10,000 records/s, a day's records fill 105,000 blocks, each
# with 250 bytes of metadata.
BLOCK_RECORDS = 8192
BEFORE_ALL = -(2**63)  # less than any position
NEVER = 2**63 - 1  # greater than any position or offset


class Positioned(Protocol):
    """A prediction or label. This module needs only its offset."""

    @property
    def offset(self) -> int: ...


T = TypeVar("T", bound=Positioned)


class Block(msgspec.Struct, omit_defaults=True):
    """Consecutive records that are evicted together: offsets `first` to `end` (exclusive).

    A field that was renamed in the code keeps its old name in the cache.
    """

    first: int
    end: int
    newest: int = BEFORE_ALL  # the block is evicted one join window after this position
    count: int = 0
    source: int = -1  # predictions: largest `source` offset before this block
    last_source: int = -1  # predictions: largest `source` offset in this block
    joined: int = 0  # predictions: how many have an outcome
    # Labels: the smallest offset among the predictions that the block's labels were matched with.
    dependency_offset: int = msgspec.field(name="needs", default=NEVER)
    waiting: bool = False  # labels: whether any label was read before its prediction
    # Labels: whether any label has no position yet.
    unpositioned: bool = msgspec.field(name="placeless", default=False)


_decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_ids = msgspec.msgpack.Decoder(list[str]).decode


class Buffer(Generic[T]):
    """One topic's buffered records. A block spans at most `span` positions. If there is a cache,
    `limit` is the number of records to keep in memory."""

    limit = 0

    def __init__(self, side: bytes, kind: type[T], *, span: int) -> None:
        # The oldest `_spilled` blocks are only in the cache, newer blocks only in memory. `attach`
        # and `_begin` add blocks, `_spill` moves them to the cache, and `evict` removes them.
        self.blocks: list[Block] = []
        self._firsts: list[int] = []  # first offset of each block, for bisection
        self._ids: list[list[str]] = []  # record ids of each block in memory
        self._memory: dict[str, T] = {}  # oldest in-memory record of each id
        self._more: dict[str, list[T]] = {}  # the later in-memory records of each id, if any
        self._span = span
        self._side = side
        self._spilled = 0
        self._start = 0  # set by `attach`; records before it were evicted before the restart
        self._growing: Block | None = None  # the newest block, until sealed, spilled or evicted
        self._until = NEVER  # the largest position that `_growing` may contain
        self._loaded: dict[str, list[T]] = {}  # result of the last `load`; emptied by `evict`
        self._changed: set[int] = set()  # first offsets of cached blocks that `write` must update
        self._evicted: list[Block] = []  # evicted blocks that `write` must delete from the cache
        # Blocks evicted from memory since the last commit, with their ids and records.
        # `confirm_evictions` discards them, and `undo_evictions` restores them.
        self._unconfirmed: list[tuple[Block, list[str], list[T]]] = []
        self._shared = False  # whether an id in the cache may have several records
        self._cache: Cache | None = None  # set by `attach`
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]

    @property
    def in_memory(self) -> int:
        """Return the number of records in memory."""
        return len(self._memory) + sum(map(len, self._more.values()))

    @property
    def oldest_needed(self) -> int | None:
        """Return the oldest offset still needed, or None if the buffer is empty."""
        return max(self._start, self.blocks[0].first) if self.blocks else None

    @property
    def next_uncached(self) -> tuple[int, int] | None:
        """Return the first offset not in the cache, and the largest `source` offset before it."""
        if self._spilled:
            last = self.blocks[self._spilled - 1]
        elif self._evicted:
            # Evicted blocks stay in the cache until the commit, so that an abort can restore them.
            last = self._evicted[-1]
        else:
            return None
        return last.end, last.last_source

    # ---- adding and finding ---------------------------------------------------------------------

    def cover(self, offset: int, position: int) -> Block:
        """Make the newest block cover an unbuffered record's offset. Return the block."""
        block = self._growing
        if block is None or position > self._until:
            block = self._begin(offset, position, -1)
        block.end = offset + 1
        block.newest = max(block.newest, position)
        return block

    def add(self, record_id: str, record: T, position: int, *, source: int = -1) -> Block:
        """Buffer a record at this position. Return the block that now contains the record."""
        block = self._growing
        if block is None or block.count >= BLOCK_RECORDS or position > self._until:
            block = self._begin(record.offset, position, source)
        else:
            block.end = record.offset + 1
            if position > block.newest:
                block.newest = position
        block.count += 1
        self._ids[-1].append(record_id)
        memory = self._memory
        if record_id in memory:
            self._more.setdefault(record_id, []).append(record)
        else:
            memory[record_id] = record
        return block

    def add_all(
        self,
        ids: Sequence[str],
        records: Sequence[T],
        positions: Sequence[int],
        sources: Sequence[int] = (),
    ) -> Iterator[tuple[Block, int, int]]:
        """Buffer records whose ids are all new. Yield each block that receives records, with the
        start and end indices of these records."""
        self._memory.update(zip(ids, records, strict=True))
        place, count = 0, len(ids)
        while place < count:
            block = self._growing
            if block is None or block.count >= BLOCK_RECORDS or positions[place] > self._until:
                source = sources[place] if sources else -1
                block = self._begin(records[place].offset, positions[place], source)
            end = min(count, place + BLOCK_RECORDS - block.count)
            newest = max(positions[place:end])
            if newest > self._until:  # end the block before the first position past `_until`
                end = next(i for i in range(place, end) if positions[i] > self._until)
                newest = max(positions[place:end])
            block.end = records[end - 1].offset + 1
            block.newest = max(block.newest, newest)
            block.count += end - place
            self._ids[-1].extend(ids[place:end])
            yield block, place, end
            place = end

    def _begin(self, offset: int, position: int, source: int) -> Block:
        block = Block(offset, offset + 1, position, source=source - 1)
        self.blocks.append(block)
        self._firsts.append(offset)
        self._ids.append([])
        self._growing = block
        self._until = NEVER if position == BEFORE_ALL else position + self._span
        return block

    def seal(self) -> None:
        """Close the newest block, so that the next record starts a new block."""
        self._growing = None

    @property
    def is_cached(self) -> bool:
        """Return whether any records are only in the cache, so that `load` must precede `get`."""
        return self._spilled > 0

    def load(self, ids: Iterable[str]) -> None:
        """Load these ids' records from the cache, in place of previously loaded records."""
        if self._loaded:
            self._loaded = {}
        if self._spilled:
            self._loaded = self._cached(list(ids))

    def get(self, record_id: str) -> Sequence[T]:
        """Return an id's records in offset order. Cached records must have been loaded first."""
        newest = self._memory.get(record_id)
        if not self._loaded and not self._more:
            return () if newest is None else (newest,)
        found = list(self._loaded.get(record_id, ()))
        if newest is not None:
            found.append(newest)
            found.extend(self._more.get(record_id, ()))
        return found

    def newest(self, ids: Sequence[str]) -> list[T | None] | None:
        """Return a list with each id's record, or None for an id without records. Return None
        instead of the list if any id may have several records or a cached record."""
        if self._loaded or self._more:
            return None
        return list(map(self._memory.get, ids))

    def knows_none(self, ids: Sequence[str]) -> bool:
        """Return True only if it is certain that all ids differ and no id has a record."""
        return (
            not self._loaded and self._memory.keys().isdisjoint(ids) and len(set(ids)) == len(ids)
        )

    def block_of(self, offset: int) -> Block:
        """Return the block that covers an offset. The caller may change the block."""
        place = bisect_right(self._firsts, offset) - 1
        block = self.blocks[place]
        if place < self._spilled:
            self._changed.add(block.first)
        return block

    def select(self, end: int, is_wanted: Callable[[Block], bool]) -> Iterator[Block]:
        """Yield blocks before `end` that satisfy `is_wanted`. The caller may change the blocks."""
        for place, block in enumerate(self.blocks):
            if block.end > end:
                return
            if is_wanted(block):
                if place < self._spilled:
                    self._changed.add(block.first)
                yield block

    # ---- evicting -------------------------------------------------------------------------------

    def oldest(self) -> list[tuple[str, T]]:
        """Return the oldest block's (id, record) pairs in offset order."""
        block = self.blocks[0]
        if self._spilled:
            ids = set(self._cache_ids(block))
            found = self._cached(list(ids)).items()
            pairs = [(record_id, record) for record_id, records in found for record in records]
        else:
            pairs = [
                (record_id, record)
                for record_id in set(self._ids[0])
                for record in (self._memory[record_id], *self._more.get(record_id, ()))
            ]
        inside = [pair for pair in pairs if pair[1].offset < block.end]
        return sorted(inside, key=lambda pair: pair[1].offset)

    def evict(self) -> None:
        """Evict the oldest block. If it is in the cache, `write` later deletes it from there."""
        block = self.blocks.pop(0)
        del self._firsts[0]
        if block is self._growing:
            self._growing = None
        if self._spilled:
            self._spilled -= 1
            self._changed.discard(block.first)
            self._evicted.append(block)
            self._loaded = {}
        else:
            ids = self._ids.pop(0)
            records = self._remove_from_memory(ids, block.end)
            if self._cache is not None:
                self._unconfirmed.append((block, ids, records))

    def confirm_evictions(self) -> None:
        """Discard evicted records for good. Called after a commit that covers the evictions."""
        self._unconfirmed.clear()

    def undo_evictions(self) -> None:
        """Restore blocks evicted from memory since the last commit, so that `write` caches them."""
        while self._unconfirmed:
            block, ids, records = self._unconfirmed.pop()
            self.blocks.insert(0, block)
            self._firsts.insert(0, block.first)
            self._ids.insert(0, ids)
            for record_id, record in zip(reversed(ids), reversed(records), strict=True):
                if (later := self._memory.get(record_id)) is not None:
                    self._more.setdefault(record_id, []).insert(0, later)
                self._memory[record_id] = record

    def _remove_from_memory(self, ids: Sequence[str], end: int) -> list[T]:
        """Remove each id's oldest record, which must be before offset `end`, from memory."""
        memory = self._memory
        if not self._more:  # each id has one record
            return list(map(memory.pop, ids))
        records = []
        for record_id in ids:
            record = memory.pop(record_id)
            assert record.offset < end
            records.append(record)
            if later := self._more.get(record_id):
                memory[record_id] = later.pop(0)
                if not later:
                    del self._more[record_id]
        return records

    # ---- the cache ------------------------------------------------------------------------------

    def attach(self, cache: Cache, oldest_needed: int) -> None:
        """Continue with the cached blocks from offset `oldest_needed` on. Evict older blocks."""
        self._cache = cache
        self._start = oldest_needed
        self._shared = cache.is_shared(self._side)
        for value in cache.blocks(self._side):
            block = cache.decode(_decode_block, value)
            if block.end <= oldest_needed:
                self._evicted.append(block)
            else:
                self.blocks.append(block)
        self._firsts = [block.first for block in self.blocks]
        self._spilled = len(self.blocks)

    def evicted(self) -> int:
        """Return how many evicted blocks must still be deleted from the cache."""
        return len(self._evicted)

    def write(self, batch: CacheBatch, *, deletions: int, committed: int, everything: bool) -> None:
        """Delete the first `deletions` evicted blocks from the cache. Then spill the oldest blocks
        before offset `committed` until `limit` records (0 if `everything`) are left in memory."""
        if self._cache is None:
            return
        for block in self._evicted[:deletions]:
            self._delete(batch, block)
        del self._evicted[:deletions]
        limit = 0 if everything else self.limit
        while len(self._memory) > limit and self._spilled < len(self.blocks):
            block = self.blocks[self._spilled]
            is_last = self._spilled == len(self.blocks) - 1
            if block.end > committed or (is_last and not everything):
                break
            self._spill(batch, block)
        for first in self._changed:
            block = self.blocks[bisect_right(self._firsts, first) - 1]
            batch.put_block(self._side, block.first, msgspec.msgpack.encode(block))
        self._changed.clear()

    def _spill(self, batch: CacheBatch, block: Block) -> None:
        ids = self._ids.pop(0)
        if block is self._growing:
            self._growing = None
        unique = list(dict.fromkeys(ids))
        # A cache value holds all of an id's cached records, so prepend records of older blocks.
        older = self._raw(unique, batch) if self._spilled or self._evicted else {}
        for record_id in unique:
            records = [self._memory[record_id], *self._more.get(record_id, ())]
            records = [record for record in records if record.offset < block.end]
            if (before := older.get(record_id)) or len(records) > 1:
                records = [*(before or ()), *records]
                if not self._shared:
                    self._shared = True
                    batch.set_shared(self._side)
            batch.put_record(self._side, record_id, self._encode(records))
        self._remove_from_memory(ids, block.end)
        self._changed.add(block.first)
        batch.put_ids(self._side, block.first, msgspec.msgpack.encode(unique))
        self._spilled += 1

    def _delete(self, batch: CacheBatch, block: Block) -> None:
        ids = self._cache_ids(block)
        if self._shared:  # later blocks may have records with the same ids
            for record_id, records in self._raw(ids, batch).items():
                if later := [record for record in records if record.offset >= block.end]:
                    batch.put_record(self._side, record_id, self._encode(later))
                else:
                    batch.delete_record(self._side, record_id)
        else:
            for record_id in ids:
                batch.delete_record(self._side, record_id)
        batch.delete_block(self._side, block.first)

    def _cache_ids(self, block: Block) -> list[str]:
        assert self._cache is not None  # blocks are spilled only if there is a cache
        value = self._cache.ids(self._side, block.first)
        return [] if value is None else self._cache.decode(_decode_ids, value)

    def _cached(self, ids: list[str]) -> dict[str, list[T]]:
        """Return these ids' cached records, except for evicted records."""
        first = max(self._start, self.blocks[0].first)
        found = {}
        for record_id, records in self._raw(ids, None).items():
            if records[0].offset < first:  # evicted, but not yet deleted from the cache
                records = [record for record in records if record.offset >= first]
            if records:
                found[record_id] = records
        return found

    def _raw(self, ids: list[str], batch: CacheBatch | None) -> dict[str, list[T]]:
        assert self._cache is not None  # blocks are spilled only if there is a cache
        values = self._cache.records(self._side, ids, batch)
        decode, of = self._cache.decode, self._decode
        return {
            record_id: decode(of, value)
            for record_id, value in zip(ids, values, strict=True)
            if value is not None
        }
