"""What the join remembers of one topic of one partition: by record id, in the order of offsets.

In: records with their positions, their offsets growing. Out: those of an id, and the oldest offset
still needed. The newest are in memory; when there is a cache, older ones are only there. Records
are forgotten from the oldest on, a block of neighbours at a time; which ones, the join decides.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from consumers.cache import Batch, Cache

# Records of a block at most: what one commit writes to the cache at once (about 20 ms), and what
# stays longer than needed. A day of 10,000 records a second is 105,000 blocks of 250 bytes.
BLOCK_RECORDS = 8192
BEFORE_ALL = -(2**63)
NEVER = 2**63 - 1


class Positioned(Protocol):
    """A record, as far as this module looks into it."""

    @property
    def offset(self) -> int: ...


T = TypeVar("T", bound=Positioned)


class Block(msgspec.Struct, omit_defaults=True):
    """Neighbours in the topic, forgotten together; offsets from `first` up to `end`."""

    first: int
    end: int
    newest: int = BEFORE_ALL  # largest position that keeps it
    count: int = 0
    source: int = -1  # predictions: largest source offset before it,
    last_source: int = -1  # and in it
    joined: int = 0  # predictions: how many have an outcome
    needs: int = NEVER  # labels: smallest offset of a prediction that one of them has met
    waiting: bool = False  # labels: some came before their prediction
    placeless: bool = False  # labels: some of these have no position yet


_decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_ids = msgspec.msgpack.Decoder(list[str]).decode


class Pending(Generic[T]):
    """The records of one topic. `span`: positions that a block may hold at most; `limit`: records
    to keep in memory when there is a cache."""

    limit = 0

    def __init__(self, side: bytes, kind: type[T], *, span: int) -> None:
        self.blocks: list[Block] = []
        self._firsts: list[int] = []  # of each block, for bisection
        self._ids: list[list[str]] = []  # of each block in memory
        self._memory: dict[str, T] = {}
        self._more: dict[str, list[T]] = {}  # records after the first of their id
        self._span = span
        self._side = side
        self._spilled = 0  # so many of the blocks are in the cache only
        self._start = 0  # records before this offset were settled before a restart
        self._growing: Block | None = None  # the newest block, if it may grow
        self._until = NEVER  # and up to which position
        self._fetched: dict[str, list[T]] = {}
        self._changed: set[int] = set()  # first offsets of blocks in the cache
        self._dropped: list[Block] = []  # of the cache, to be deleted there
        # Dropped from memory since the last commit: each block, its ids, and their records.
        self._unsettled: list[tuple[Block, list[str], list[T]]] = []
        self._shared = False  # whether the cache has ids of several records
        self._cache: Cache | None = None
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]

    @property
    def in_memory(self) -> int:
        """Records in the memory tier."""
        return len(self._memory) + sum(map(len, self._more.values()))

    @property
    def held(self) -> int | None:
        """The oldest offset still needed; None if none is."""
        return max(self._start, self.blocks[0].first) if self.blocks else None

    @property
    def next_uncached(self) -> tuple[int, int] | None:
        """What the cache lacks begins at this offset, and the largest source offset before it."""
        if self._spilled:
            last = self.blocks[self._spilled - 1]
        elif self._dropped:  # the cache still has them, and after an abort they are needed again
            last = self._dropped[-1]
        else:
            return None
        return last.end, last.last_source

    # ---- adding and finding ---------------------------------------------------------------------

    def cover(self, offset: int, position: int) -> Block:
        """The newest block, made to reach over a record at `offset` that need not be remembered."""
        block = self._growing
        if block is None or position > self._until:
            block = self._begin(offset, position, -1)
        block.end = offset + 1
        block.newest = max(block.newest, position)
        return block

    def add(self, record_id: str, record: T, position: int, *, source: int = -1) -> Block:
        """Remember a record with this position; returns the newest block, which it is in."""
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
        """Remember records of ids that are all new, as `add` would. Gives each block that they are
        in, with the places of the first of them in it and behind the last."""
        self._memory.update(zip(ids, records, strict=True))
        place, count = 0, len(ids)
        while place < count:
            block = self._growing
            if block is None or block.count >= BLOCK_RECORDS or positions[place] > self._until:
                source = sources[place] if sources else -1
                block = self._begin(records[place].offset, positions[place], source)
            end = min(count, place + BLOCK_RECORDS - block.count)
            newest = max(positions[place:end])
            if newest > self._until:
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
        """Let the newest block grow no more."""
        self._growing = None

    @property
    def is_cached(self) -> bool:
        """Whether some records are in the cache only; they are found after `fetch`."""
        return self._spilled > 0

    def fetch(self, ids: Iterable[str]) -> None:
        """Have the records of these ids at hand that are in the cache only; forgets the last."""
        if self._fetched:
            self._fetched = {}
        if self._spilled:
            self._fetched = self._cached(list(ids))

    def get(self, record_id: str) -> Sequence[T]:
        """The records of an id, by offset; those in the cache only if they were fetched."""
        newest = self._memory.get(record_id)
        if not self._fetched and not self._more:
            return () if newest is None else (newest,)
        found = list(self._fetched.get(record_id, ()))
        if newest is not None:
            found.append(newest)
            found.extend(self._more.get(record_id, ()))
        return found

    def newest(self, ids: Sequence[str]) -> list[T | None] | None:
        """The record of each id, None where there is none; None for all if an id may have several,
        or one that is in the cache only."""
        if self._fetched or self._more:
            return None
        return list(map(self._memory.get, ids))

    def knows_none(self, ids: Sequence[str]) -> bool:
        """Whether no id, all of which are different, has a record; False if it may be otherwise."""
        return (
            not self._fetched and self._memory.keys().isdisjoint(ids) and len(set(ids)) == len(ids)
        )

    def block_of(self, offset: int) -> Block:
        """The block that covers an offset; it may be changed."""
        place = bisect_right(self._firsts, offset) - 1
        block = self.blocks[place]
        if place < self._spilled:
            self._changed.add(block.first)
        return block

    def select(self, end: int, is_wanted: Callable[[Block], bool]) -> Iterator[Block]:
        """The wanted blocks among those that end at `end` or before; they may be changed."""
        for place, block in enumerate(self.blocks):
            if block.end > end:
                return
            if is_wanted(block):
                if place < self._spilled:
                    self._changed.add(block.first)
                yield block

    # ---- forgetting -----------------------------------------------------------------------------

    def oldest(self) -> list[tuple[str, T]]:
        """The records of the oldest block, by offset."""
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

    def drop(self) -> None:
        """Forget the oldest block; in the cache only when `write` is told that it may."""
        block = self.blocks.pop(0)
        del self._firsts[0]
        if block is self._growing:
            self._growing = None
        if self._spilled:
            self._spilled -= 1
            self._changed.discard(block.first)
            self._dropped.append(block)
            self._fetched = {}
        else:
            ids = self._ids.pop(0)
            records = self._evict(ids, block.end)
            if self._cache is not None:
                self._unsettled.append((block, ids, records))

    def settle(self) -> None:
        """What was dropped was committed, and will not be needed again."""
        self._unsettled.clear()

    def restore(self) -> None:
        """Take back what was dropped from memory and not committed: who goes on needs it."""
        while self._unsettled:
            block, ids, records = self._unsettled.pop()
            self.blocks.insert(0, block)
            self._firsts.insert(0, block.first)
            self._ids.insert(0, ids)
            for record_id, record in zip(reversed(ids), reversed(records), strict=True):
                if (later := self._memory.get(record_id)) is not None:
                    self._more.setdefault(record_id, []).insert(0, later)
                self._memory[record_id] = record

    def _evict(self, ids: Sequence[str], end: int) -> list[T]:
        """Take the oldest record of each id out of memory: all of them stand before `end`."""
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

    def load(self, cache: Cache, held: int) -> None:
        """Go on with what the cache has from offset `held` on; older records are deleted there."""
        self._cache = cache
        self._start = held
        self._shared = cache.is_shared(self._side)
        for value in cache.blocks(self._side):
            block = cache.decode(_decode_block, value)
            if block.end <= held:
                self._dropped.append(block)
            else:
                self.blocks.append(block)
        self._firsts = [block.first for block in self.blocks]
        self._spilled = len(self.blocks)

    def dropped(self) -> int:
        """How many blocks wait to be deleted from the cache."""
        return len(self._dropped)

    def write(self, batch: Batch, *, deletions: int, committed: int, everything: bool) -> None:
        """Bring the cache up to date: delete the first `deletions` of the dropped blocks, write
        what is too much for memory, or everything, of what stands before offset `committed`."""
        if self._cache is None:
            return
        for block in self._dropped[:deletions]:
            self._delete(batch, block)
        del self._dropped[:deletions]
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

    def _spill(self, batch: Batch, block: Block) -> None:
        ids = self._ids.pop(0)
        if block is self._growing:
            self._growing = None
        unique = list(dict.fromkeys(ids))
        older = self._raw(unique, batch) if self._spilled or self._dropped else {}
        for record_id in unique:
            records = [self._memory[record_id], *self._more.get(record_id, ())]
            records = [record for record in records if record.offset < block.end]
            if (before := older.get(record_id)) or len(records) > 1:
                records = [*(before or ()), *records]
                if not self._shared:
                    self._shared = True
                    batch.set_shared(self._side)
            batch.put_record(self._side, record_id, self._encode(records))
        self._evict(ids, block.end)
        self._changed.add(block.first)
        batch.put_ids(self._side, block.first, msgspec.msgpack.encode(unique))
        self._spilled += 1

    def _delete(self, batch: Batch, block: Block) -> None:
        ids = self._cache_ids(block)
        if self._shared:
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
        assert self._cache is not None  # a block is spilled only where there is one
        value = self._cache.ids(self._side, block.first)
        return [] if value is None else self._cache.decode(_decode_ids, value)

    def _cached(self, ids: list[str]) -> dict[str, list[T]]:
        """What the cache has of these ids and is not forgotten."""
        first = max(self._start, self.blocks[0].first)
        found = {}
        for record_id, records in self._raw(ids, None).items():
            if records[0].offset < first:  # not yet deleted
                records = [record for record in records if record.offset >= first]
            if records:
                found[record_id] = records
        return found

    def _raw(self, ids: list[str], batch: Batch | None) -> dict[str, list[T]]:
        assert self._cache is not None  # as above
        values = self._cache.records(self._side, ids, batch)
        decode, of = self._cache.decode, self._decode
        return {
            record_id: decode(of, value)
            for record_id, value in zip(ids, values, strict=True)
            if value is not None
        }
