"""Kill workers at moments that are drawn from a seed and measured by the progress of the run.

In: a site with its workers and feed. Out: killed and restarted processes. A moment is not a time:
slow and fast machines kill workers at the same places of the stream.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Final, Literal

import msgspec

from driftline.wire.envelope import rare
from driftline.wire.events import RetrainRequest
from driftline.wire.topics import SERVICES, Role, Service
from tests.faults.feed import Feed
from tests.faults.meter import Meter
from tests.faults.scenario import Scenario
from tests.faults.site import Site
from tests.faults.workers import Slot, Workers

Way = Literal["output", "work", "start", "rebalance"]

# How far the feed may be ahead of the next kill, so that there is work while a worker is down.
_AHEAD: Final = 0.04
# Short enough to hit a transaction of 200 ms in the middle.
_LOOK_EVERY_S: Final = 0.01
# If no output arrives within this time, kill the worker anyway.
_OUTPUT_PATIENCE_S: Final = 15.0
# A service without progress for this long hangs.
_PATIENCE_S: Final = 240.0
# The topic that grows when a service publishes.
_OUTPUT: Final[dict[Service, Role]] = {
    "inference": "predictions",
    "outcomes": "outcomes",
    "monitor": "windows",
    "trainer": "retrain",
}


class Moment(msgspec.Struct, frozen=True):
    """A moment at which a service is killed, and the way.

    - output: at its next publication, in the middle of that transaction
    - work: `wait_s` after the stream reached `at`
    - start: at once, and its successor `wait_s` after that was started
    - rebalance: at once, and another worker `wait_s` after the successor was started, while the
      group adds the successor
    """

    service: Service
    slot: int
    at: float  # published share of the records: predictions for inference, else outcomes
    way: Way
    wait_s: float


def moments(scenario: Scenario) -> dict[Service, tuple[Moment, ...]]:
    """Draw the moments of each service, one in each equal part of the run."""
    drawn: dict[Service, tuple[Moment, ...]] = {}
    for service in SERVICES:
        random = Random(f"{scenario.seed} {service}")
        count, slots = scenario.kills.get(service, 0), scenario.slots(service)
        ways: list[Way] = ["output", "output", "work", "start"]
        if slots > 1:
            ways.append("rebalance")
        # No moment is in the last twentieth, so that there are records left to recover on.
        drawn[service] = tuple(
            Moment(
                service,
                random.randrange(slots),
                0.01 + 0.94 * (number + random.random()) / count,
                random.choice(ways),
                random.uniform(0.0, 4.0),
            )
            for number in range(count)
        )
    return drawn


class Killers:
    """One killer thread per service. Each works through the moments of its service."""

    def __init__(
        self, site: Site, workers: Workers, feed: Feed, say: Callable[[str], None]
    ) -> None:
        self._site = site
        self._workers = workers
        self._feed = feed
        self._say = say
        self._left = {service: list(own) for service, own in moments(site.scenario).items()}
        self._requests = Random(f"{site.scenario.seed} requests")
        self._gate = threading.Lock()

    def run(self) -> None:
        """Return after the last moment. Raises RuntimeError if the run makes no progress."""
        self._open_gate()
        with ThreadPoolExecutor(len(SERVICES), thread_name_prefix="killer") as pool:
            work = [pool.submit(self._kill_all, service) for service in SERVICES]
            for each in work:
                each.result()

    def _open_gate(self) -> None:
        with self._gate:
            following = [left[0].at for left in self._left.values() if left]
            self._feed.allow(min(following) + _AHEAD if following else 1.0)

    def _kill_all(self, service: Service) -> None:
        meter = Meter(self._site)
        left = self._left[service]
        try:
            while left:
                self._kill_once(left[0], meter)
                left.pop(0)
                self._open_gate()
        finally:
            left.clear()  # if this killer fails, the others must not wait for it
            self._open_gate()
            meter.close()

    def _kill_once(self, moment: Moment, meter: Meter) -> None:
        site, topics = self._site, self._site.topics
        records = self._feed.records
        reached = topics.predictions if moment.service == "inference" else topics.outcomes
        _wait_until(
            lambda: meter.ends(reached) >= moment.at * records,
            _PATIENCE_S,
            f"{reached} did not reach {moment.at:.3f} of the records",
        )
        output = getattr(topics, _OUTPUT[moment.service])
        if moment.service == "trainer":
            self._ask()
        before = meter.ends(output)
        if moment.way == "output":
            for _ in _looks(_OUTPUT_PATIENCE_S):
                if meter.ends(output) > before:
                    break
        elif moment.way == "work":
            time.sleep(moment.wait_s)
        slot = Slot(moment.service, moment.slot)
        self._workers.kill(slot)
        self._workers.start(slot)
        self._say(f"{moment.at:6.1%} {slot} killed ({moment.way})")
        if moment.way in ("start", "rebalance"):
            time.sleep(moment.wait_s)
            others = site.scenario.slots(moment.service)
            number = (moment.slot + (moment.way == "rebalance")) % others
            second = Slot(moment.service, number)
            self._workers.kill(second)
            self._workers.start(second)
            self._say(f"{moment.at:6.1%} {second} killed {moment.wait_s:.1f} s later")

    def _ask(self) -> None:
        """Request a retraining manually, so that the trainer can be killed during one."""
        request = RetrainRequest(
            id=f"retrain-{self._requests.getrandbits(48):012x}",
            cause="manual",
            caused_by=(),
            reason="to be killed in",
            position=None,
            since=None,
        )
        producer = self._site.broker.producer()
        try:
            producer.send(rare(self._site.topics.retrain, request, id=request.id))
            producer.flush()
        finally:
            producer.close()


def _wait_until(true: Callable[[], bool], patience_s: float, what: str) -> None:
    for _ in _looks(patience_s):
        if true():
            return
    raise RuntimeError(f"{what} within {patience_s:g} s")


def _looks(patience_s: float) -> Iterator[None]:
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        yield
        time.sleep(_LOOK_EVERY_S)
