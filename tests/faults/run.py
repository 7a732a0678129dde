"""Run one scenario with kills, from an empty site to a verdict.

In: a scenario, the address of a Kafka, a folder. Out: a `Verdict`. The folder keeps the logs, and
both the live and the replayed windows and drift events.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from driftline.audit.reconcile import Reconciliation
from driftline.broker.scan import ranges, size
from driftline.models.keys import Trusted
from driftline.ops.processes import folder_of
from driftline.ops.status import status
from driftline.ops.workers import look_at_workers
from tests.faults import checks
from tests.faults.feed import Feed
from tests.faults.killers import Killers
from tests.faults.scenario import Scenario
from tests.faults.site import Site, prepare
from tests.faults.workers import Workers
from tests.replay import Written, replayed, written

Say = Callable[[str], None]

# Several times the sum of a session timeout, a start on few cores and a retraining.
_SETTLE_PATIENCE_S: Final = 240.0
_LOOK_EVERY_S: Final = 0.5


class Verdict(msgspec.Struct, frozen=True):
    """The result of one run. `deviations` is empty if all guarantees held."""

    scenario: Scenario
    deviations: tuple[str, ...]
    replay_equal: bool  # whether windows and drift events are equal
    killed: int
    fallen: tuple[str, ...]  # processes that ended by themselves
    windows: int
    drift: int
    late: int  # records that were late for their window; 0 is expected
    requests: int
    models: int
    reconciled: Reconciliation | None
    run_s: float  # from the first record to the last result
    folder: str

    @property
    def good(self) -> bool:
        """Return whether nothing deviates."""
        return not self.deviations


def run(
    scenario: Scenario,
    servers: str,
    folder: Path,
    *,
    prefix: str,
    like: Site | None = None,
    say: Say = lambda line: None,
) -> tuple[Verdict, Site, Written]:
    """Run the scenario. Return also the site and what its monitor wrote, to compare runs.

    Raises RuntimeError if the run cannot start. Later errors are deviations.
    """
    say(scenario.words)
    site = prepare(scenario, servers, folder, prefix=prefix, like=like)
    workers = Workers(site)
    feed = Feed(site)
    wrong: list[str] = []
    began_s = time.monotonic()
    again: Written | None = None
    done = threading.Event()
    keeper = threading.Thread(target=_keep_alive, args=(workers, done), daemon=True)
    try:
        workers.start_all()
        began_s = time.monotonic()
        keeper.start()
        Killers(site, workers, feed, say).run()
        again = settle(site, workers, feed, say)
    except RuntimeError as error:
        wrong.append(str(error))
    finally:
        ended_s = time.monotonic()
        done.set()
        if keeper.is_alive():
            keeper.join()
        workers.stop_all()
    return _judged(site, workers, feed, wrong, again, ended_s - began_s)


def _keep_alive(workers: Workers, done: threading.Event) -> None:
    while not done.wait(_LOOK_EVERY_S):
        workers.revive()


class Fed(Protocol):
    """A sender of records."""

    @property
    def done(self) -> bool:
        """Return whether all records are sent and confirmed."""


def settle(site: Site, workers: Workers, feed: Fed, say: Say) -> Written:
    """Wait until all is processed; return what a fresh monitor writes. Raises RuntimeError."""
    deadline_s = time.monotonic() + _SETTLE_PATIENCE_S
    quiet_s = site.scenario.idle_s + 2.0
    last: tuple[dict[str, int], int] | None = None
    since_s = time.monotonic()
    while True:
        if feed.done:
            now = _unread(site), _hot(site)
            if now != last:
                last, since_s = now, time.monotonic()
            if not any(now[0].values()) and time.monotonic() - since_s > quiet_s:
                break
        _look_again(deadline_s, f"unread: {last}")
    say(
        f"all records are read; {len(workers.killed)} workers were killed, "
        f"{len(workers.fallen)} ended by themselves; replaying"
    )
    again = replayed(site.broker, site.stream, site.models)
    while True:
        live = written(site.broker, site.stream)
        found = checks.asked(site)
        waiting = set(checks.waiting(workers.logs, found.requests))
        unanswered = set(found.requests) - set(found.decisions) - waiting
        if (
            len(live.windows) >= len(again.windows)
            and len(live.drift) >= len(again.drift)
            and not unanswered
        ):
            return again
        _look_again(
            deadline_s,
            f"{len(live.windows)} of {len(again.windows)} windows, {len(live.drift)} of "
            f"{len(again.drift)} drift events, {len(unanswered)} requests unanswered",
        )


def _look_again(deadline_s: float, state: str) -> None:
    if time.monotonic() > deadline_s:
        raise RuntimeError(f"not finished after {_SETTLE_PATIENCE_S:g} s: {state}")
    time.sleep(_LOOK_EVERY_S)  # wait for other processes, which show progress by commits


def _unread(site: Site) -> dict[str, int]:
    """Return the lag of inference and the join, without the marker that ends a partition."""
    folder = folder_of(site.settings, site.stream)
    here = look_at_workers(folder, None, now=datetime.now(UTC))
    found = status(site.broker, site.stream, here, Trusted(site.settings.keys))
    markers = {"predictions": site.scenario.partitions}
    return {
        f"{service.service} {role}": max(0, lag - markers.get(role, 0))
        for service in found.services
        if service.service in ("inference", "outcomes")
        for role, lag in service.lag.items()
    }


def _hot(site: Site) -> int:
    """Return the size of the topics that determine the monitor's output, in offsets."""
    return size(ranges(site.broker, [site.topics.predictions, site.topics.outcomes]))


def _judged(
    site: Site,
    workers: Workers,
    feed: Feed,
    wrong: list[str],
    again: Written | None,
    run_s: float,
) -> tuple[Verdict, Site, Written]:
    records = None
    if feed.done:
        records, deviations = checks.of_records(site, feed.records, feed.labels)
        wrong += deviations
    else:
        wrong.append("not all records were sent")
    if again is None:
        again = replayed(site.broker, site.stream, site.models)
    live, found = written(site.broker, site.stream), checks.asked(site)
    unlike = checks.of_monitor(live, again, site.folder)
    wrong += unlike
    wrong += checks.of_trainer(found, set(checks.waiting(workers.logs, found.requests)))
    wrong += [*workers.fallen, *workers.stubborn]
    late = checks.late(live)
    if late:
        wrong.append(f"{late} records were late, although the data are in order")
    verdict = Verdict(
        scenario=site.scenario,
        deviations=tuple(wrong),
        replay_equal=not unlike,
        killed=len(workers.killed),
        fallen=tuple(workers.fallen),
        windows=len(live.windows),
        drift=len(live.drift),
        late=late,
        requests=len(found.requests),
        models=sum(found.models.values()),
        reconciled=records,
        run_s=round(run_s, 1),
        folder=str(site.folder),
    )
    (site.folder / "verdict.json").write_bytes(msgspec.json.encode(verdict))
    return verdict, site, live
