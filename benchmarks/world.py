"""Set up a benchmark's environment: a folder, an Apache Kafka broker, topics and processes.

The benchmarks use Driftline only through its command line, as a user would.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import confluent_kafka as ck
import msgspec
from confluent_kafka import admin as ck_admin

from benchmarks.data import Plan
from benchmarks.process import BenchmarkError, MeasuredProcess
from driftline.broker.local import LocalKafka
from driftline.config.stream import load
from driftline.wire.topics import Service, Topics

_WAIT_S = 30.0
# Temporary errors: members have not left the group yet, or the broker is still creating its
# internal offsets topic.
_PASSING = frozenset(
    {
        ck.KafkaError.NON_EMPTY_GROUP,
        ck.KafkaError.NOT_COORDINATOR,
        ck.KafkaError.COORDINATOR_NOT_AVAILABLE,
        ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)


class World:
    """An Apache Kafka broker on a free loopback port, with its data in `folder`.

    On exit, the broker is stopped and its data is deleted. All program logs are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._started: list[MeasuredProcess] = []
        self._runs = 0
        self._kafka = LocalKafka(self.folder / "kafka", 0)

    def __enter__(self) -> "World":
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self.bootstrap = self._kafka.up().bootstrap_servers
        self.admin: Any = ck_admin.AdminClient({"bootstrap.servers": self.bootstrap})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for program in self._started:
            program.stop()
        self._kafka.down()
        shutil.rmtree(self.folder / "kafka", ignore_errors=True)

    # ---- programs -------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        """The folder that holds Driftline's keys and models."""
        return self.folder / "home"

    def fresh_home(self) -> Path:
        """Create another home folder with the same keys, but without state from earlier runs."""
        home = self.folder / f"home-{self._runs:03d}"
        shutil.copytree(self.home / "keys", home / "keys", dirs_exist_ok=True)
        return home

    def environment(self, home: Path | None = None) -> dict[str, str]:
        """Return the environment variables for a program.

        They select this broker and the home folder. The user's own Kafka and Driftline settings are
        left out.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KAFKA_", "DRIFTLINE_"))
        }
        return kept | {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "DRIFTLINE_HOME": str(home or self.home),
            "DRIFTLINE_MODEL_STORE": str(self.home / "models"),
            "DRIFTLINE_CLIENT": "librdkafka",
            "PYTHONUNBUFFERED": "1",
        }

    def driftline(self, *words: str | Path) -> Any:
        """Run a `driftline` command to completion. With `--json`, return its decoded output."""
        done = subprocess.run(
            [sys.executable, "-m", "driftline_app.cli", *map(str, words)],
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"driftline {' '.join(map(str, words))}:\n{done.stderr.decode()}")
        return msgspec.json.decode(done.stdout) if "--json" in words else None

    def start(self, name: str, command: list[str], home: Path | None = None) -> MeasuredProcess:
        """Start a program. Leaving the `World` context stops it if it is still running."""
        self._runs += 1
        log = self.folder / "logs" / f"{self._runs:03d}-{name}.log"
        program = MeasuredProcess(name, command, environment=self.environment(home), log=log)
        self._started.append(program)
        return program

    def service(self, service: Service, file: Path, home: Path | None = None) -> MeasuredProcess:
        """Start a Driftline service through its command."""
        command = [sys.executable, "-m", "driftline_app.cli", service, "--stream", str(file)]
        return self.start(service, command, home)

    # ---- streams and topics ---------------------------------------------------------------------

    def stream(self, plan: Plan, *, trained_on_rule: int | None = None) -> Path:
        """Write a stream file, create its topics and train its model; return the file's path."""
        file = self.write(plan)
        self.driftline("topics", "apply", "--stream", file)
        training = self.folder / f"{plan.name}.csv"
        plan.write_training(training, plan.rule if trained_on_rule is None else trained_on_rule)
        self.driftline("train", "--stream", file, "--data", training, "--json")
        return file

    def write(self, plan: Plan, name: str | None = None) -> Path:
        """Write a stream file and return its path, without creating topics or training a model."""
        file = self.folder / f"{name or plan.name}.toml"
        file.write_text(plan.toml(), encoding="utf-8")
        return file

    def onnx(self, file: Path) -> tuple[Path, str]:
        """Export the champion's ONNX model; return its path and the model package's digest."""
        folder = self.folder / "exported" / file.stem
        self.driftline("models", "export", "champion", folder, "--format", "onnx", "--stream", file)
        shown = self.driftline("models", "show", "champion", "--stream", file, "--json")
        return next(folder.glob("*.onnx")), shown["announcement"]["digest"]

    def topics(self, file: Path) -> Topics:
        """Return the names of a stream's topics and consumer groups."""
        return Topics(load(file))

    def create(self, topic: str, partitions: int) -> None:
        """Create or replace a topic, and wait until all its partitions have leaders."""
        self.delete(topic)
        self.admin.create_topics([ck_admin.NewTopic(topic, partitions, 1)])[topic].result()
        _wait_until(lambda: self._has_leaders(topic, partitions), f"topic {topic} has no leaders")

    def renew(self, file: Path, *names: str) -> None:
        """Replace the given topics with empty topics, as defined in the stream file."""
        self.delete(*names)
        self.driftline("topics", "apply", "--stream", file)

    def delete(self, *names: str) -> None:
        """Delete the given topics if they exist, and wait until they are gone."""
        present = [name for name in names if name in self._known()]
        for future in self.admin.delete_topics(present).values() if present else ():
            future.result()
        _wait_until(lambda: not set(present) & self._known(), f"topics {present} still exist")

    def delete_group(self, group: str) -> None:
        """Delete a consumer group with its offsets, once all its members have left."""

        def gone() -> bool:
            try:
                self.admin.delete_consumer_groups([group])[group].result()
            except ck.KafkaException as error:
                if error.args[0].code() == ck.KafkaError.GROUP_ID_NOT_FOUND:
                    return True
                if error.args[0].code() not in _PASSING:
                    raise
                return False
            return True

        _wait_until(gone, f"group {group} still has members")

    def fill(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> int:
        """Send (key, value) pairs as fast as possible; return the number of records sent."""
        producer = self.producer({"linger.ms": 20, "batch.size": 1_000_000})
        count = 0
        for count, (key, value) in enumerate(records, 1):  # noqa: B007  # `count` is returned
            while True:
                try:
                    producer.produce(topic, value, key)
                except BufferError:
                    producer.poll(0.1)
                else:
                    break
        if left := producer.flush(60):
            raise BenchmarkError(f"{left} records could not be sent to {topic}")
        return count

    def fill_features(self, plan: Plan, topics: Topics, count: int) -> None:
        """Send the plan's first `count` feature records."""
        self.fill(topics.features, ((r.key, r.value) for r in plan.records(count)))

    def fill_labels(self, plan: Plan, topics: Topics, count: int) -> None:
        """Send the labels of the plan's first `count` records."""
        self.fill(topics.labels, ((r.key, r.label) for r in plan.records(count)))

    def producer(self, settings: dict[str, Any]) -> Any:
        """Return a producer with the partitioner that Driftline and Java clients use."""
        own = {"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random"}
        return ck.Producer(own | settings)

    def _known(self) -> set[str]:
        return set(self.admin.list_topics(timeout=10).topics)

    def _has_leaders(self, topic: str, partitions: int) -> bool:
        found = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        return len(found) == partitions and all(p.leader >= 0 for p in found.values())


def _wait_until(done: Any, problem: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{problem} after {_WAIT_S:.0f} s")
        time.sleep(0.05)
