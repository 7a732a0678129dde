"""Run Apache Kafka as one node or three, each of which can be stalled, stopped and killed.

In: a folder and the number of nodes. Out: KRaft nodes on loopback, each a broker and a controller.
Each node has one listener for the harness and one behind a proxy for the services.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.local import _class_path, _find_java, _format, _free_port
from driftline.errors import BrokerError
from tests.faults.proxy import Mode, Proxy

_START_PATIENCE_S: Final = 90.0
_STOP_PATIENCE_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.1


class Node:
    """One node of a cluster. It keeps its ports and data over restarts."""

    def __init__(self, folder: Path, number: int, heap_mb: int) -> None:
        self.number = number
        self.port, self.proxied_port, self.controller_port = (_free_port() for _ in range(3))
        self.proxy = Proxy(_free_port(), self.proxied_port)
        self._folder = folder
        self._heap_mb = heap_mb
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Return whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def configure(self, nodes: "list[Node]") -> None:
        """Write the properties file and format the data folder. Raises BrokerError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        copies = len(nodes)
        properties = {
            "process.roles": "broker,controller",
            "node.id": self.number,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},PROXIED://127.0.0.1:"
            f"{self.proxied_port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port},"
            f"PROXIED://127.0.0.1:{self.proxy.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": ",".join(
                f"{node.number}@127.0.0.1:{node.controller_port}" for node in nodes
            ),
            "log.dirs": self._folder / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": min(2, copies),
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": min(2, copies),
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": min(2, copies),
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "group.initial.rebalance.delay.ms": 0,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            "log.retention.ms": -1,
            "log.cleaner.dedupe.buffer.size": 16_777_216,
            # Delete files of finished runs after a second; the default is a minute.
            "file.delete.delay.ms": 1000,
            "controlled.shutdown.enable": "true",
        }
        path = self._folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        with (self._folder / "kafka.log").open("ab") as log:
            _format([_find_java(), "-cp", _class_path()], path, log.fileno())

    def start(self) -> None:
        """Start the process without waiting until it serves requests."""
        with (self._folder / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    _find_java(),
                    f"-Xmx{self._heap_mb}m",
                    "-XX:+UseSerialGC",
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-Dorg.slf4j.simpleLogger.showDateTime=true",
                    *("-cp", _class_path(), "kafka.Kafka"),
                    str(self._folder / "server.properties"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stall(self) -> None:
        """Suspend the process with SIGSTOP; its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `stall`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process with SIGKILL and wait for its end."""
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """Shut the process down cleanly and wait for its end."""
        self._signal(signal.SIGTERM)
        self._wait()

    def _signal(self, sign: signal.Signals) -> None:
        if self.runs and self._process is not None:
            os.kill(self._process.pid, sign)

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Cluster:
    """One node or three. `servers` is for the harness, `proxied_servers` for the services."""

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        heap_mb = 400 if nodes == 1 else 300
        self.folder = folder.absolute()
        self.nodes = [
            Node(self.folder / f"node-{number}", number, heap_mb) for number in range(1, nodes + 1)
        ]
        self.servers = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.proxied_servers = ",".join(f"127.0.0.1:{node.proxy.port}" for node in self.nodes)

    def up(self) -> "Cluster":
        """Start all nodes and wait until they respond. Raises BrokerError."""
        for node in self.nodes:
            node.configure(self.nodes)
        self.heal()
        return self

    def heal(self) -> None:
        """Undo all faults: resume or start every node, and wait until all respond."""
        for node in self.nodes:
            node.proxy.set("pass")
            if node.runs:
                node.resume()
            else:
                node.start()
        self.wait()

    def down(self) -> None:
        """Stop all nodes and proxies."""
        for node in self.nodes:
            node.resume()
            node.kill()  # no clean shutdown: the data are no longer needed
            node.proxy.close()

    def disturb(self, mode: Mode) -> None:
        """Set the mode of all proxies."""
        for node in self.nodes:
            node.proxy.set(mode)

    def wait(self) -> None:
        """Wait until each node responds and all replicas are in sync. Raises BrokerError."""
        deadline_s = time.monotonic() + _START_PATIENCE_S
        for node in self.nodes:
            while not _answers(node):
                if time.monotonic() > deadline_s:
                    raise BrokerError(f"node {node.number} of {self.folder} does not respond")
                time.sleep(_LOOK_EVERY_S)  # wait for a real process
        while len(self.nodes) > 1 and self._behind():
            if time.monotonic() > deadline_s:
                raise BrokerError(f"replicas of {self.folder} do not get in sync")
            time.sleep(_LOOK_EVERY_S)

    def controller(self) -> Node:
        """Return the active controller from the quorum: KRaft brokers may report any node."""
        from kafka.admin import KafkaAdminClient

        admin = KafkaAdminClient(bootstrap_servers=self.servers.split(","))
        try:
            quorum = admin.describe_metadata_quorum()
        finally:
            admin.close()
        leader = quorum["topics"][0]["partitions"][0]["leader_id"]
        return next(node for node in self.nodes if node.number == leader)

    def leader_of(self, topic: str) -> Node:
        """Return the leader of partition 0 of a topic."""
        found = self._metadata().topics[topic].partitions[0].leader  # type: ignore[no-untyped-call]
        return next(node for node in self.nodes if node.number == found)

    def _behind(self) -> bool:
        return any(
            len(partition.isrs) < len(partition.replicas) or partition.leader < 0
            for topic in self._metadata().topics.values()  # type: ignore[no-untyped-call]
            for partition in topic.partitions.values()
        )

    def _metadata(self):  # type: ignore[no-untyped-def]  # confluent-kafka has no types
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.servers, "log_level": 2}).list_topics(
            timeout=10
        )


def _answers(node: Node) -> bool:
    if not node.runs:
        raise BrokerError(f"node {node.number} ended by itself; see its kafka.log")
    try:
        KafkaPythonBroker(f"127.0.0.1:{node.port}", connect_timeout_s=1.0).admin().close()
    except (BrokerError, OSError):
        return False
    return True
