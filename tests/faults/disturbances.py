"""The faults of `scripts/faults run`. Each disturbs the cluster, or the services of one run.

In: a round or a cell. Out: nothing. Each function returns when its fault is over.
"""

import os
import signal
import time
from pathlib import Path
from typing import Final

from tests.faults import disk, gaps
from tests.faults.cell import Cell
from tests.faults.cluster import Node
from tests.faults.proxy import Mode
from tests.faults.round import Fault, Round
from tests.faults.topic_config import Override

# Messages a second while handlers raise: enough for one batch after another until the end.
_RAISING_RATE: Final = 2000.0


# ---- the broker ---------------------------------------------------------------------------------


def stalled(seconds: float):  # type: ignore[no-untyped-def]
    def act(round: Round) -> None:
        for node in round.cluster.nodes:
            node.stall()
        time.sleep(seconds)
        for node in round.cluster.nodes:
            node.resume()

    return act


def _restarted(round: Round) -> None:
    for node in round.cluster.nodes:
        node.stop()
    time.sleep(round.random.choice((0.0, 5.0, 15.0)))
    round.cluster.heal()


def _down_idle(round: Round) -> None:
    for node in round.cluster.nodes:
        node.stop()
    time.sleep(5.0)
    round.cluster.heal()


def _killed(round: Round) -> None:
    for node in round.cluster.nodes:
        node.kill()
    time.sleep(round.random.choice((0.0, 10.0, 25.0)))
    round.cluster.heal()


def _down_60(round: Round) -> None:
    for node in round.cluster.nodes:
        node.stop()
    time.sleep(60.0)
    round.cluster.heal()


def _one_of_three(round: Round) -> None:
    """Kill a node that is not the controller; it stays dead."""
    controller = round.cluster.controller()
    others = [node for node in round.cluster.nodes if node is not controller]
    _kill(round, round.random.choice(others))


def _controller_of_three(round: Round) -> None:
    _kill(round, round.cluster.controller())


def _kill(round: Round, node: Node) -> None:
    round.say(f"killing node {node.number}")
    node.kill()


def _rolling(round: Round) -> None:
    for node in round.cluster.nodes:
        node.stop()
        time.sleep(1.0)
        node.start()
        round.cluster.wait()


# ---- the network --------------------------------------------------------------------------------


def network(mode: Mode, seconds: float):  # type: ignore[no-untyped-def]
    def act(round: Round) -> None:
        round.cluster.disturb(mode)
        time.sleep(seconds)
        round.cluster.disturb("pass")

    return act


# ---- services -----------------------------------------------------------------------------------


def _service_killed(cell: Cell) -> None:
    slot = cell.random.choice(cell.workers.slots)
    cell.workers.kill(slot)
    time.sleep(cell.random.choice((0.0, 2.0, 12.0)))
    cell.workers.start(slot)


def _service_stalled(cell: Cell) -> None:
    """Suspend a worker while the rest of its group continues."""
    slot = cell.random.choice([slot for slot in cell.workers.slots if slot.service != "trainer"])
    process = cell.workers.process(slot)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(cell.random.choice((5.0, 15.0)))
    os.kill(process.pid, signal.SIGCONT)


def _slot_taken(cell: Cell) -> None:
    """Start a second worker in an occupied slot; the older worker must end."""
    slots = [slot for slot in cell.workers.slots if slot.number == 0]
    slot = slots[cell.site.scenario.seed % len(slots)]
    older = cell.workers.process(slot)
    cell.workers.start(slot)
    cell.wait_for(lambda: older.poll() is not None, 60.0, f"the older worker in {slot} did not end")


def _handler_raises(cell: Cell) -> None:
    """Raise in single batches of inference, outcomes and monitor, then in all batches.

    A single batch raises between batches that succeed. The commit of an earlier, uncommitted batch
    must not include the offsets of the failed one.
    """
    flag = Path(cell.inside.raising or "")
    cell.load.allow(1.0, _RAISING_RATE)
    for service in ("inference", "outcomes", "inference", "monitor", *["inference"] * 2):
        part = flag.with_suffix(".part")
        part.write_text(f"once {service} {cell.random.choice(('', 'after'))}")
        part.replace(flag)
        cell.wait_for(
            lambda: not flag.exists() or (cell.load.done and cell.lag() == 0),
            60.0,
            f"no batch of {service} raised",
        )
        if flag.exists():
            break  # all is read: services are slow when they end at each exception
        time.sleep(cell.random.uniform(0.2, 1.0))
    flag.write_text(cell.random.choice(("always", "always after")))
    time.sleep(cell.random.choice((0.2, 3.0)))
    flag.unlink(missing_ok=True)


def _clock_jumps(cell: Cell) -> None:
    clock = Path(cell.inside.clock or "")
    for offset_s in cell.random.choice(((3600, 0), (-3600, 0), (86_400, -86_400, 0), (30, 60, 0))):
        part = clock.with_suffix(".part")
        part.write_text(str(offset_s))
        part.replace(clock)
        time.sleep(3.0)


# ---- topics -------------------------------------------------------------------------------------


def _refused(cell: Cell) -> None:
    """Lower the size limit of the predictions topic, then of the outcomes topic, for 4 s each."""
    topics = cell.site.topics
    for topic in (topics.predictions, topics.outcomes):
        with Override(cell.site, topic, "max.message.bytes", "100"):
            time.sleep(4.0)


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        Fault(name="broker-stalled-10s", whole=stalled(10)),
        Fault(name="broker-stalled-35s", whole=stalled(35), every=2),
        Fault(name="broker-stalled-75s", whole=stalled(75), every=2),
        Fault(name="broker-stalled-5min", whole=stalled(300), every=6),
        Fault(name="broker-restarted", whole=_restarted),
        Fault(name="broker-down-5s-idle", whole=_down_idle, idle=True),
        Fault(name="broker-down-60s", whole=_down_60, every=3),
        Fault(name="broker-killed", whole=_killed),
        Fault(name="network-dropped", whole=network("refuse", 10), proxied=True),
        Fault(name="network-silent", whole=network("silent", 20), proxied=True),
        Fault(name="network-slow", whole=network("slow", 10), proxied=True),
        Fault(name="network-half-open", whole=network("half", 10), proxied=True),
        Fault(name="service-killed", single=_service_killed),
        Fault(name="service-stalled", single=_service_stalled, workers=2),
        Fault(name="slot-taken-twice", single=_slot_taken),
        Fault(name="handler-raises", single=_handler_raises, inside=True),
        Fault(name="clock-jumps", single=_clock_jumps, inside=True),
        Fault(
            name="state-deleted",
            single=disk.state_deleted,
            inside=True,
            memory_records=2000,
            label_delay=9000,
        ),
        Fault(
            name="disk-full-state",
            single=disk.state_full,
            before=disk.mount("state"),
            after=disk.unmount("state"),
            inside=True,
            memory_records=2000,
            label_delay=9000,
        ),
        Fault(
            name="disk-full-models",
            single=disk.models_full,
            before=disk.mount("models"),
            after=disk.unmount("models"),
        ),
        Fault(name="deliveries-refused", single=_refused),
        Fault(name="retention-passes-reader", single=gaps.retention, accounted=gaps.losses),
        Fault(name="topic-recreated", single=gaps.recreated, accounted=gaps.losses),
        Fault(name="broker-of-three-killed", whole=_one_of_three, nodes=3, lasting=True),
        Fault(name="controller-of-three-killed", whole=_controller_of_three, nodes=3, lasting=True),
        Fault(name="rolling-restart", whole=_rolling, nodes=3),
    )
}
