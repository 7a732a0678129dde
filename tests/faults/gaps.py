"""Faults that lose records by design: retention passes a reader, or a topic is recreated.

The lost records are known exactly. They must be reported, and nothing else may be missing.
"""

import time
from typing import Final

from driftline.audit.reconcile import Reconciliation, reconcile
from driftline.broker.port import NewTopic
from driftline.broker.scan import ranges, size
from driftline.wire.envelope import decode, drift_decoder
from tests.faults.cell import Cell
from tests.faults.topic_config import delete_before

_PATIENCE_S: Final = 60.0


def retention(cell: Cell) -> None:
    """Delete records that inference has not read, while inference is stopped."""
    slots = cell.slots("inference")
    for slot in slots:
        cell.workers.stop(slot)
    cell.load.allow(0.75)
    cell.load.wait(_PATIENCE_S)
    topic, admin = cell.site.topics.features, cell.site.broker.admin()
    try:
        committed = admin.group_offsets(cell.site.topics.group("inference"))
        gaps = {}
        for partition, offsets in admin.offsets(topic).items():
            at = committed[partition].offset
            gaps[partition.partition] = at, at + (offsets.end - at) * 3 // 5
    finally:
        admin.close()
    delete_before(cell.site, topic, {partition: gap[1] for partition, gap in gaps.items()})
    cell.gaps = {partition: gap for partition, gap in gaps.items() if gap[0] < gap[1]}
    for slot in slots:
        cell.workers.start(slot)


def recreated(cell: Cell) -> None:
    """Delete the features topic with its records and create it again, while services run."""
    cell.load.allow(0.75)
    cell.load.wait(_PATIENCE_S)
    site = cell.site
    plan = next(topic for topic in site.topics.creation() if topic.name == site.topics.features)
    admin = site.broker.admin()
    try:
        admin.delete([plan.name])
        time.sleep(cell.random.choice((0.0, 5.0)))
        admin.create([NewTopic(plan.name, plan.partitions, plan.replication_factor, plan.config)])
    finally:
        admin.close()
    cell.recreated_after = cell.load.sent()[0]
    cell.load.renew()


def losses(cell: Cell) -> tuple[Reconciliation, list[str]]:
    """Check that the lost records are reported and that nothing else is missing.

    They must be reported with their ranges and as a quality event.
    """
    site = cell.site
    found = reconcile(site.broker, site.stream)
    topic = site.topics.features
    reported = {(one.topic, one.partition, one.start, one.end) for one in found.lost}
    records, labels = cell.load.sent()
    if cell.recreated_after is None:
        expected = {(topic, partition, *gap) for partition, gap in cell.gaps.items()}
        wrong = _unlike("lost ranges", reported, expected)
        lost = sum(end - start for start, end in cell.gaps.values())
        wrong += _unlike("labels joined", found.labels.joined, labels - lost)
        left = size(ranges(site.broker, [topic]))
    else:
        again = {(name, partition) for name, partition, _, end in reported if end is None}
        partitions = {(topic, partition) for partition in range(site.scenario.partitions)}
        wrong = _unlike("partitions of the recreated topic", again, partitions)
        left = records - cell.recreated_after
    wrong += _unlike("records", found.records, left)
    wrong += _unlike("predictions", found.predictions, left)
    for name in ("missing", "waiting", "dead_letters", "doubled_outcomes"):
        wrong += _unlike(name, getattr(found, name), 0)
    wrong += _unlike("labels missing", found.labels.missing, 0)
    events = [decode(drift_decoder, message) for message in site.messages(site.topics.drift)]
    if not any(event.kind == "quality" and event.action == "opened" for event in events):
        wrong.append("no quality event was opened for the lost records")
    return found, wrong


def _unlike(what: str, found: object, expected: object) -> list[str]:
    return [] if found == expected else [f"reconcile: {what}: {found}, not {expected}"]
