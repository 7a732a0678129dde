"""Scored records of each partition, gathered by window and model: counts and a sample.

In: predictions, partition by partition. Out: `DataParts` for the topic `parts`, as soon as a
partition has passed a window. Memory is columns times sample, not traffic.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Committed, Message, Outgoing
from driftline.codec.records import format_time
from driftline.events import DataParts, GroupPart, SampledRecords, WindowPart
from driftline.stream import Stream
from driftline.topics import Topics
from monitor.judge import watched
from monitor.parts import pack_records, records
from monitor.progress import PANES, Ints, Slot, Track, distinct
from monitor.quality import Counts
from monitor.references import Profiles
from monitor.sample import Rows, Smallest, hashes_of
from monitor.scored import Scored, ScoredReader, by_model, largest


class DataGathering:
    """Turns the predictions of the partitions that this worker reads into parts."""

    def __init__(self, stream: Stream, profiles: Profiles) -> None:
        self._stream = stream
        self._topic = Topics(stream).parts
        self._profiles = profiles
        self._reader = ScoredReader(stream)
        self._columns = watched(stream)
        self._names = tuple(column.name for column in self._columns)
        self._tracks: dict[int, Track[_Part]] = {}

    def resume(self, partition: int, committed: Committed) -> None:
        """Start reading a partition at a committed position."""
        self._tracks[partition] = Track(self._stream, committed, _Part, panes=PANES)

    def drop(self, partition: int) -> None:
        """Forget a partition."""
        self._tracks.pop(partition, None)

    def holds(self) -> dict[int, Committed]:
        """Per partition, what to commit."""
        return {partition: track.hold() for partition, track in self._tracks.items()}

    def read(self, partition: int, messages: Sequence[Message]) -> list[Outgoing]:
        """Take in predictions of one partition, in its order; returns what it has passed."""
        track = self._tracks[partition]
        track.next_offset = messages[-1].offset + 1
        scored = self._reader.read(messages)
        if len(scored.arrivals.offsets):
            cells, counting = track.admit(scored.arrivals)
            if scored.arrivals.marks is not None:  # from here on, records alone
                cells = cells[~scored.arrivals.marks]
                counting = counting[~scored.arrivals.marks]
            if counting.any():
                self._gather(track, partition, scored, cells, counting)
        if (closed := track.close()) is None:
            return []
        passed, slots = closed
        pieces = [piece for window, slot in slots for piece in self._pieces(window, slot)]
        end = DataParts(partition=partition, passed=passed, windows=())
        return records(self._topic, end, pieces)

    def _gather(
        self,
        track: "Track[_Part]",
        partition: int,
        scored: Scored,
        cells: Ints,
        counting: NDArray[np.bool_],
    ) -> None:
        for model, of_model in by_model(scored.models):
            of_model &= counting
            for cell in distinct(cells[of_model]):
                of_group = of_model & (cells == cell)
                part = track.slots[cell].part
                group = part.groups.get(model)
                if group is None:
                    group = _Group(self._stream.windows.max_sample)
                    part.groups[model] = group
                own = scored if of_group.all() else scored.take(np.flatnonzero(of_group))
                self._add(part, group, model, partition, own)

    def _add(
        self, part: "_Part", group: "_Group", model: str, partition: int, scored: Scored
    ) -> None:
        part.row = largest(scored.rows, part.row)
        part.time_us = largest(scored.times_us, part.time_us)
        group.records += len(scored)
        group.last = largest(scored.positions, group.last)
        columns = scored.columns
        profile = self._profiles.of(model)
        if profile is not None:
            for name, counts in profile.count(self._stream, columns).items():
                if any(counts):
                    a, b, c = group.counts.get(name, (0, 0, 0))
                    group.counts[name] = (a + counts[0], b + counts[1], c + counts[2])
        group.sample.add(
            Rows(
                hashes_of(scored.ids),
                scored.positions,
                np.full(len(scored), partition),
                scored.offsets,
                (
                    *(
                        (columns.numbers if kind == "number" else columns.categories)[name]
                        for name, kind, _ in self._columns
                    ),
                    scored.predictions,
                ),
            )
        )

    # ---- publishing -----------------------------------------------------------------------------

    def _pieces(self, window: int, slot: "Slot[_Part]") -> Iterator[WindowPart]:
        """A window's part, in pieces that add up: each with one piece of one group's sample."""
        part = slot.part
        groups = [
            piece for name, group in part.groups.items() for piece in self._group(name, group)
        ]
        yield WindowPart(
            index=window,
            late=slot.late,
            row=part.row,
            time=None if part.time_us is None else format_time(part.time_us),
            groups=tuple(groups[:1]),
        )
        for group in groups[1:]:
            yield WindowPart(index=window, groups=(group,))

    def _group(self, model: str, group: "_Group") -> Iterator[GroupPart]:
        samples: Iterator[SampledRecords] = pack_records(group.sample.rows(), self._names)
        yield GroupPart(
            model=model,
            records=group.records,
            last=group.last,
            counts=group.counts,
            sample=next(samples),
        )
        for sample in samples:
            yield GroupPart(model=model, sample=sample)


class _Group:
    """What one partition has of one model's records in one window."""

    def __init__(self, limit: int) -> None:
        self.records = 0
        self.last: int | None = None  # largest position
        self.counts: dict[str, Counts] = {}
        self.sample = Smallest(limit)


class _Part:
    """What one partition has in one window."""

    def __init__(self) -> None:
        self.groups: dict[str, _Group] = {}
        self.row: int | None = None
        self.time_us: int | None = None
