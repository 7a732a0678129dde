"""Make what the runs of a campaign share: data, stream file, keys and one signed model.

In: the address of a Kafka. Out: sites with homes of their own. Making a site takes about a second.
"""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from driftline.broker import connect
from driftline.broker.port import Message
from driftline.config.settings import load_settings
from driftline.config.stream import load
from driftline.errors import BrokerError
from driftline.wire.topics import Topics, apply
from tests.app.cli.invoke import invoke
from tests.faults.scenario import Data, Scenario
from tests.faults.site import Site, copy_models, edited

_TOPICS_KNOWN_WITHIN_S: Final = 20.0


class Base(msgspec.Struct, frozen=True):
    """The shared parts. `models` are the records in which `driftline train` announced a model."""

    data: Data
    home: Path
    draft: str
    models: tuple[Message, ...]


def make_base(data: Data, servers: str, folder: Path) -> Base:
    """Draft the stream file and train the first model, as a user would. Raises RuntimeError."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    environment = {"KAFKA_BOOTSTRAP_SERVERS": servers, "DRIFTLINE_CLIENT": "librdkafka"}

    def driftline(*arguments: str) -> None:
        done = invoke(home, *arguments, cwd=folder, environment=environment)
        if done.exit_code:
            raise RuntimeError(f"driftline {' '.join(arguments)}: {done.stdout}{done.stderr}")

    driftline("init", data.source, *data.init, "--name", data.name, "--force")
    file = folder / f"{data.name}.toml"
    draft = file.read_text(encoding="utf-8")
    scenario = Scenario(data=data, client="librdkafka")
    site = make_site(Base(data, home, draft, ()), scenario, servers, folder / "first", "faults-")
    driftline("train", str(site.file), "--data", data.source, "--limit", str(data.warm_up))
    models = tuple(site.messages(site.topics.models))
    delete_topics(site)
    return Base(data, home, draft, models)


def make_site(
    base: Base,
    scenario: Scenario,
    servers: str,
    folder: Path,
    prefix: str,
    *,
    services_servers: str | None = None,
) -> Site:
    """Make a run's folder, home and topics, and announce the first model.

    The services connect to `services_servers`, or by default to `servers` as the harness does.
    """
    folder.mkdir(parents=True)
    home = folder / "home"
    for name in ("keys", "models"):
        if (base.home / name).exists():
            shutil.copytree(base.home / name, home / name)
    environment = {
        "DRIFTLINE_CLIENT": scenario.client,
        "KAFKA_BOOTSTRAP_SERVERS": services_servers or servers,
        "DRIFTLINE_HOME": str(home),
    }
    file = folder / f"{base.data.name}.toml"
    file.write_text(edited(base.draft, scenario, prefix), encoding="utf-8")
    settings = load_settings({**os.environ, **environment})
    broker = connect(settings.client, servers, settings.properties)
    site = Site(scenario, folder, file, environment, settings, load(file), broker, servers)
    admin = broker.admin()
    try:
        apply(admin, Topics(site.stream))
    finally:
        admin.close()
    if base.models:
        _copy_models(base.models, site)
    return site


def _copy_models(models: Iterable[Message], site: Site) -> None:
    """Announce the models once the node that is asked knows the topics, which takes a moment."""
    deadline_s = time.monotonic() + _TOPICS_KNOWN_WITHIN_S
    while True:
        try:
            copy_models(models, site)
            return
        except BrokerError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def delete_topics(site: Site) -> None:
    """Delete the topics of a site."""
    admin = site.broker.admin()
    try:
        admin.delete([topic.name for topic in site.topics.plan()])
    finally:
        admin.close()
