"""`scripts/faults`: long manual runs that show whether the loop survives faults."""

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
from driftline.config.stream_sections import Client, Delivery
from driftline.wire.topics import SERVICES, Topics
from tests.faults import campaign
from tests.faults import scenario as scenarios
from tests.faults import soak as soaking
from tests.faults.compare import differences, up_to
from tests.faults.run import Verdict, run
from tests.faults.scenario import Scenario
from tests.faults.site import Site
from tests.replay import Written

app = typer.Typer(
    help="Run the services as processes on a real Apache Kafka, disturb them, and check that:"
    "\n\n"
    "- `reconcile` is clean: each record has one prediction, each label one outcome\n\n"
    "- windows and drift events are published once each, and a fresh monitor that reads the same "
    "predictions and outcomes in memory publishes the same\n\n"
    "- each retrain request is answered once, with at most one model\n\n"
    "- no service ends by itself (`kill` and `workers` only)\n\n"
    "Exit code 0: all checks passed. 1: a check failed; the failures are printed with the seed. "
    "Logs, windows and drift events stay in the folder that is printed. Progress goes to standard "
    "error; `kill` and `workers` print one summary per run with `--json`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stderr = Console(stderr=True)
# The table is wider than the width that Rich assumes when output goes to a file.
stdout = Console() if sys.stdout.isatty() else Console(width=180)

Servers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-server", "-b", help="Kafka to use. Default: start one and stop it at the end."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Folder for logs and results. Default: .driftline/faults/TIME."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON line per run.")]
KeepTopics = Annotated[
    bool,
    typer.Option(
        "--keep-topics", help="Keep the topics of good runs, which are deleted by default."
    ),
]


app.command()(campaign.run)
app.command()(campaign.table)
app.command()(soaking.soak)

Overlap = Annotated[
    int, typer.Option(help="Number of windows that contain each record: 1, 2, 4, 5, 10 or 20.")
]


@app.command()
def kill(
    client: Annotated[
        str, typer.Option(help="Kafka client: librdkafka or kafka-python.")
    ] = "librdkafka",
    kills: Annotated[
        int, typer.Option(min=0, help="How often a worker of each service gets kill -9.")
    ] = 25,
    records: Annotated[
        int, typer.Option(min=1000, help="Number of records in the stream.")
    ] = 200_000,
    seed: Annotated[int, typer.Option(help="Seed for moments, slots and ways of killing.")] = 0,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the hot topics.")] = 4,
    workers: Annotated[
        int, typer.Option(min=1, help="Workers of each of inference, outcomes and monitor.")
    ] = 2,
    delivery: Annotated[
        str, typer.Option(help="Delivery of inference: exactly_once or at_least_once.")
    ] = "exactly_once",
    retraining: Annotated[
        bool, typer.Option("--retraining/--no-retraining", help="Let drift request new models.")
    ] = True,
    overlap: Overlap = 1,
    bootstrap_server: Servers = None,
    folder: Folder = None,
    json: Json = False,
    keep_topics: KeepTopics = False,
) -> None:
    """Kill services with signal 9 at seeded moments throughout a run.

    The data are River's SEA; its concept changes seven times. A moment is a share of the stream
    that has been published, not a time. There are four ways to kill a worker:

    - `output`: while it publishes, in the middle of its transaction

    - `work`: up to 4 s after the moment

    - `start`: at the moment, and its successor again while that starts

    - `rebalance`: at the moment, and another worker while the group adds the successor

    Each killed worker is restarted at once in the same slot. The feed stops 4% of the records after
    the next moment. Before each kill of the trainer, a retraining is requested. A kill takes about
    5 s on two cores.

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
        typer.Option(help="Folder `elec2` or `car_loan_nml` that has data.csv.gz. Repeatable."),
    ],
    workers: Annotated[str, typer.Option(help="Numbers of workers of each service.")] = "1,2,4",
    partitions: Annotated[
        str, typer.Option(help="Numbers of partitions of the hot topics.")
    ] = "1,4,12",
    clients: Annotated[str, typer.Option(help="Kafka clients.")] = "librdkafka,kafka-python",
    retraining: Annotated[str, typer.Option(help="Retraining: on, off or both.")] = "on,off",
    rows: Annotated[
        int | None, typer.Option(min=5000, help="Use only the first N rows.", show_default=False)
    ] = None,
    delivery: Annotated[str, typer.Option(help="Delivery of inference.")] = "exactly_once",
    overlap: Overlap = 1,
    bootstrap_server: Servers = None,
    folder: Folder = None,
    json: Json = False,
    keep_topics: KeepTopics = False,
) -> None:
    """Replay a data set with each combination of workers, partitions and clients.

    With retraining off, the first model scores all records. Windows and drift events up to the
    newest record must then be byte-identical in all runs of a data set. With retraining on, the
    record at which a new model takes over depends on how long training takes. Each run is then
    compared only with its own replay.

    Example: scripts/faults workers --data data/elec2 --workers 1,2 --partitions 4 --retraining off
    """
    place = _place(folder)
    verdicts: list[Verdict] = []
    differing: list[tuple[str, ...]] = []
    with _kafka(bootstrap_server, place) as servers:
        for path in data:
            first: Site | None = None  # all runs use its model
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
                # Later runs copy the models of the first one.
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
    """Delete the topics of a good run, unless `keep` is set."""
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
            for line in (*verdict.deviations, *(f"differs from the first run: {f}" for f in found)):
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
    # SIGTERM acts like Ctrl-C, so that the started services are stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
