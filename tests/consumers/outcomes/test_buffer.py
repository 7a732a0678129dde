"""The buffer of the join: records are found by id in memory or cache, and evicted oldest first."""

from pathlib import Path

import msgspec

from consumers.outcomes.buffer import Buffer
from consumers.outcomes.state_store import Cache, CacheBatch, Covered

COVERED = Covered(("p", "l"), "token")


class Record(msgspec.Struct, frozen=True, array_like=True):
    offset: int


def new_buffer(cache: Cache | None = None, *, limit: int = 0, first: int = 0) -> Buffer[Record]:
    found = Buffer(b"p", Record, span=1)
    found.limit = limit
    if cache is not None:
        found.attach(cache, first)
    return found


def write(
    buffer: Buffer[Record], cache: Cache, *, deletions: int = 0, committed: int = 100
) -> None:
    batch = CacheBatch()
    buffer.write(batch, deletions=deletions, committed=committed, everything=True)
    cache.write(batch, COVERED)


def offsets(buffer: Buffer[Record], record_id: str) -> list[int]:
    buffer.load([record_id])
    return [record.offset for record in buffer.get(record_id)]


def test_records_of_one_id_are_found_in_memory_and_cache_by_offset(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    buffer = new_buffer(cache)
    for offset in range(4):
        buffer.add("a", Record(offset), 10 * offset)
        if offset < 3:
            write(buffer, cache)
    assert buffer.in_memory == 1
    assert offsets(buffer, "a") == [0, 1, 2, 3]
    assert offsets(buffer, "b") == []
    cache.close()


def test_evicting_a_block_keeps_later_records_of_its_ids(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    buffer = new_buffer(cache)
    for offset in range(3):
        buffer.add("a", Record(offset), 10 * offset)
        write(buffer, cache)
    buffer.evict()
    assert offsets(buffer, "a") == [1, 2]  # even before the deletion is written to the cache
    write(buffer, cache, deletions=buffer.evicted())
    assert offsets(buffer, "a") == [1, 2]
    assert buffer.oldest_needed == 1
    cache.close()


def test_a_new_record_of_an_id_survives_the_pending_deletion_of_an_old_block(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path / "0")
    buffer = new_buffer(cache)
    buffer.add("a", Record(0), 0)
    write(buffer, cache)
    buffer.evict()
    buffer.add("a", Record(1), 10)
    write(buffer, cache)
    write(buffer, cache, deletions=1)
    assert offsets(buffer, "a") == [1]
    cache.close()


def test_records_stay_in_memory_until_they_are_committed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    buffer = new_buffer(cache)
    for offset in range(4):
        buffer.add(str(offset), Record(offset), 10 * offset)
    write(buffer, cache, committed=2)
    assert buffer.in_memory == 2
    assert buffer.next_uncached == (2, -1)
    cache.close()


def test_after_a_restart_cached_records_are_found_from_the_committed_offset_on(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path / "0")
    buffer = new_buffer(cache)
    for offset in range(4):
        buffer.add(str(offset % 2), Record(offset), 10 * offset)
        write(buffer, cache)
    cache.close()
    cache = Cache(tmp_path / "0")
    assert cache.covered() == COVERED
    again = new_buffer(cache, first=1)
    assert offsets(again, "0") == [2]
    assert offsets(again, "1") == [1, 3]
    write(again, cache, deletions=again.evicted())
    assert offsets(again, "0") == [2]
    cache.close()


def test_the_oldest_block_is_returned_whole_and_in_the_order_of_offsets(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    for buffer in (new_buffer(), new_buffer(cache)):
        for offset, record_id in enumerate(["b", "a", "b"]):
            buffer.add(record_id, Record(offset), 0)
        buffer.add("a", Record(3), 10)
        write(buffer, cache)
        assert buffer.oldest() == [("b", Record(0)), ("a", Record(1)), ("b", Record(2))]
    cache.close()


def test_without_a_cache_all_records_stay_in_memory() -> None:
    buffer = new_buffer()
    for offset in range(10):
        buffer.add("a", Record(offset), offset)
    buffer.write(CacheBatch(), deletions=0, committed=100, everything=True)
    assert buffer.in_memory == 10
    buffer.evict()
    assert offsets(buffer, "a") == [2, 3, 4, 5, 6, 7, 8, 9]
