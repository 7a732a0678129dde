"""Run a round: runs with several clients and guarantees, side by side, under the same fault.

In: a fault, a seed, a cluster. Out: a `Result` for each run. The runs go side by side because each
mostly waits: for the broker, for a session to time out, for a window to close.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from driftline.audit.reconcile import Reconciliation
from driftline.config.stream_sections import Client, Delivery
from driftline.errors import DriftlineError
from tests.faults import evidence
from tests.faults.base import Base, delete_topics, make_site
from tests.faults.cell import Accounted, Cell
from tests.faults.cluster import Cluster
from tests.faults.entry import Inside
from tests.faults.load import Item, items
from tests.faults.results import Result
from tests.faults.run import Say
from tests.faults.scenario import Scenario
from tests.faults.site import Site

Kind = tuple[Client, Delivery]

KINDS: Final[tuple[Kind, ...]] = (
    ("librdkafka", "exactly_once"),
    ("librdkafka", "at_least_once"),
    ("kafka-python", "exactly_once"),
    ("kafka-python", "at_least_once"),
)
# Shares of the load that are sent before the fault, and by its end.
_BEFORE: Final = 0.4
_DURING: Final = 0.75
_RATE: Final = 2000.0  # messages a second during the fault, so that it always meets some
_REACH_PATIENCE_S: Final = 120.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of fault. `whole` disturbs the cluster of all runs, `single` disturbs one run.

    Both return when the fault is over. The cluster is then repaired, but after a `lasting` fault
    only when the stream has recovered.
    """

    name: str
    whole: "Callable[[Round], None] | None" = None
    single: Callable[[Cell], None] | None = None
    before: Callable[[Cell], None] | None = None  # prepares a run, before its services start
    after: Callable[[Cell], None] | None = None  # cleans up what `before` made
    nodes: int = 1
    proxied: bool = False
    lasting: bool = False
    idle: bool = False  # the stream is idle when the fault begins
    every: int = 1  # run it only in every n-th round, because it takes long
    workers: int | None = None  # None: the seed draws the number
    label_delay: int = 50
    inside: bool = False  # start the services by `tests.faults.entry`
    memory_records: int | None = None
    accounted: Accounted | None = None  # checks the records if the fault loses some


class Round:
    """One fault and its runs. `random` draws what all runs share."""

    def __init__(
        self,
        fault: Fault,
        seed: int,
        kinds: Sequence[Kind],
        base: Base,
        cluster: Cluster,
        folder: Path,
        *,
        commit: str,
        say: Say,
    ) -> None:
        self.fault = fault
        self.seed = seed
        self.cluster = cluster
        self.random = Random(f"{seed} {fault.name}")
        self.say = say
        self.cells: list[Cell] = []
        self._workers = fault.workers or self.random.choice((1, 1, 2))
        self._kinds = kinds
        self._base = base
        self._folder = folder
        self._commit = commit

    def run(self) -> list[Result]:
        """Run the round. Raises DriftlineError or RuntimeError if it cannot start."""
        with ThreadPoolExecutor(len(self._kinds)) as pool:
            self.cells = list(pool.map(self._prepare, self._kinds))
            began_s = time.monotonic()
            try:
                self._each(pool, Cell.start)
                for cell in self.cells:
                    cell.load.allow(_BEFORE)
                self._disturb(pool)
                ended_s = time.monotonic()
                for cell in self.cells:
                    cell.load.allow(1.0)
                self._each(pool, lambda cell: cell.recover(ended_s))
                self.cluster.heal()
                results = list(pool.map(lambda cell: self._finish(cell, began_s), self.cells))
            finally:
                list(pool.map(Cell.stop, self.cells))
                self.cluster.heal()
        return results

    def name(self, client: Client, delivery: Delivery) -> str:
        """Return the name of a run's folder."""
        return f"{self.fault.name}-{self.seed}-{client}-{delivery}"

    def _prepare(self, kind: Kind) -> Cell:
        fault, cluster = self.fault, self.cluster
        client, delivery = kind
        name = self.name(client, delivery)
        scenario = Scenario(
            data=self._base.data,
            client=client,
            seed=self.seed,
            workers=self._workers,
            delivery=delivery,
            retraining=False,  # only the harness requests one
            # A partition without a leader is silent while others advance, and after an outage the
            # load's client may repeat its records later than others. They must not be late.
            idle_s=10 if fault.nodes == 1 else 30,
            replication=min(3, fault.nodes),
            label_delay=fault.label_delay,
        )
        folder = self._folder / name
        proxied = cluster.proxied_servers if fault.proxied else None
        site = make_site(
            self._base,
            scenario,
            cluster.servers,
            folder,
            f"f{self._folder.name[-4:]}-{name}-",
            services_servers=proxied,
        )
        inside = None
        if fault.inside:
            (folder / "clock").write_text("0")
            inside = Inside(
                clock=str(folder / "clock"),
                raising=str(folder / "raising"),
                memory_records=fault.memory_records,
            )
        cell = Cell(
            site, _items(site), cluster.servers, inside, self.say, accounted=fault.accounted
        )
        if fault.before is not None:
            fault.before(cell)
        return cell

    def _disturb(self, pool: ThreadPoolExecutor) -> None:
        """Wait until a share of the stream is processed, then cause the fault and end it."""
        fault = self.fault
        share = self.random.uniform(0.05, 0.3)

        def arrive(cell: Cell) -> None:
            if fault.idle:
                cell.wait_for(
                    lambda: cell.load.idle and cell.lag() == 0, 120, "not all records were read"
                )
            else:
                wanted = share * cell.load.records
                cell.wait_for(
                    lambda: cell.reached() >= wanted,
                    _REACH_PATIENCE_S,
                    f"inference did not commit {wanted:.0f} records",
                )
                cell.load.allow(_DURING, _RATE)
            if not fault.idle and self.seed % 3 == 0:
                cell.ask(f"retrain-{self.seed:012x}")
            if fault.single is not None:
                self.say(f"{cell.site.scenario.words}: {fault.name}")
                fault.single(cell)

        if fault.whole is None:
            self._each(pool, arrive)
            return
        self._guarded(self.random.choice(self.cells), arrive)
        for cell in self.cells:
            if not fault.idle:
                cell.load.allow(_DURING, _RATE)
        self.say(f"{fault.name} begins")
        fault.whole(self)
        self.say(f"{fault.name} is over")
        if not fault.lasting:
            self.cluster.heal()

    def _each(self, pool: ThreadPoolExecutor, work: Callable[[Cell], None]) -> None:
        """Do the work for all runs in parallel."""
        list(pool.map(lambda cell: self._guarded(cell, work), self.cells))

    @staticmethod
    def _guarded(cell: Cell, work: Callable[[Cell], None]) -> None:
        """Do the work and record an error as a deviation of the run."""
        try:
            work(cell)
        except (RuntimeError, TimeoutError, DriftlineError) as error:
            cell.wrong.append(str(error) or type(error).__name__)

    def _finish(self, cell: Cell, began_s: float) -> Result:
        again, found = None, None
        try:
            if not cell.wrong:
                again = cell.settle()
            else:
                cell.wrong += cell.workers.left_out()
        except (RuntimeError, DriftlineError) as error:
            cell.wrong.append(str(error))
        finally:
            cell.stop()
        run_s = time.monotonic() - began_s
        try:
            found = cell.judge(again)
        except (RuntimeError, DriftlineError) as error:
            cell.wrong.append(f"could not judge the run: {error}")
        if self.fault.after is not None:
            self.fault.after(cell)
        result = self._result(cell, found, run_s)
        (cell.site.folder / "result.json").write_bytes(msgspec.json.encode(result))
        try:
            if not result.good:
                evidence.keep(cell.site)
            delete_topics(cell.site)
        except (OSError, DriftlineError) as error:
            self.say(f"{cell.site.folder.name}: could not save or delete its topics: {error}")
        return result

    def _result(self, cell: Cell, found: Reconciliation | None, run_s: float) -> Result:
        records, labels = cell.load.sent()
        scenario = cell.site.scenario
        exactly_once = scenario.delivery == "exactly_once"
        lost = doubled = again = deleted = 0
        if found is not None:
            lost = found.missing + found.waiting + found.labels.missing + found.labels.waiting
            if self.fault.accounted is None:
                lost += max(0, records - found.records) + max(0, labels - found.labels.total)
            else:  # labels of deleted records wait forever
                lost = found.missing + found.waiting + found.labels.missing
                deleted = max(0, records - found.predictions)
            again = found.redelivered
            doubled = found.doubled_outcomes + found.revised + (again if exactly_once else 0)
        return Result(
            commit=self._commit,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            scenario=self.fault.name,
            client=scenario.client,
            delivery=scenario.delivery,
            seed=self.seed,
            workers=scenario.workers,
            records=records,
            labels=labels,
            deleted=deleted,
            lost=lost,
            duplicated=doubled,
            redelivered=again,
            restarts=len(cell.workers.fallen),
            recovery_s=None if cell.recovery_s is None else round(cell.recovery_s, 1),
            run_s=round(run_s, 1),
            deviations=tuple(cell.wrong),
        )


_known: dict[tuple[str, int], tuple[Item, ...]] = {}


def _items(site: Site) -> tuple[Item, ...]:
    """Return the messages of a site; sites with the same data and label delay share them."""
    scenario = site.scenario
    key = scenario.data.source, scenario.label_delay
    if key not in _known:
        _known[key] = items(site)
    return _known[key]
