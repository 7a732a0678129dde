"""`driftline broker`: start, stop and check a local Apache Kafka broker, without Docker."""

from pathlib import Path
from typing import Annotated

import typer

from driftline.broker.local import LocalKafka, LocalKafkaStatus
from driftline.config.settings import load_settings
from driftline.safe_text import json_line
from driftline_app.cli.options import Json, stderr, stdout

broker = typer.Typer(
    help="Run an Apache Kafka broker on this machine for development, without Docker.",
    no_args_is_help=True,
)

Port = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        metavar="PORT",
        help="Port to listen on; 0 selects a free port. Default: the port used last time, or 9092 "
        "on the first start.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder for the broker's data and log. Default: DRIFTLINE_HOME/kafka.",
        show_default=False,
    ),
]


@broker.command()
def up(port: Port = None, folder: Folder = None, json: Json = False) -> None:
    """Start the broker and wait until it accepts connections.

    Does nothing if the broker is already running. The first start downloads Kafka.

    Example: driftline broker up
    """
    kafka = LocalKafka(folder or load_settings().broker, port)
    with stderr.status("starting Apache Kafka"):
        running = kafka.up()
    if json:
        _print_json(running)
        return
    _say(running)
    stdout.print(f"log: {kafka.log_file}")


@broker.command()
def down(folder: Folder = None) -> None:
    """Stop the broker, and wait until its process has exited.

    The broker's data stays on disk for the next start.

    Example: driftline broker down
    """
    kafka = LocalKafka(folder or load_settings().broker)
    stdout.print("stopped the broker" if kafka.down() else "the broker was not running")


@broker.command()
def status(folder: Folder = None, json: Json = False) -> None:
    """Show whether the broker is running and, if so, its address.

    Exits with code 1 if the broker is not running.

    Example: driftline broker status --json
    """
    kafka = LocalKafka(folder or load_settings().broker)
    running = kafka.status()
    if json:
        _print_json(running)
    elif running is not None:
        _say(running)
    else:
        stdout.print("the broker is not running; `driftline broker up` starts it")
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
        f"Apache Kafka {running.kafka_version} is running at {address} (pid {running.pid}); "
        f"use it with {flag}",
    )
