"""`driftline broker`: an Apache Kafka on this machine, without Docker."""

from pathlib import Path
from typing import Annotated

import typer

from driftline.broker.local import LocalKafka, LocalKafkaStatus
from driftline.cli.options import Json, stderr, stdout
from driftline.plain import json_line
from driftline.settings import load_settings

broker = typer.Typer(
    help="An Apache Kafka on this machine for development, without Docker.",
    no_args_is_help=True,
)

Port = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Port to listen on; 0 takes a free one. Default: as before, else 9092.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Where its data and log live. Default: .driftline/kafka.", show_default=False
    ),
]


@broker.command()
def up(port: Port = None, folder: Folder = None, json: Json = False) -> None:
    """Start it, unless it runs, and wait until it answers. The first time it fetches the jars.

    Example: driftline broker up; driftline up elec2.toml -b local
    """
    kafka = LocalKafka(folder or load_settings().broker, port)
    with stderr.status("starting Apache Kafka"):
        running = kafka.up()
    if json:
        _print_json(running)
        return
    _say(running)
    stdout.print(f"log: {kafka.log_file}", highlight=False)


@broker.command()
def down(folder: Folder = None) -> None:
    """Stop it and wait until it is gone. Its data stay for the next time.

    Example: driftline broker down
    """
    kafka = LocalKafka(folder or load_settings().broker)
    stdout.print("stopped" if kafka.down() else "it was not running")


@broker.command()
def status(folder: Folder = None, json: Json = False) -> None:
    """Say whether it runs, and where; exit 1 if not.

    Example: driftline broker status --json
    """
    kafka = LocalKafka(folder or load_settings().broker)
    running = kafka.status()
    if json:
        _print_json(running)
    elif running is not None:
        _say(running)
    else:
        stdout.print("not running; `driftline broker up` starts it")
    if running is None:
        raise typer.Exit(1)


def _print_json(running: LocalKafkaStatus | None) -> None:
    fields: dict[str, object] = {"running": running is not None}
    if running is not None:
        fields |= {
            "bootstrap_servers": running.bootstrap_servers,
            "pid": running.pid,
            "version": running.kafka_version,
        }
    print(json_line(fields))


def _say(running: LocalKafkaStatus) -> None:
    address = running.bootstrap_servers
    flag = "-b local" if address == load_settings().local_broker else f"-b {address}"
    stdout.print(
        f"Apache Kafka {running.kafka_version} runs at {address} (pid {running.pid}): {flag}",
        highlight=False,
    )
