"""One run of a round: a site with its services and load, from the start to a result.

In: a site, whose services are disturbed by the caller. Out: deviations and a recovery time.
"""

import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from driftline.audit.reconcile import Reconciliation
from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.port import Admin
from driftline.errors import DriftlineError
from driftline.ops.status import INPUTS
from driftline.runtime.partition_clock import AGREEING
from driftline.wire.commit_metadata import handled
from driftline.wire.envelope import decode, rare, retrain_decoder
from driftline.wire.events import RetrainRequest
from driftline.wire.topics import Role, Service
from tests.faults import checks
from tests.faults.entry import Inside
from tests.faults.load import Item, Load
from tests.faults.run import Say, settle
from tests.faults.site import Site
from tests.faults.workers import Slot, Workers
from tests.replay import Written, replayed, written

_LOOK_EVERY_S: Final = 0.2
_REVIVE_EVERY_S: Final = 0.5
# Covers session timeout, back-off of clients and supervisor, and the backlog, on busy cores.
_RECOVERY_PATIENCE_S: Final = 150.0
# Services whose lag is 0 after all is read. The monitor does not commit what an open window needs.
_LAGGING: Final[tuple[Service, ...]] = ("inference", "outcomes")


Accounted = Callable[["Cell"], tuple[Reconciliation, list[str]]]


class Cell:
    """A run with one client and one guarantee. `random` draws what differs between the runs."""

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
        # Offsets of features that were deleted before they were read: [first, end) by partition.
        self.gaps: dict[int, tuple[int, int]] = {}
        self.recreated_after: int | None = None  # number of records in the deleted topic
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
        """Return all workers of a service."""
        return [slot for slot in self.workers.slots if slot.service == service]

    def reached(self) -> int:
        """Return how many records inference has committed."""
        return sum(at for role, at in self._handled("inference") if role == "features")

    def lag(self) -> int:
        """Count the records that inference and outcomes have not handled. Raises DriftlineError."""
        total = 0
        for service in _LAGGING:
            ends = self._ends(service)
            behind = ends - sum(at for _, at in self._handled(service))
            # The transaction marker that ends each predictions partition is never read.
            markers = self.site.scenario.partitions if service == "outcomes" else 0
            total += max(0, behind - markers)
        return total

    def ask(self, id: str, *, since: int | None = None) -> None:
        """Request a retraining manually, so that the champion changes during the fault."""
        request = RetrainRequest(
            id=id,
            cause="manual",
            caused_by=(),
            reason="a fault is near",
            position=None,
            since=since,
        )
        producer = self.site.broker.producer()
        try:
            producer.send(rare(self.site.topics.retrain, request, id=request.id))
            producer.flush()
        finally:
            producer.close()

    def answered(self, request: str) -> bool:
        """Return whether a request was decided, or its challenger is compared with the champion."""
        for message in self.site.messages(self.site.topics.retrain):
            event = decode(retrain_decoder, message)
            if not isinstance(event, RetrainRequest) and event.request == request:
                return True
        return False

    def wait_for(self, true: Callable[[], bool], patience_s: float, what: str) -> None:
        """Wait until the condition is true, even while the broker is down. Raises RuntimeError."""
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
        """Wait until all is sent and handled, and note how long it took. Raises RuntimeError."""
        try:
            self.wait_for(
                lambda: self.load.done and self.lag() == 0, _RECOVERY_PATIENCE_S, "lag is not 0"
            )
        except RuntimeError:
            if not self.load.done:  # not the services' fault
                records, labels = self.load.delivered()
                self.wrong.append(
                    f"the load generator stopped after {records:,} records and {labels:,} labels"
                )
            raise
        self.recovery_s = time.monotonic() - fault_ended_s

    def settle(self) -> Written:
        """Wait for the last window and decision; return what a fresh monitor writes.

        Raises RuntimeError.
        """
        again = settle(self.site, self.workers, self.load, self.say)
        self.wrong += self.workers.left_out()
        return again

    def judge(self, again: Written | None) -> Reconciliation:
        """Compare the topics with what was sent. Call it once the services have stopped."""
        site = self.site
        if again is None:
            again = replayed(site.broker, site.stream, site.models)
        found, wrong = self._accounted(self)
        live, asked = written(site.broker, site.stream), checks.asked(site)
        wrong += checks.of_monitor(live, again, site.folder)
        waiting = set(checks.waiting(self.workers.logs, asked.requests))
        wrong += checks.of_trainer(asked, waiting)
        # After a gap the first records are late, until enough of them confirm the new position.
        # This holds for windows of predictions and for windows of outcomes. A recreated topic has
        # a gap in each partition.
        late = checks.late(live)
        gaps = len(self.gaps) if self.recreated_after is None else site.scenario.partitions
        if late > 2 * (AGREEING - 1) * gaps:
            wrong.append(f"{late} records were late, although the data are in order")
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
            # kafka-python in all runs: librdkafka crashed when a client was closed while it had
            # requests under way to a broker that was gone.
            self._admin = KafkaPythonBroker(self.site.servers, connect_timeout_s=2.0).admin()
        return self._admin

    def forget_admin(self) -> None:
        """Drop the admin client; the next call connects again."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def _all_accounted(cell: Cell) -> tuple[Reconciliation, list[str]]:
    """Check that each record became one prediction and each label one outcome."""
    return checks.of_records(cell.site, *cell.load.sent())
