"""`scripts/faults`: the long runs, for a person who wants to see that the loop holds."""

import json as json_module
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.local import LocalKafka
from driftline.stream import Client, Delivery
from driftline.topics import SERVICES, Topics
from tests.faults import campaign
from tests.faults import scenario as scenarios
from tests.faults import soak as soaking
from tests.faults.compare import differences, up_to
from tests.faults.run import Verdict, run
from tests.faults.scenario import Scenario
from tests.faults.site import Site
from tests.replay import Written

app = typer.Typer(
    help="Runs the loop on a real Apache Kafka as processes, disturbs it, and checks what must "
    "hold:\n\n"
    "- `reconcile` is clean: every record one prediction, every label one outcome\n\n"
    "- windows and drift events stand once each, and a fresh monitor that reads the same "
    "predictions and outcomes in memory writes the same\n\n"
    "- every retrain request is answered once, with one model at most\n\n"
    "- no service ends by itself\n\n"
    "Exit code 0: all holds; 1: something deviates, and it is printed with the seed. Logs, "
    "windows and drift events stay in the folder that is printed. Progress goes to standard "
    "error, `--json` prints one summary per run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stderr = Console(stderr=True)
# The table is wider than what Rich takes for the width of a file.
stdout = Console() if sys.stdout.isatty() else Console(width=180)

Servers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-server", "-b", help="Kafka to use; one is started without, and stopped again."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Where logs and results stay. Default: .driftline/faults/TIME."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON line per run, for programs.")]
KeepTopics = Annotated[
    bool, typer.Option("--keep-topics", help="Do not delete the topics of runs that were good.")
]


app.command()(campaign.run)
app.command()(campaign.table)
app.command()(soaking.soak)

Overlap = Annotated[int, typer.Option(help="Windows that each record is in: 1, 2, 4, 5, 10 or 20.")]


@app.command()
def kill(
    client: Annotated[str, typer.Option(help="librdkafka or kafka-python.")] = "librdkafka",
    kills: Annotated[
        int, typer.Option(min=0, help="Moments per service at which a worker gets kill -9.")
    ] = 25,
    records: Annotated[int, typer.Option(min=1000, help="Records in the stream.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Draws the moments, the slots and the ways.")] = 0,
    partitions: Annotated[int, typer.Option(min=1)] = 4,
    workers: Annotated[
        int, typer.Option(min=1, help="Of inference, outcomes and monitor, each.")
    ] = 2,
    delivery: Annotated[
        str, typer.Option(help="Of inference: exactly_once or at_least_once.")
    ] = "exactly_once",
    retraining: Annotated[bool, typer.Option("--retraining/--no-retraining")] = True,
    overlap: Overlap = 1,
    bootstrap_server: Servers = None,
    folder: Folder = None,
    json: Json = False,
    keep_topics: KeepTopics = False,
) -> None:
    """Kill services with signal 9 at seeded moments all through a run.

    The data are River's SEA with a concept that changes eight times. A moment is a share of the
    stream that was published, not a time. Four ways to die there: `output` (as the service
    publishes, in the middle of its transaction), `work` (up to 4 s later), `start` (and its
    successor again, while it starts), `rebalance` (and another worker, while the group takes the
    successor in). Each dead worker is started again at once in the same slot. The feed goes no
    further than 4% ahead of the next moment. For each kill of the trainer a retraining is asked
    for. Takes about 5 s a kill on two cores.

    Example: scripts/faults kill --kills 5 --records 20000 --seed 7
    """
    place = _place(folder)
    with _kafka(bootstrap_server, place) as servers:
        verdict, site, _ = run(
            Scenario(
                data=scenarios.sea(place, records),
                client=_client(client),
                seed=seed,
                partitions=partitions,
                workers=workers,
                delivery=_delivery(delivery),
                retraining=retraining,
                overlap=overlap,
                kills=dict.fromkeys(SERVICES, kills),
            ),
            servers,
            place / "run",
            prefix=_prefix(),
            say=_saying(),
        )
        _end(site, verdict, keep_topics)
    _tell([verdict], [()], json)


@app.command()
def workers(
    data: Annotated[
        list[Path],
        typer.Option(help="Folder `elec2` or `car_loan_nml` with data.csv.gz; may be repeated."),
    ],
    workers: Annotated[str, typer.Option(help="Workers of each service.")] = "1,2,4",
    partitions: Annotated[str, typer.Option(help="Partitions of the hot topics.")] = "1,4,12",
    clients: Annotated[str, typer.Option(help="Clients.")] = "librdkafka,kafka-python",
    retraining: Annotated[str, typer.Option(help="on, off or both.")] = "on,off",
    rows: Annotated[
        int | None, typer.Option(min=5000, help="Take so many rows alone.", show_default=False)
    ] = None,
    delivery: Annotated[str, typer.Option(help="Of inference.")] = "exactly_once",
    overlap: Overlap = 1,
    bootstrap_server: Servers = None,
    folder: Folder = None,
    json: Json = False,
    keep_topics: KeepTopics = False,
) -> None:
    """Play a data set with every number of workers and partitions and with each client.

    With retraining off the first model answers throughout, and windows and drift events up to the
    newest record must be the same in all runs of a data set, byte for byte. With retraining on,
    where in the stream a new model begins to answer depends on how long training takes, so each run
    is compared with its own replay alone.

    Example: scripts/faults workers --data data/elec2 --workers 1,2 --partitions 4 --retraining off
    """
    place = _place(folder)
    verdicts: list[Verdict] = []
    differing: list[tuple[str, ...]] = []
    with _kafka(bootstrap_server, place) as servers:
        for path in data:
            first: Site | None = None  # its model answers in all runs
            expected: Written | None = None
            for number, one in enumerate(
                Scenario(
                    data=scenarios.file(path, rows=rows),
                    client=_client(client),
                    partitions=int(parts),
                    workers=int(count),
                    delivery=_delivery(delivery),
                    retraining=mode == "on",
                    overlap=overlap,
                )
                for mode in sorted(retraining.split(","))
                for client in clients.split(",")
                for parts in partitions.split(",")
                for count in workers.split(",")
            ):
                verdict, site, live = run(
                    one,
                    servers,
                    place / f"{path.name}-{number}",
                    prefix=_prefix(),
                    like=first,
                    say=_saying(),
                )
                found: tuple[str, ...] = ()
                if not one.retraining:
                    live = up_to(one.data.rows, live)
                    expected = live if expected is None else expected
                    found = differences(expected, live)
                first = first or site
                verdicts.append(verdict)
                differing.append(found)
                # The first one's models are copied into the later ones.
                _end(site, verdict, keep_topics or bool(found) or site is first)
            if first is not None and not keep_topics:
                _delete(first)
    _tell(verdicts, differing, json)


def _place(folder: Path | None) -> Path:
    place = folder or Path(".driftline/faults") / datetime.now().strftime("%Y%m%dT%H%M%S")
    place.mkdir(parents=True, exist_ok=True)
    return place.absolute()


def _prefix() -> str:
    return f"faults-{uuid.uuid4().hex[:8]}-"


def _client(value: str) -> Client:
    return _one_of(value, Client)  # type: ignore[return-value]  # checked


def _delivery(value: str) -> Delivery:
    return _one_of(value, Delivery)  # type: ignore[return-value]  # checked


def _one_of(value: str, kinds: object) -> str:
    if value not in get_args(kinds):
        raise typer.BadParameter(f"{value!r} is none of {', '.join(get_args(kinds))}")
    return value


def _saying() -> Callable[[str], None]:
    began_s = time.monotonic()
    return lambda line: stderr.print(
        f"{time.monotonic() - began_s:7.1f} s  {line}", markup=False, highlight=False
    )


@contextmanager
def _kafka(servers: str | None, place: Path) -> Iterator[str]:
    if servers is not None:
        yield servers
        return
    local = LocalKafka(place / "kafka", port=0)
    stderr.print("starting Apache Kafka")
    try:
        yield local.up().bootstrap_servers
    finally:
        local.down()


def _end(site: Site, verdict: Verdict, keep: bool) -> None:
    """Delete the topics, unless somebody will want to look at them."""
    if verdict.good and not keep:
        _delete(site)


def _delete(site: Site) -> None:
    admin = KafkaPythonBroker(site.settings.bootstrap_servers).admin()
    try:
        admin.delete([topic.name for topic in Topics(site.stream).plan()])
    finally:
        admin.close()


def _tell(verdicts: list[Verdict], differing: list[tuple[str, ...]], json: bool) -> None:
    if json:
        for verdict, found in zip(verdicts, differing, strict=True):
            line = msgspec.to_builtins(verdict) | {"differs_from_first": found}
            print(json_module.dumps(line))
    else:
        stdout.print(_table(verdicts, differing))
        for verdict, found in zip(verdicts, differing, strict=True):
            if verdict.deviations or found:
                stdout.print(f"{verdict.scenario.words}: {verdict.folder}", soft_wrap=True)
            for line in (*verdict.deviations, *(f"differs from the first: {f}" for f in found)):
                stdout.print(f"  {line}", style="red", markup=False, soft_wrap=True)
    if any(differing) or not all(verdict.good for verdict in verdicts):
        sys.exit(1)


def _table(verdicts: list[Verdict], differing: list[tuple[str, ...]]) -> Table:
    table = Table(box=None)
    for name in ("data", "client", "retraining", "reconcile", "replay"):
        table.add_column(name)
    for name in (
        *("partitions", "workers", "killed", "fell", "records", "windows", "drift"),
        *("late", "requests", "models", "s"),
    ):
        table.add_column(name, justify="right")
    for verdict, found in zip(verdicts, differing, strict=True):
        one, counted = verdict.scenario, verdict.reconciled
        table.add_row(
            one.data.name,
            one.client,
            "on" if one.retraining else "off",
            "differs" if any(d.startswith("reconcile") for d in verdict.deviations) else "clean",
            "differs" if found or not verdict.replay_equal else "equal",
            *(str(n) for n in (one.partitions, one.workers, verdict.killed)),
            str(len(verdict.fallen)),
            f"{counted.records:,}" if counted else "?",
            *(str(n) for n in (verdict.windows, verdict.drift, verdict.late, verdict.requests)),
            *(str(n) for n in (verdict.models, verdict.run_s)),
        )
    return table


if __name__ == "__main__":
    # As Ctrl-C, so that the services that were started are ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
