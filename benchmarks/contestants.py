"""Define and start the programs that the benchmarks compare; install their libraries with pip."""

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.data import CLASSES, Plan
from benchmarks.process import BenchmarkError, MeasuredProcess
from benchmarks.report import Report
from benchmarks.world import World

DRIFTLINE = "driftline"
REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")


class Contestant(msgspec.Struct, frozen=True):
    """One program to measure. `library` is a package that it needs and Driftline does not."""

    name: str
    about: str
    library: str | None = None
    delivery: str | None = None  # Driftline's delivery guarantee; None for other programs

    @property
    def is_driftline(self) -> bool:
        return self.delivery is not None


CONTESTANTS = (
    Contestant(DRIFTLINE, "at least once", delivery="at_least_once"),
    Contestant("driftline_exactly_once", "transactions of 200 ms", delivery="exactly_once"),
    Contestant("passthrough", "librdkafka, forwarding values unchanged"),
    Contestant("by_hand", "confluent-kafka, msgspec, ONNX in batches; sends only predictions"),
    Contestant("by_hand_spliced", "by_hand, but also sends the record, its offset and the model"),
    Contestant("by_hand_spliced_transactions", "by_hand_spliced in transactions of 200 ms"),
    Contestant("quix", "Quix Streams, one record at a time; sends only predictions", "quixstreams"),
    Contestant("pathway", "Pathway, ONNX in batches; sends only predictions", "pathway"),
)
NAMES = tuple(contestant.name for contestant in CONTESTANTS)


class Peers:
    """The virtual environment shared by all peers that need additional libraries."""

    def __init__(self, home: Path, report: Report) -> None:
        self.python = home / "peers" / "bin" / "python"
        self._report = report

    def install(self) -> None:
        """Create the environment unless it already matches the requirements file.

        If the installation fails, report the failure without raising an error.
        """
        wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
        stamp = self.python.parents[1] / "installed"
        if stamp.exists() and stamp.read_text("utf-8") == wanted:
            return
        self._report.say(f"installing {REQUIREMENTS.name} (takes a few minutes the first time)")
        folder = str(self.python.parents[1])
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)]
        for command in ([sys.executable, "-m", "venv", folder], pip):
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode != 0:
                self._report.say(f"could not install the peers' libraries:\n{done.stderr.decode()}")
                return
        stamp.write_text(wanted, "utf-8")

    def has(self, library: str) -> bool:
        """Return whether the library is installed in the environment."""
        if not self.python.exists():
            return False
        code = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({library!r}))"
        return subprocess.run([str(self.python), "-c", code], check=False).returncode == 0

    def version(self, library: str) -> str:
        """Return the library's version in the environment."""
        code = f"import importlib.metadata as m; print(m.version({library!r}))"
        done = subprocess.run(
            [str(self.python), "-c", code], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


def choose(names: list[str] | None, peers: Peers) -> tuple[list[Contestant], list[str]]:
    """Return the programs to measure, and the names of programs whose library is not installed.

    names: the programs to choose, or None for all. Driftline is always chosen, and comes first.
    Raises BenchmarkError if a name is unknown.
    """
    if unknown := set(names or ()) - set(NAMES):
        raise BenchmarkError(
            f"unknown peer {sorted(unknown)[0]!r}; expected one of {', '.join(NAMES)}"
        )
    wanted = [c for c in CONTESTANTS if names is None or c.name in names or c.name == DRIFTLINE]
    if any(contestant.library for contestant in wanted):
        peers.install()
    absent = [c.name for c in wanted if c.library is not None and not peers.has(c.library)]
    return [c for c in wanted if c.name not in absent], absent


class Course(msgspec.Struct, frozen=True):
    """The input that all programs share: a stream, and its champion as an ONNX model."""

    plan: Plan
    files: dict[str, Path]  # one stream file per delivery guarantee
    model: Path
    digest: str

    @classmethod
    def prepare(cls, world: World, plan: Plan) -> "Course":
        """Create the topics and train the model that all programs use."""
        file = world.stream(plan)
        exactly_once = msgspec.structs.replace(plan, delivery="exactly_once")
        model, digest = world.onnx(file)
        files = {
            "at_least_once": file,
            "exactly_once": world.write(exactly_once, f"{plan.name}-exactly-once"),
        }
        return cls(plan, files, model, digest)

    @property
    def file(self) -> Path:
        return self.files["at_least_once"]


class RunningProgram(msgspec.Struct, frozen=True):
    """A running program, its output topic and its consumer group."""

    program: MeasuredProcess
    sink: str
    group: str


def start(world: World, course: Course, contestant: Contestant, peers: Peers) -> RunningProgram:
    """Start a program that reads all of the features topic and writes to an empty topic."""
    topics = world.topics(course.file)
    if contestant.delivery is not None:
        group, sink = topics.group("inference"), topics.predictions
        world.delete_group(group)
        world.renew(course.file, sink)
        program = world.service(
            "inference", course.files[contestant.delivery], home=world.fresh_home()
        )
        return RunningProgram(program, sink, group)
    group = sink = f"{course.plan.name}.by.{contestant.name}"
    world.delete_group(group)
    world.create(sink, course.plan.partitions)
    python = sys.executable if contestant.library is None else str(peers.python)
    command = [python, "-m", f"benchmarks.peers.{contestant.name}"]
    for option, value in (
        ("bootstrap", world.bootstrap),
        ("source", topics.features),
        ("sink", sink),
        ("group", group),
        ("model", str(course.model)),
        ("digest", course.digest),
        ("features", ",".join(course.plan.columns)),
        ("classes", ",".join(sorted(CLASSES))),
    ):
        command += [f"--{option}", value]
    return RunningProgram(world.start(contestant.name, command), sink, group)
