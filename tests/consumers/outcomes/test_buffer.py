"""The buffer of the join: records are found by id in memory or cache, and evicted oldest first."""

from pathlib import Path

import msgspec

from consumers.outcomes.buffer import Pending
from consumers.outcomes.state_store import Batch, Cache, Covered

COVERED = Covered(("p", "l"), "token")


class Record(msgspec.Struct, frozen=True, array_like=True):
    offset: int


def pending(cache: Cache | None = None, *, limit: int = 0, held: int = 0) -> Pending[Record]:
    found = Pending(b"p", Record, span=1)
    found.limit = limit
    if cache is not None:
        found.load(cache, held)
    return found


def write(kept: Pending[Record], cache: Cache, *, deletions: int = 0, committed: int = 100) -> None:
    batch = Batch()
    kept.write(batch, deletions=deletions, committed=committed, everything=True)
    cache.write(batch, COVERED)


def offsets(kept: Pending[Record], record_id: str) -> list[int]:
    kept.fetch([record_id])
    return [record.offset for record in kept.get(record_id)]


def test_records_of_one_id_are_found_in_memory_and_cache_by_offset(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    kept = pending(cache)
    for offset in range(4):
        kept.add("a", Record(offset), 10 * offset)
        if offset < 3:
            write(kept, cache)
    assert kept.in_memory == 1
    assert offsets(kept, "a") == [0, 1, 2, 3]
    assert offsets(kept, "b") == []
    cache.close()


def test_evicting_a_block_keeps_later_records_of_its_ids(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    kept = pending(cache)
    for offset in range(3):
        kept.add("a", Record(offset), 10 * offset)
        write(kept, cache)
    kept.drop()
    assert offsets(kept, "a") == [1, 2]  # even before the deletion is written to the cache
    write(kept, cache, deletions=kept.dropped())
    assert offsets(kept, "a") == [1, 2]
    assert kept.held == 1
    cache.close()


def test_a_new_record_of_an_id_survives_the_pending_deletion_of_an_old_block(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path / "0")
    kept = pending(cache)
    kept.add("a", Record(0), 0)
    write(kept, cache)
    kept.drop()
    kept.add("a", Record(1), 10)
    write(kept, cache)
    write(kept, cache, deletions=1)
    assert offsets(kept, "a") == [1]
    cache.close()


def test_records_stay_in_memory_until_they_are_committed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    kept = pending(cache)
    for offset in range(4):
        kept.add(str(offset), Record(offset), 10 * offset)
    write(kept, cache, committed=2)
    assert kept.in_memory == 2
    assert kept.next_uncached == (2, -1)
    cache.close()


def test_after_a_restart_cached_records_are_found_from_the_committed_offset_on(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path / "0")
    kept = pending(cache)
    for offset in range(4):
        kept.add(str(offset % 2), Record(offset), 10 * offset)
        write(kept, cache)
    cache.close()
    cache = Cache(tmp_path / "0")
    assert cache.covered() == COVERED
    again = pending(cache, held=1)
    assert offsets(again, "0") == [2]
    assert offsets(again, "1") == [1, 3]
    write(again, cache, deletions=again.dropped())
    assert offsets(again, "0") == [2]
    cache.close()


def test_the_oldest_block_is_returned_whole_and_in_the_order_of_offsets(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "0")
    for kept in (pending(), pending(cache)):
        for offset, record_id in enumerate(["b", "a", "b"]):
            kept.add(record_id, Record(offset), 0)
        kept.add("a", Record(3), 10)
        write(kept, cache)
        assert kept.oldest() == [("b", Record(0)), ("a", Record(1)), ("b", Record(2))]
    cache.close()


def test_without_a_cache_all_records_stay_in_memory() -> None:
    kept = pending()
    for offset in range(10):
        kept.add("a", Record(offset), offset)
    kept.write(Batch(), deletions=0, committed=100, everything=True)
    assert kept.in_memory == 10
    kept.drop()
    assert offsets(kept, "a") == [2, 3, 4, 5, 6, 7, 8, 9]
