"""`scripts/faults soak`: run a stream under `driftline up` alone, with a fault every two minutes.

In: options of the command. Out: samples of lag, memory and log sizes, a plot and a verdict. The
harness starts a Kafka of its own. It restarts no service: that is the task of `up`.
"""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Annotated, Final

import msgspec
import numpy as np
import psutil
import typer

from driftline.errors import DriftlineError
from driftline.ops.processes import ServiceState, folder_of, read_states
from tests.faults import checks, plot, results
from tests.faults import scenario as scenarios
from tests.faults.base import make_base, make_site
from tests.faults.cell import Cell
from tests.faults.cluster import Cluster
from tests.faults.load import items
from tests.faults.proxy import Mode
from tests.faults.scenario import Scenario
from tests.faults.topic_config import Override
from tests.replay import written

# Records; small, so that the join is full long before memory is judged.
_HORIZON: Final = 30_000
_SAMPLE_EVERY_S: Final = 5.0
_START_PATIENCE_S: Final = 180.0
# The load pauses this long before the next fault, so that the lag can reach 0.
_QUIET_S: Final = 20.0
_MOST_LOG_BYTES: Final = 10_000_000
# Limit of the memory growth over the last two thirds, as a share of the mean.
_MOST_GROWTH: Final = 0.10
# A librdkafka client has at least four threads, so a leaked client exceeds this limit.
_MOST_NEW_THREADS: Final = 3


class Sample(msgspec.Struct, frozen=True):
    """One sample. `lag` is None while the broker does not respond."""

    minute: float
    lag: int | None
    rss_mb: dict[str, float]
    threads: dict[str, int]
    log_mb: dict[str, float]
    pids: dict[str, int]


class Event(msgspec.Struct, frozen=True):
    """A fault and the time until the lag was small again; None if the lag did not reach 0."""

    minute: float
    name: str
    recovery_s: float | None


class Soaked(msgspec.Struct, frozen=True):
    """The result of a soak."""

    commit: str
    client: str
    delivery: str
    seed: int
    minutes: float
    records: int
    labels: int
    lost: int
    duplicated: int
    faults: tuple[Event, ...]
    growth: dict[str, float]  # of memory over the last two thirds, as a share of the mean
    log_mb: dict[str, float]
    deviations: tuple[str, ...]


def soak(
    minutes: Annotated[float, typer.Option(help="Duration in minutes.")] = 60.0,
    every: Annotated[int, typer.Option(min=30, help="Seconds between the starts of faults.")] = 120,
    client: Annotated[
        str, typer.Option(help="Kafka client: librdkafka or kafka-python.")
    ] = "librdkafka",
    delivery: Annotated[
        str, typer.Option(help="Delivery of inference: exactly_once or at_least_once.")
    ] = "exactly_once",
    rate: Annotated[int, typer.Option(min=10, help="Feature records per second.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed for the faults.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for all files. Default: .driftline/soak/TIME.")
    ] = None,
) -> None:
    """Run a stream under `driftline up` alone, with a random fault every two minutes.

    Samples lag, log sizes, and the memory and threads of each service every 5 s. Writes
    samples.jsonl, soak.json and soak.svg. Exits with 1 unless the lag returned to 0 after each
    fault, memory and threads are flat, each log is below 10 MB, and nothing is lost or duplicated.

    Example: scripts/faults soak --minutes 60 --every 120
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    now = datetime.now().strftime("%Y%m%dT%H%M%S")
    place = (folder or Path(".driftline/soak") / now).absolute()
    place.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(place / "kafka")
    try:
        cluster.up()
        records = int(minutes * 60 * rate) + 20_000
        base = make_base(scenarios.sea(place, records), cluster.servers, place / "base")
        scenario = Scenario(
            data=base.data,
            client=client,  # type: ignore[arg-type]  # checked by the settings
            delivery=delivery,  # type: ignore[arg-type]
            seed=seed,
            workers=1,
            retraining=False,
            horizon=_HORIZON,
        )
        site = make_site(
            base,
            scenario,
            cluster.servers,
            place / "run",
            "soak-",
            services_servers=cluster.proxied_servers,
        )
        cell = Cell(site, items(site), cluster.servers, None, print)
        run = _Soak(cell, cluster, place, rate=rate, every_s=every, seed=seed)
        found = run.run(minutes)
    finally:
        cluster.down()
    print(msgspec.json.format(msgspec.json.encode(found)).decode())
    if found.deviations:
        sys.exit(1)


class _Soak:
    def __init__(
        self, cell: Cell, cluster: Cluster, place: Path, *, rate: int, every_s: int, seed: int
    ) -> None:
        self._cell = cell
        self._cluster = cluster
        self._place = place
        self._rate = 2.0 * rate  # a label for each record
        self._every_s = every_s
        self._random = Random(f"{seed} soak")
        self._states = folder_of(cell.site.settings, cell.site.stream)
        self._samples: list[Sample] = []
        self._events: list[Event] = []
        self._wrong: list[str] = []
        self._began_s = 0.0

    def run(self, minutes: float) -> Soaked:
        up = self._start_up()
        self._began_s = time.monotonic()
        end_s = self._began_s + minutes * 60
        try:
            self._flow()
            while time.monotonic() + self._every_s <= end_s:
                self._one_fault()
            self._pause()
            self._cell.load.wait(60.0)
            self._finish()
        finally:
            self._driftline("down", str(self._cell.site.file))
            if up.poll() is None:
                up.terminate()
                up.wait(60)
            self._cell.load.close()
        return self._judged(minutes)

    # ---- faults -------------------------------------------------------------------------------

    def _one_fault(self) -> None:
        name, act = self._random.choice(tuple(self._faults().items()))
        began_s = time.monotonic()
        self._sample_for(5.0)
        minute = self._minute()
        self._say(f"starting fault: {name}")
        act()
        self._cluster.heal()
        over_s = time.monotonic()
        # The load continues, then pauses, so that the lag can reach 0.
        next_s = began_s + self._every_s
        self._sample_for(max(5.0, next_s - _QUIET_S - time.monotonic()))
        self._pause()
        recovery_s = None
        while time.monotonic() < max(next_s, over_s + _QUIET_S + 10.0):
            if self._sample().lag == 0:
                recovery_s = round(self._recovered_at(minute, over_s) - over_s, 1)
                break
            time.sleep(1.0)
        self._events.append(Event(round(minute, 2), name, recovery_s))
        if recovery_s is None:
            self._wrong.append(
                f"lag did not return to 0 before the next fault: {name} at {minute:.1f} min"
            )
        self._say(
            f"{name}: "
            + ("not recovered" if recovery_s is None else f"recovered after {recovery_s} s")
        )
        self._flow()
        self._sample_for(max(0.0, next_s - time.monotonic()))

    def _recovered_at(self, minute: float, over_s: float) -> float:
        """Return the time at which lag was first at most two seconds of traffic."""
        for sample in self._samples:
            at_s = self._began_s + sample.minute * 60
            if at_s >= over_s and sample.lag is not None and sample.lag <= 2 * self._rate:
                return at_s
        return time.monotonic()

    def _faults(self) -> Mapping[str, Callable[[], None]]:
        node = self._cluster.nodes[0]

        def stalled() -> None:
            node.stall()
            self._sample_for(self._random.choice((10.0, 35.0)))
            node.resume()

        def restarted() -> None:
            node.stop()
            self._sample_for(self._random.choice((0.0, 10.0)))

        def killed() -> None:
            node.kill()
            self._sample_for(self._random.choice((0.0, 10.0, 25.0)))

        def network(mode: Mode) -> Callable[[], None]:
            def act() -> None:
                self._cluster.disturb(mode)
                self._sample_for(self._random.choice((5.0, 15.0)))

            return act

        def service_killed() -> None:
            state = self._random.choice(read_states(self._states))
            self._say(f"sending kill -9 to {state.service}-{state.slot}")
            self._signal(state, signal.SIGKILL)

        def service_stalled() -> None:
            state = self._random.choice(read_states(self._states))
            self._say(f"suspending {state.service}-{state.slot} for 15 s")
            self._signal(state, signal.SIGSTOP)
            self._sample_for(15.0)
            self._signal(state, signal.SIGCONT)

        def refused() -> None:
            topics = self._cell.site.topics
            for topic in (topics.predictions, topics.outcomes):
                with Override(self._cell.site, topic, "max.message.bytes", "100"):
                    self._sample_for(4.0)

        return {
            "broker stalled": stalled,
            "broker restarted": restarted,
            "broker killed": killed,
            "network dropped": network("refuse"),
            "network silent": network("silent"),
            "network half-open": network("half"),
            "service killed": service_killed,
            "service stalled": service_stalled,
            "deliveries refused": refused,
        }

    @staticmethod
    def _signal(state: ServiceState, sign: signal.Signals) -> None:
        try:
            os.kill(state.pid, sign)
        except ProcessLookupError:
            return  # it is being restarted

    # ---- the stream -----------------------------------------------------------------------------

    def _start_up(self) -> "subprocess.Popen[bytes]":
        with (self._place / "up.log").open("ab") as log:
            process = subprocess.Popen(
                self._command("up", str(self._cell.site.file)),
                env={**os.environ, **self._cell.site.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _START_PATIENCE_S
        while sum(state.state == "running" for state in read_states(self._states)) < 4:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"`up` did not start four services; see {self._place}/up.log")
            time.sleep(0.5)
        return process

    def _flow(self) -> None:
        self._cell.load.allow(1.0, self._rate)

    def _pause(self) -> None:
        self._cell.load.pause()

    def _driftline(self, *arguments: str) -> None:
        subprocess.run(
            self._command(*arguments),
            env={**os.environ, **self._cell.site.environment},
            capture_output=True,
            timeout=120,
            check=False,
        )

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "driftline_app.cli", *arguments]

    # ---- samples --------------------------------------------------------------------------------

    def _minute(self) -> float:
        return (time.monotonic() - self._began_s) / 60

    def _sample_for(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if left_s >= _SAMPLE_EVERY_S:
                self._sample()
            time.sleep(min(_SAMPLE_EVERY_S, max(0.0, until_s - time.monotonic())))

    def _sample(self) -> Sample:
        try:
            lag: int | None = self._cell.lag()
        except DriftlineError:
            lag = None
            self._cell.forget_admin()
        rss, threads, pids = dict[str, float](), dict[str, int](), dict[str, int]()
        for state in read_states(self._states):
            name = f"{state.service}-{state.slot}"
            pids[name] = state.pid
            try:
                process = psutil.Process(state.pid)
                rss[name] = process.memory_info().rss / 1e6
                threads[name] = process.num_threads()
            except psutil.NoSuchProcess:
                continue
        logs = {
            path.name: path.stat().st_size / 1e6 for path in sorted(self._states.glob("*.log*"))
        }
        sample = Sample(round(self._minute(), 3), lag, rss, threads, logs, pids)
        self._samples.append(sample)
        with (self._place / "samples.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(sample) + b"\n")
        return sample

    def _say(self, line: str) -> None:
        print(f"{self._minute():6.1f} min  {line}", file=sys.stderr, flush=True)

    # ---- the end --------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._cell.wait_for(
            lambda: self._cell.lag() == 0, 120.0, "lag did not return to 0 at the end"
        )
        states = read_states(self._states)
        self._wrong += [
            f"{s.service}-{s.slot} is {s.state} at the end" for s in states if s.state != "running"
        ]

    def _judged(self, minutes: float) -> Soaked:
        site = self._cell.site
        records, labels = self._cell.load.delivered()
        found, wrong = checks.of_records(site, records, labels)
        self._wrong += wrong + checks.published_twice(written(site.broker, site.stream))
        growth = _growth(self._samples)
        for name, share in growth.items():
            if share > _MOST_GROWTH:
                self._wrong.append(f"memory of {name} grew by {share:.0%}")
        self._wrong += more_threads(self._samples, 2 * self._every_s / 60)
        logs = self._samples[-1].log_mb if self._samples else {}
        for name in sorted({name for sample in self._samples for name in sample.log_mb}):
            most = max(sample.log_mb.get(name, 0.0) for sample in self._samples)
            if most * 1e6 >= _MOST_LOG_BYTES:
                self._wrong.append(f"{name} grew to {most:.1f} MB")
        lost = found.missing + found.waiting + found.labels.missing + found.labels.waiting
        soaked = Soaked(
            commit=results.commit(),
            client=site.scenario.client,
            delivery=site.scenario.delivery,
            seed=site.scenario.seed,
            minutes=minutes,
            records=records,
            labels=labels,
            lost=lost,
            duplicated=found.doubled_outcomes
            + (found.redelivered if site.scenario.delivery == "exactly_once" else 0),
            faults=tuple(self._events),
            growth=growth,
            log_mb=logs,
            deviations=tuple(self._wrong),
        )
        (self._place / "soak.json").write_bytes(msgspec.json.format(msgspec.json.encode(soaked)))
        (self._place / "soak.svg").write_text(_drawn(self._samples, self._events), "utf-8")
        return soaked


def _growth(samples: list[Sample]) -> dict[str, float]:
    """Return the growth of each service's memory over the last two thirds, as a share of its mean.

    It is taken from a fitted line. A process that was restarted is measured from its start.
    """
    growth: dict[str, float] = {}
    late = samples[len(samples) // 3 :]
    for name in sorted({name for sample in late for name in sample.rss_mb}):
        worst = 0.0
        for pid in {sample.pids[name] for sample in late if name in sample.pids}:
            points = [
                (sample.minute, sample.rss_mb[name])
                for sample in late
                if sample.pids.get(name) == pid and name in sample.rss_mb
            ][12:]  # without the first minute, in which caches fill
            if len(points) < 24:
                continue
            at, mb = np.array(points).T
            slope = float(np.polyfit(at, mb, 1)[0])
            worst = max(worst, slope * float(at[-1] - at[0]) / float(mb.mean()))
        growth[name] = round(worst, 3)
    return growth


def more_threads(samples: Sequence[Sample], period: float) -> list[str]:
    """Return a line for each process that has more threads in its last `period` minutes than in
    its first.

    The lower quartiles are compared: during a fault, clients are missing, and after it, the threads
    of failed clients may take two minutes to end. Processes that ran for less than two periods are
    ignored.
    """
    threads = defaultdict[tuple[str, int], list[tuple[float, int]]](list)
    for sample in samples:
        for name, count in sample.threads.items():
            threads[name, sample.pids[name]].append((sample.minute, count))
    wrong = []
    for (name, _), points in threads.items():
        start, end = points[0][0], points[-1][0]
        if end - start < 2 * period:
            continue
        first = _lower_quartile(count for minute, count in points if minute <= start + period)
        last = _lower_quartile(count for minute, count in points if minute >= end - period)
        if last > first + _MOST_NEW_THREADS:
            wrong.append(f"the threads of {name} rose from {first} to {last}")
    return wrong


def _lower_quartile(counts: Iterable[int]) -> int:
    return int(np.quantile(list(counts), 0.25))


def _drawn(samples: list[Sample], events: list[Event]) -> str:
    def curves(field: str) -> dict[str, list[tuple[float, float]]]:
        names = sorted({name for sample in samples for name in getattr(sample, field)})
        return {
            name: [
                (sample.minute, getattr(sample, field)[name])
                for sample in samples
                if name in getattr(sample, field)
            ]
            for name in names
        }

    return plot.svg(
        {
            "lag, records": {
                "all services": [(s.minute, float(s.lag)) for s in samples if s.lag is not None]
            },
            "memory, MB": curves("rss_mb"),
            "threads": curves("threads"),
            "logs, MB": curves("log_mb"),
        },
        [(event.minute, event.name) for event in events],
    )
