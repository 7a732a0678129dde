"""The offsets to commit in `parts`, and how far all partitions are complete."""

import msgspec
import pytest

from driftline.broker.port import Committed
from monitor.merged_windows.closed_panes import MergeCheckpoint, MergeProgress


def test_a_slide_is_complete_once_all_partitions_have_closed_it() -> None:
    of = MergeProgress(2, Committed(0), "40/20")
    of.advance(0, "data", 0, 7)
    assert of.complete("data") is None
    of.advance(1, "data", 1, 5)
    assert of.complete("data") == 5
    assert of.complete("performance") is None


def test_closed_slides_before_the_committed_offset_are_known_after_a_restart() -> None:
    of = MergeProgress(3, Committed(0), "40/20")
    for offset, (partition, closed_up_to) in enumerate([(0, 105), (1, 103), (2, 104), (1, 106)]):
        of.read(offset)
        of.advance(offset, "data", partition, closed_up_to)
    of.close("data", 104)
    held = of.checkpoint(3)
    assert held.offset == 3
    again = MergeProgress(3, held, "40/20")
    assert (again.complete("data"), again.closed("data")) == (103, 104)
    again.advance(3, "data", 1, 106)
    assert again.complete("data") == of.complete("data") == 104
    assert of.checkpoint(None).offset == 4
    assert MergeProgress(3, of.checkpoint(None), "40/20").complete("data") == 104


@pytest.mark.parametrize("partitions", [12, 1000])
def test_the_commit_metadata_is_small_enough_with_many_partitions(partitions: int) -> None:
    of = MergeProgress(partitions, Committed(0), "40/20")
    for turn in range(1, 4):
        for partition in range(partitions):
            offset = turn * partitions + partition
            of.read(offset)
            # The positions are so far apart that those of 1,000 partitions do not fit.
            of.advance(offset, "data", partition, 10_000 * turn + 7 * partition)
        of.close("data", 10_000 * turn)
        held = of.checkpoint(None)
        assert len(held.metadata) < 4096
        at = msgspec.json.decode(held.metadata, type=MergeCheckpoint)
        assert at.data.closed == 10_000 * turn
        assert held.offset == ((turn + 1) * partitions if partitions == 12 else 0)
        again = MergeProgress(partitions, held, "40/20")
        for partition in range(partitions) if not held.offset else ():
            again.advance(partition, "data", partition, 10_000 * turn + 7 * partition)
        assert again.complete("data") == 10_000 * turn
