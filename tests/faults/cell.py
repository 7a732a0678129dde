"""One run of a round: a site with its services and load, from the start to a result.

In: a site whose services are disturbed by somebody else. Out: what deviates, and a recovery time.
"""

import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.port import Admin
from driftline.errors import DriftlineError
from driftline.operations import INPUTS
from driftline.partition_clock import AGREEING
from driftline.reconcile import Reconciliation
from driftline.scan import handled
from driftline.topics import Role, Service
from tests.faults import checks
from tests.faults.entry import Inside
from tests.faults.load import Item, Load
from tests.faults.run import Say, settle
from tests.faults.site import Site
from tests.faults.workers import Slot, Workers
from tests.replay import Written, replayed, written

_LOOK_EVERY_S: Final = 0.2
_REVIVE_EVERY_S: Final = 0.5
# Session timeout, back-off of the clients and of a supervisor, and the backlog, on busy cores.
_RECOVERY_PATIENCE_S: Final = 150.0
# Services whose lag is 0 when all was read; the monitor holds back what an open window needs.
_LAGGING: Final[tuple[Service, ...]] = ("inference", "outcomes")


Accounted = Callable[["Cell"], tuple[Reconciliation, list[str]]]


class Cell:
    """A run under one client and one guarantee. `random` draws what differs between runs."""

    def __init__(
        self,
        site: Site,
        messages: Sequence[Item],
        servers: str,
        inside: Inside | None,
        say: Say,
        *,
        accounted: Accounted | None = None,
    ) -> None:
        self.site = site
        self.workers = Workers(site, inside)
        self.inside = inside or Inside()
        self.load = Load(site, messages, servers)
        self.say = say
        self.random = Random(f"{site.scenario.seed} {site.scenario.client} {site.folder.name}")
        self.wrong: list[str] = []
        self.recovery_s: float | None = None
        # Offsets of the features that were deleted unread: [first, end) by partition.
        self.gaps: dict[int, tuple[int, int]] = {}
        self.recreated_after: int | None = None  # so many records were in the topic that is gone
        self._accounted = accounted or _all_accounted
        self._admin: Admin | None = None
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep_alive, daemon=True)

    def start(self) -> None:
        """Start the services. Raises RuntimeError."""
        self.workers.start_all()
        self._keeper.start()

    def stop(self) -> None:
        """Stop services and load."""
        self._done.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.workers.stop_all()
        self.load.close()

    def slots(self, service: Service) -> list[Slot]:
        """All workers of a service."""
        return [slot for slot in self.workers.slots if slot.service == service]

    def reached(self) -> int:
        """How many records inference has committed."""
        return sum(at for role, at in self._handled("inference") if role == "features")

    def lag(self) -> int:
        """Records that inference and outcomes have not handled. Raises DriftlineError."""
        total = 0
        for service in _LAGGING:
            ends = self._ends(service)
            behind = ends - sum(at for _, at in self._handled(service))
            # A marker at the end of each partition of the predictions is never read.
            markers = self.site.scenario.partitions if service == "outcomes" else 0
            total += max(0, behind - markers)
        return total

    def wait_for(self, true: Callable[[], bool], patience_s: float, what: str) -> None:
        """Look until it is true, also while the broker is away. Raises RuntimeError."""
        deadline_s = time.monotonic() + patience_s
        while True:
            try:
                if true():
                    return
            except DriftlineError:
                self.forget_admin()
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{what} within {patience_s:g} s")
            time.sleep(_LOOK_EVERY_S)

    def recover(self, fault_ended_s: float) -> None:
        """Wait until all was sent and handled; notes how long that took. Raises RuntimeError."""
        self.wait_for(
            lambda: self.load.done and self.lag() == 0, _RECOVERY_PATIENCE_S, "lag is not 0"
        )
        self.recovery_s = time.monotonic() - fault_ended_s

    def settle(self) -> Written:
        """Wait for the last window and decision; what a fresh monitor writes. RuntimeError."""
        again = settle(self.site, self.workers, self.load, self.say)
        self.wrong += self.workers.left_out()
        return again

    def judge(self, again: Written | None) -> Reconciliation:
        """Compare the topics with what was sent, once the services have stopped."""
        site = self.site
        if again is None:
            again = replayed(site.broker, site.stream, site.models)
        found, wrong = self._accounted(self)
        live, asked = written(site.broker, site.stream), checks.asked(site)
        wrong += checks.of_monitor(live, again, site.folder)
        waiting = set(checks.waiting(self.workers.logs, asked.requests))
        wrong += checks.of_trainer(asked, waiting)
        # The first records behind a gap are late until enough of them agree, in windows of
        # predictions and of outcomes.
        late = checks.late(live)
        if late > 2 * (AGREEING - 1) * len(self.gaps):
            wrong.append(f"{late} records were late, though the data are in order")
        if self._accounted is _all_accounted:  # else labels of deleted records are dead letters
            wrong += checks.dead_letters(site)
        self.wrong += [*wrong, *self.workers.stubborn]
        return found

    def _keep_alive(self) -> None:
        while not self._done.wait(_REVIVE_EVERY_S):
            self.workers.revive()

    def _handled(self, service: Service) -> list[tuple[Role, int]]:
        names = {topic.name: topic.role for topic in self.site.topics.plan()}
        committed = self._open_admin().group_offsets(self.site.topics.group(service))
        return [(names[at.topic], handled(found)) for at, found in committed.items()]

    def _ends(self, service: Service) -> int:
        names = {topic.role: topic.name for topic in self.site.topics.plan()}
        admin = self._open_admin()
        return sum(
            offsets.end
            for role in INPUTS[service]
            for offsets in admin.offsets(names[role]).values()
        )

    def _open_admin(self) -> Admin:
        if self._admin is None:
            # Of kafka-python for all: librdkafka has crashed where a client was
            # closed while its requests to a broker that had gone were under way.
            self._admin = KafkaPythonBroker(self.site.servers, connect_timeout_s=2.0).admin()
        return self._admin

    def forget_admin(self) -> None:
        """Connect anew at the next question."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def _all_accounted(cell: Cell) -> tuple[Reconciliation, list[str]]:
    """Every record became one prediction, every label one outcome."""
    return checks.of_records(cell.site, *cell.load.sent())
