"""`scripts/faults run` and `table`: many short runs under faults, and a table of their results."""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from driftline.errors import DriftlineError
from tests.faults import results
from tests.faults import scenario as scenarios
from tests.faults.base import Base, make_base
from tests.faults.cluster import Cluster
from tests.faults.disturbances import FAULTS
from tests.faults.results import Result
from tests.faults.round import KINDS, Fault, Kind, Round

# The logs of good runs whose recovery took longer than this are kept too.
_SLOW_S: Final = 60.0

stderr = Console(stderr=True)

ResultsFile = Annotated[
    Path, typer.Option("--results", help="File of JSON lines to append runs to.")
]


def run(
    scenario: Annotated[
        str, typer.Option(help=f"Names separated by commas, or all: {', '.join(FAULTS)}.")
    ] = "all",
    client: Annotated[
        str, typer.Option(help="Kafka client: librdkafka, kafka-python or both.")
    ] = "both",
    delivery: Annotated[
        str, typer.Option(help="Delivery of inference: exactly_once, at_least_once or both.")
    ] = "both",
    runs: Annotated[int, typer.Option(min=1, help="Stop after this many runs.")] = 100,
    minutes: Annotated[
        float | None, typer.Option(help="Start no run after this many minutes.", show_default=False)
    ] = None,
    seed: Annotated[
        int, typer.Option(help="First seed. Each pass over the scenarios uses the next one.")
    ] = 0,
    records: Annotated[int, typer.Option(min=5000, help="Feature records of each run.")] = 30_000,
    file: ResultsFile = Path(".driftline/faults/results.jsonl"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip runs that the file already has for this commit.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the logs of bad and slow runs. Default: .driftline/faults/TIME."
        ),
    ] = None,
) -> None:
    """Run the services under faults, as processes on a real Apache Kafka, and judge each run.

    A round is one fault with one seed. Its runs, one for each client and guarantee, go side by
    side. Each run sends a stream of records and labels, and the fault happens in the middle. The
    run must recover by itself: nothing is lost, duplicated or left unread, and all services run.
    Windows and drift events must be those that a fresh monitor makes from the same topics. One
    result per run is appended to the file. Exits with 1 if a run deviates.

    Example: scripts/faults run --scenario broker-restarted,service-killed --runs 8
    """
    place = (
        folder or Path(".driftline/faults") / datetime.now().strftime("%Y%m%dT%H%M%S")
    ).absolute()
    place.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    faults = [_fault(name) for name in (FAULTS if scenario == "all" else scenario.split(","))]
    kinds = [
        kind for kind in KINDS if client in ("both", kind[0]) and delivery in ("both", kind[1])
    ]
    if not kinds:
        raise typer.BadParameter(f"no run has client {client!r} and delivery {delivery!r}")
    commit = results.commit()
    known = {result.key for result in results.read(file)} if resume else set()
    until_s = time.monotonic() + (minutes * 60 if minutes is not None else 10**9)
    bad, done, began_s = 0, 0, time.monotonic()

    def say(line: str) -> None:
        now_s = time.monotonic() - began_s
        stderr.print(f"{now_s:7.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)

    with_kafka = _Clusters(place, say)
    base: Base | None = None
    try:
        for fault, number, due in _rounds(faults, kinds, seed, commit, known):
            if done >= runs or time.monotonic() > until_s:
                break
            cluster = with_kafka.of(fault.nodes)
            if base is None:
                data = scenarios.sea(place, records)
                shutil.rmtree(place / "base", ignore_errors=True)  # from an earlier command
                base = make_base(data, cluster.servers, place / "base")
            round = Round(fault, number, due, base, cluster, place, commit=commit, say=say)
            try:
                found = round.run()
            except DriftlineError as error:
                say(f"{fault.name}, seed {number}: could not run this round: {error}")
                bad += len(due)
                with_kafka.renew()
                done += len(due)
                continue
            for result in found:
                results.append(file, result)
                say(_line(result))
                bad += not result.good
                if result.good and (result.recovery_s or 0.0) <= _SLOW_S:
                    shutil.rmtree(place / round.name(result.client, result.delivery))
            done += len(found)
    finally:
        with_kafka.close()
    say(f"{done} runs, {bad} with a deviation; results in {file}, logs in {place}")
    if bad:
        sys.exit(1)


def table(
    file: Annotated[list[Path], typer.Argument(help="Result files that `run` wrote.")],
    commit: Annotated[
        str | None,
        typer.Option(
            help="Include only runs on commits that start with this text.", show_default=False
        ),
    ] = None,
) -> None:
    """Print the results as the Markdown table of docs/faults.md.

    Example: scripts/faults table results.jsonl
    """
    found = [result for path in file for result in results.read(path)]
    print(results.markdown(r for r in found if r.commit.startswith(commit or "")))


class _Clusters:
    """Keep one cluster running; a request for another number of nodes replaces it."""

    def __init__(self, place: Path, say: Callable[[str], None]) -> None:
        self._place = place
        self._say = say
        self._cluster: Cluster | None = None
        self._number = 0

    def of(self, nodes: int) -> Cluster:
        """Return a running cluster with this number of nodes. Raises BrokerError."""
        if self._cluster is None or len(self._cluster.nodes) != nodes:
            self.close()
            self._number += 1
            self._say(f"starting Apache Kafka, {nodes} nodes")
            self._cluster = Cluster(self._place / f"kafka-{self._number}", nodes)
            self._cluster.up()
        return self._cluster

    def renew(self) -> None:
        """Stop this cluster, which may be broken; `of` then starts a new one."""
        self.close()

    def close(self) -> None:
        """Stop the cluster and delete its data."""
        if self._cluster is not None:
            self._cluster.down()
            shutil.rmtree(self._cluster.folder / "node-1" / "data", ignore_errors=True)
            self._cluster = None


def _fault(name: str) -> Fault:
    if name not in FAULTS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(FAULTS)}")
    return FAULTS[name]


def _rounds(
    faults: Sequence[Fault],
    kinds: Sequence[Kind],
    first: int,
    commit: str,
    known: set[tuple[str, str, str, str, int]],
) -> Iterator[tuple[Fault, int, list[Kind]]]:
    """Yield fault, seed and the kinds still to run, grouped by the size of the cluster."""
    for seed in count(first):
        for fault in sorted(faults, key=lambda fault: fault.nodes):
            if (seed - first) % fault.every and len(faults) > 1:
                continue
            due = [k for k in kinds if (commit, fault.name, *k, seed) not in known]
            if due:
                yield fault, seed, due


def _line(result: Result) -> str:
    recovery = f"{result.recovery_s} s" if result.recovery_s is not None else "never"
    words = (
        f"{'good' if result.good else 'BAD '} {result.scenario}, seed {result.seed}, "
        f"{result.client}, {result.delivery}: lost {result.lost}, duplicated "
        f"{result.duplicated}, recovery {recovery}, restarts {result.restarts}, {result.run_s} s"
    )
    return "\n            ".join([words, *(line[:300] for line in result.deviations[:8])])
