"""Make a site for one run: stream file, home, topics and a first model, by the user's commands.

In: a scenario and the address of a Kafka. Out: a `Site`, whose broker reads the topics.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from driftline.broker import connect
from driftline.broker.port import Broker, Message, Outgoing
from driftline.broker.scan import ranges, scan
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, load
from driftline.models.keys import Signer
from driftline.models.load import ModelLoader
from driftline.models.signed import sign
from driftline.wire.topics import Topics
from monitor.panes import PANES
from tests.app.cli.invoke import invoke
from tests.faults.scenario import Scenario

# Appended to what `init` drafts. Candidates train quickly: the model does not matter here.
_SETTINGS = """
{labels}
[retrain]
policy = "{policy}"
cooldown = {cooldown}
train_on = 4000
min_outcomes = 200

[models]
candidates = ["logistic_regression", "decision_tree"]
tune = false

[kafka]
topic_prefix = "{prefix}"
partitions = {partitions}
inference_delivery = "{delivery}"
replication_factor = {replication}
"""


class Site(msgspec.Struct, frozen=True):
    """The files, topics and connections of one scenario."""

    scenario: Scenario
    folder: Path
    file: Path
    environment: dict[str, str]
    settings: Settings
    stream: Stream
    broker: Broker
    servers: str  # address for the harness; services may use another one

    @property
    def topics(self) -> Topics:
        return Topics(self.stream)

    @property
    def models(self) -> ModelLoader:
        return ModelLoader.of(self.settings, self.stream)

    def messages(self, topic: str) -> Iterator[Message]:
        """Yield all committed records of a topic, up to its current end."""
        for batch in scan(self.broker, ranges(self.broker, [topic])):
            yield from batch


def prepare(
    scenario: Scenario, servers: str, folder: Path, *, prefix: str, like: Site | None = None
) -> Site:
    """Make everything that must exist before the services start.

    The first model is trained, or taken from `like`, whose home is then shared. Two trainings would
    give two digests, because a package contains the time of its training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home" if like is None else like.settings.home
    environment = {
        "DRIFTLINE_CLIENT": scenario.client,
        "KAFKA_BOOTSTRAP_SERVERS": servers,
        "DRIFTLINE_HOME": str(home),
    }

    def driftline(*arguments: str) -> None:
        done = invoke(home, *arguments, cwd=folder, environment=environment)
        if done.exit_code:
            raise RuntimeError(f"driftline {' '.join(arguments)}: {done.stdout}{done.stderr}")

    data = scenario.data
    file = folder / f"{data.name}.toml"
    driftline("init", data.source, *data.init, "--name", data.name, "--force")
    file.write_text(edited(file.read_text(encoding="utf-8"), scenario, prefix), encoding="utf-8")
    driftline("topics", "apply", str(file))
    settings = load_settings({**os.environ, **environment})
    broker = connect(settings.client, settings.bootstrap_servers, settings.properties)
    site = Site(scenario, folder, file, environment, settings, load(file), broker, servers)
    if like is None:
        driftline("train", str(file), "--data", data.source, "--limit", str(data.warm_up))
    else:
        # `train` wrote an announcement and the pointer to it. The services wrote the later ones.
        copy_models(islice(like.messages(like.topics.models), 2), site)
    return site


def edited(draft: str, scenario: Scenario, prefix: str) -> str:
    """Edit the draft as a user would: several partitions, delayed labels, quick training."""
    by_time = '"30m"' if "[time]" in draft else str(scenario.label_delay)
    changed = draft.replace("label_delay = 0 ", f"label_delay = {by_time} ")
    # A window is a fiftieth of the data, so that many close between two kills.
    size = max(200, scenario.data.rows // 50) // PANES * PANES
    changed = "\n".join(
        f'records = {size}\nslide = {size // scenario.overlap}\nidle = "{scenario.idle_s}s"'
        if line.startswith("records = ")
        else line
        for line in changed.splitlines()
    )
    return changed + _SETTINGS.format(
        policy="drift" if scenario.retraining else "never",
        # A training takes seconds of a core: allow some in a run, but not one after the other.
        cooldown=scenario.data.rows // 8,
        prefix=prefix,
        partitions=scenario.partitions,
        delivery=scenario.delivery,
        replication=scenario.replication,
        labels=f"[labels]\nhorizon = {_horizon(scenario)}\n" if "[time]" not in draft else "",
    )


def copy_models(models: Iterable[Message], to: Site) -> None:
    """Announce models in another topic, where their records need new signatures."""
    signer, producer = Signer(to.settings.keys), to.broker.producer()
    try:
        for message in models:
            record = Outgoing(to.topics.models, message.value, message.key, headers=message.headers)
            producer.send(sign(record, signer))
        producer.flush()
    finally:
        producer.close()


def _horizon(scenario: Scenario) -> int:
    """On a busy machine, the load's client may write labels long after later records. The join
    window is half of all records, so that the join still evicts some."""
    return scenario.horizon or max(scenario.data.rows // 2, 4 * scenario.label_delay)
