"""Faults that lose records by themselves: retention passes a reader, a topic is made anew.

What is lost is known exactly; it must be reported, and nothing else may be missing.
"""

import time
from typing import Final

from driftline.broker.port import NewTopic
from tests.faults.cell import Cell
from tests.faults.topic_config import delete_before

_PATIENCE_S: Final = 60.0


def retention(cell: Cell) -> None:
    """Delete records that inference has not read, while it is stopped."""
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
    """Delete the features with all that is in them and create the topic again, services running."""
    cell.load.allow(0.75)
    cell.load.wait(_PATIENCE_S)
    site = cell.site
    plan = next(topic for topic in site.topics.creation() if topic.name == site.topics.features)
    admin = site.broker.admin()
    try:
        committed = admin.group_offsets(site.topics.group("inference"))
        ends = admin.offsets(plan.name)
        admin.delete([plan.name])
        time.sleep(cell.random.choice((0.0, 5.0)))
        admin.create([NewTopic(plan.name, plan.partitions, plan.replication_factor, plan.config)])
    finally:
        admin.close()
    cell.recreated = {
        at.partition: (committed[at].offset if at in committed else 0, offsets.end)
        for at, offsets in ends.items()
    }
    cell.load.renew()
