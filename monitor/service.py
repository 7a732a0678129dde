"""Monitor handler: turn Kafka records into window events, drift events and retrain requests.

Input: records from `predictions` and `outcomes`, and from the monitor's own topics `parts` and
`windows`. Output: records for `parts`, `windows`, `drift` and `retrain`. `parts` contains each
partition's partial aggregates. `windows` has a single partition, which fixes the order of
decisions. Any number of workers can share the input partitions. The worker to which `parts` is
assigned merges partial aggregates. The worker to which `windows` is assigned decides on drift
events and retrain requests.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from driftline.broker.port import Committed, Message, Messages, Outgoing, TopicPartition
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.logs import alike
from driftline.runtime.bad_record_isolation import blaming
from driftline.runtime.handler import Handler, LogChange
from driftline.runtime.input_logs import lost_unread
from driftline.wire.commit_metadata import Kind, metadata_of, usable
from driftline.wire.envelope import dead_letter, decode, rare, windows_decoder
from driftline.wire.events import DriftEvent, RetrainRequest
from driftline.wire.topics import Topics
from driftline.wire.window_events import DataWindow, WindowsEvent
from monitor.decisions import detectors
from monitor.decisions.decider import Decider
from monitor.decisions.snapshot import DecisionsCheckpoint, Snapshots
from monitor.evidently_reports import Reports
from monitor.merged_windows.closed_panes import MergeCheckpoint
from monitor.merged_windows.merger import Merger
from monitor.panes import PartitionCheckpoint
from monitor.partition_windows.aggregate_outcomes import OutcomeAggregator
from monitor.partition_windows.aggregate_predictions import PredictionAggregator
from monitor.reference import column_tests
from monitor.reference.references import Packages, Profiles, References

log = logging.getLogger(__name__)

_WINDOW_STATE: Final = Kind(
    PartitionCheckpoint, "this partition's watermark and open windows are rebuilt from that offset"
)
_MERGE: Final = Kind(MergeCheckpoint, "windows from that offset on are merged and published again")
_DECISIONS: Final = Kind(
    DecisionsCheckpoint, "all windows are reread, and their drift events are published again"
)

# One call to `_merge` stops after testing this many sample values, which takes about 0.5 s, so that
# the open transaction can be committed before it times out.
MAX_TESTED: Final = 200_000


class MonitorHandler(Handler):
    """The monitor's handler for one stream.

    The offset to commit depends on the topic:

    - `predictions`, `outcomes`: the oldest record in an open slide or pane of the partition.
    - `parts`: the oldest record that an incomplete window needs.
    - `windows`: always 0. After a restart, detectors and open events are restored from the last
      snapshot in the folder `state` or, without a snapshot, by rereading `windows` from its
      beginning. Decisions that were already published are not published again.

    `packages` provides the models' references. If `reports` is None, no reports are drawn.

    Raises StreamFileError if the stream file names an unknown test or detector, and MissingExtra if
    a test needs Evidently but Evidently is not installed.
    """

    def __init__(
        self,
        stream: Stream,
        packages: Packages,
        *,
        reports: Path | None = None,
        state: Path | None = None,
        synchronous: bool = False,
    ) -> None:
        column_tests.check(stream)
        detectors.check(stream)
        self._stream = stream
        self._topics = topics = Topics(stream)
        self._kinds = {
            topics.predictions: _WINDOW_STATE,
            topics.outcomes: _WINDOW_STATE,
            topics.parts: _MERGE,
            topics.windows: _DECISIONS,
        }
        self._references = References(packages, stream.judged_by)
        self._profiles = Profiles(stream, self._references)
        self._data = PredictionAggregator(stream)
        self._performance = OutcomeAggregator(stream)
        self._reports = (
            None if reports is None else Reports(stream, reports, synchronous=synchronous)
        )
        self._merger: Merger | None = None  # None unless `parts` is assigned
        # Records from `parts` that are waiting to be merged. `handle` adds them, and `_merge`
        # removes them. The queue is cleared when `parts` is revoked.
        self._waiting: deque[Message] = deque()
        self._snapshots = Snapshots(stream, state)
        self._decider: Decider | None = None  # None unless `windows` is assigned
        # Next offset in `windows` for the decider to read. It is set from the snapshot when
        # `windows` is assigned, and advanced by `_decide` and `reject`.
        self._read = 0
        # All decisions on records of `windows` before this offset have been published. The offset
        # is restored from the checkpoint, and exceeds `_read` only while windows are being reread.
        self._published = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        topics = self._topics
        return (topics.predictions, topics.outcomes, topics.parts, topics.windows)

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """Pause all partitions while partial aggregates in memory are waiting to be merged."""
        return assigned if self._waiting else frozenset()

    def on_assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        starts = {}
        resume = usable(resume, self._topics.group("monitor"), self._kinds, self._stream.axis)
        for (topic, partition), committed in resume.items():
            if topic == self._topics.predictions:
                self._data.resume(partition, committed)
            elif topic == self._topics.outcomes:
                self._performance.resume(partition, committed)
            elif topic == self._topics.parts:
                self._merger = Merger(self._stream, self._references, self._profiles, committed)
            else:
                at = metadata_of(committed, DecisionsCheckpoint) or DecisionsCheckpoint()
                self._published = at.published
                self._read, self._decider = self._snapshots.resume(at)
                starts[TopicPartition(topic, partition)] = self._read
                if at.published:
                    log.info(
                        "resuming decisions at offset %d of `windows`; all decisions before offset "
                        "%d were already published",
                        self._read,
                        at.published,
                    )
        return starts

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for topic, partition in partitions:
            if topic == self._topics.predictions:
                self._data.drop(partition)
            elif topic == self._topics.outcomes:
                self._performance.drop(partition)
            elif topic == self._topics.parts:
                self._merger = None
                self._waiting.clear()
            else:
                self._decider = None

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        topics = self._topics
        output: list[Outgoing] = []
        found = Messages.of(messages)
        for (topic, partition), at in found.runs:
            own = found[at]
            if topic == topics.predictions:
                output.extend(self._data.read(partition, own))
            elif topic == topics.outcomes:
                output.extend(self._performance.read(partition, own))
            elif topic == topics.parts:
                self._waiting.extend(own)
            else:
                for message in own:
                    output.extend(self._decide(message))
        return output

    def on_log_change(self, change: LogChange) -> Sequence[Outgoing]:
        return lost_unread(change, self._topics.outcomes)

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        topics = self._topics
        if message.topic == topics.predictions:
            self._data.skip(message.partition, message.offset)
        elif message.topic == topics.outcomes:
            self._performance.skip(message.partition, message.offset)
        elif message.topic == topics.parts and self._merger is not None:
            self._merger.skip(message.offset)
        elif message.topic == topics.windows:
            self._read = max(message.offset + 1, self._read)
            self._published = max(self._published, self._read)
        return [dead_letter(topics.deadletters, message, reason=reason, service="monitor")]

    def on_tick(self) -> Sequence[Outgoing]:
        if self._reports is not None:
            self._reports.poll()
        return self._merge()

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        held = {
            TopicPartition(topic, partition): committed
            for topic, part in (
                (self._topics.predictions, self._data),
                (self._topics.outcomes, self._performance),
            )
            for partition, committed in part.offsets_to_commit().items()
        }
        if self._merger is not None:
            held[TopicPartition(self._topics.parts, 0)] = self._merger.checkpoint()
        if self._decider is not None:
            at = self._snapshots.checkpoint(self._published, self._read, self._decider)
            decided = msgspec.json.encode(at).decode()
            held[TopicPartition(self._topics.windows, 0)] = Committed(0, decided)
        return held

    def on_committed(self) -> None:
        self._snapshots.save()

    def close(self) -> None:
        if self._reports is not None:
            self._reports.close()

    def _merge(self) -> list[Outgoing]:
        """Merge waiting records. Stop once `MAX_TESTED` sample values have been tested."""
        output: list[Outgoing] = []
        tested = 0
        while self._merger is not None and tested < MAX_TESTED:
            # Publish complete windows before merging the next record.
            if events := self._merger.complete():
                output.extend(rare(self._topics.windows, event, id=event.id) for event in events)
                tested += sum(map(self._tested, events))
            elif self._waiting:
                message = self._waiting.popleft()
                with blaming([message]):
                    self._merger.read(message)
            else:
                break
        return output

    def _tested(self, event: WindowsEvent) -> int:
        if not isinstance(event, DataWindow):
            return event.records
        # The domain classifier is slow, so `_merge` stops after any test that uses it.
        if self._stream.drift.classifier and any(group.tested for group in event.groups):
            return MAX_TESTED
        return sum(
            min(group.records, self._stream.windows.max_sample) * (len(group.columns) + 1)
            for group in event.groups
        )

    def _decide(self, message: Message) -> list[Outgoing]:
        if self._decider is None:
            raise RuntimeError("received a record from `windows`, but this topic is not assigned")
        is_old = message.offset < self._published
        self._read = message.offset + 1
        self._published = max(self._published, self._read)
        try:
            event = decode(windows_decoder, message)
        except DataError as error:
            log.warning(
                "skipping a record of `windows` that is not a window event: %s",
                error.message,
                extra=alike(error.message),
            )
            return []
        decisions = self._decider.read(event)
        if is_old:
            return []
        output = []
        for decision in decisions:
            if isinstance(decision, RetrainRequest):
                output.append(rare(self._topics.retrain, decision, id=decision.id))
            else:
                self._draw(decision)
                output.append(
                    rare(
                        self._topics.drift,
                        decision,
                        id=f"{decision.id}-{decision.action}-{decision.position}",
                        key=decision.id,
                    )
                )
        return output

    def _draw(self, event: DriftEvent) -> None:
        if self._reports is None or event.report is None or event.action != "opened":
            return
        samples = {} if self._merger is None else self._merger.samples
        found = samples.get(event.windows[0])
        reference = None if found is None else self._references.of(found[0])
        if found is None or reference is None:
            log.warning(
                "skipping report %s: after a restart or several newer windows, its window's "
                "sample is no longer in memory",
                event.report,
            )
            return
        self._reports.draw(event.report, found[1], reference)
