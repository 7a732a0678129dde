"""The state of the services on a machine, their problems, and what the doctor reports of them."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from driftline.ops.doctor import check_services
from driftline.ops.processes import (
    Process,
    ServiceState,
    State,
    SupervisorState,
    Trouble,
    born,
    write_processes,
    write_state,
    write_supervisor,
)
from driftline.ops.workers import START_PATIENCE_S, UNSUPERVISED, Worker, Workers, look_at_workers
from driftline.wire.topics import SERVICES, Service

NOW = datetime(2026, 1, 1, 8, 0, 40, tzinfo=UTC)
BIRTH = born(os.getpid()) or ""


class Machine:
    """A folder with the states of services and a supervisor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []

    def say(
        self, service: Service, state: State = "running", *, alive: bool = True, **fields: object
    ) -> None:
        """Write the state of a service, as of a second ago."""
        said = ServiceState(
            service=service,
            slot=0,
            pid=os.getpid(),
            born=BIRTH if alive else "before",
            state=state,
            started="2026-01-01T08:00:00Z",
            updated="2026-01-01T08:00:39Z",
        )
        write_state(self.folder, msgspec.structs.replace(said, **fields))

    def keep(self, service: Service, *, alive: bool = True, **fields: object) -> None:
        """Write the entry of a service that the supervisor manages."""
        process = Process(
            service=service,
            slot=0,
            pid=os.getpid(),
            born=BIRTH if alive else "before",
            log="log",
        )
        self.processes.append(msgspec.structs.replace(process, **fields))
        write_processes(self.folder, self.processes)
        write_supervisor(self.folder, SupervisorState(pid=os.getpid(), born=BIRTH, request=1))

    def all_run(self) -> None:
        for service in SERVICES:
            self.say(service)
            self.keep(service)

    def look(self, digest: str | None = None, *, now: datetime = NOW) -> Workers:
        return look_at_workers(self.folder, digest, now=now)

    def problems(self) -> list[str]:
        return list(self.look().problems())

    def worker(self, service: Service) -> Worker:
        return next(w for w in self.look("sha256:new").workers if w.state.service == service)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_there_are_no_problems_if_all_services_run(machine: Machine) -> None:
    machine.all_run()

    assert machine.problems() == []
    assert [worker.name for worker in machine.look().workers] == [f"{s}-0" for s in SERVICES]


def test_services_without_a_supervisor_are_no_problem(machine: Machine) -> None:
    for service in SERVICES:
        machine.say(service)

    assert machine.problems() == []


def test_a_single_problem_is_reported_if_no_service_runs(machine: Machine) -> None:
    machine.say("monitor", "stopped", alive=False)

    assert machine.problems() == ["no service is running; `driftline up` starts them"]


def test_a_service_that_was_never_started_is_reported(machine: Machine) -> None:
    for service in SERVICES[1:]:
        machine.say(service)

    assert machine.problems() == ["no worker of inference is running"]


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda m: m.say("trainer", alive=False), "trainer-0 was killed"),
        (
            lambda m: m.say("trainer", "failed", alive=False, error="topics are missing"),
            "trainer-0 has failed: topics are missing",
        ),
        (
            lambda m: m.say("trainer", updated="2026-01-01T08:00:00Z"),
            "trainer-0 is unhealthy: it has not written its state for 40 s",
        ),
        (
            lambda m: m.say(
                "trainer",
                "waiting for Kafka",
                troubles=(Trouble("waiting for Kafka", "2026-01-01T07:50:00Z", "refused"),),
            ),
            "trainer-0 is unhealthy: waiting for Kafka for 640 s: refused",
        ),
    ],
)
def test_an_unhealthy_service_is_reported_with_the_reason(
    machine: Machine, break_it: Callable[[Machine], None], problem: str
) -> None:
    for service in SERVICES:
        machine.say(service)
    break_it(machine)

    assert machine.problems() == [problem]


def test_a_service_that_waits_for_its_restart_is_reported_with_its_last_error(
    machine: Machine,
) -> None:
    machine.all_run()
    machine.say("trainer", alive=False)
    machine.keep(
        "trainer",
        alive=False,
        failures=1,
        restarts=4,
        error="killed by SIGKILL",
        retry="2026-01-01T08:00:41Z",
    )

    assert machine.problems() == [
        "trainer-0 has ended, next start at 2026-01-01T08:00:41Z: killed by SIGKILL"
    ]
    assert machine.worker("trainer").restarts == 4


@pytest.mark.parametrize("alive", [True, False])
def test_a_crash_looping_service_is_reported_whether_it_runs_or_not(
    machine: Machine, alive: bool
) -> None:
    machine.all_run()
    machine.say("trainer", "starting", alive=alive)
    machine.keep("trainer", alive=alive, failures=3, error="exit code 1: no numpy")

    assert machine.problems() == [
        "trainer-0 keeps crashing, 3 times in a row: exit code 1: no numpy"
    ]


def test_a_service_that_has_not_written_its_state_is_starting(machine: Machine) -> None:
    machine.all_run()
    (machine.folder / "trainer-0.json").unlink()

    assert machine.problems() == []
    assert machine.worker("trainer").state.state == "starting"


def test_starting_becomes_a_problem_only_after_a_while(machine: Machine) -> None:
    machine.all_run()
    late = NOW + timedelta(seconds=START_PATIENCE_S)
    machine.say("trainer", "starting")
    assert machine.problems() == []
    machine.say("trainer", "starting", updated=late.isoformat())

    assert "trainer-0 is unhealthy: starting" in machine.look(now=late).problems()


def test_an_ended_supervisor_is_a_problem_while_its_services_run(
    machine: Machine,
) -> None:
    machine.all_run()
    write_supervisor(machine.folder, SupervisorState(pid=os.getpid(), born="before", request=1))

    assert machine.problems() == [UNSUPERVISED]


def test_a_service_with_another_version_of_the_stream_file_is_outdated(machine: Machine) -> None:
    machine.all_run()
    machine.say("monitor", stream_digest="sha256:old")
    machine.say("trainer", stream_digest="sha256:new")

    outdated = [worker.name for worker in machine.look("sha256:new").workers if worker.outdated]
    assert outdated == ["monitor-0"]
    assert machine.problems() == []


def test_the_doctor_checks_each_service(machine: Machine) -> None:
    machine.all_run()
    machine.say("outcomes", stream_digest="sha256:old")
    machine.keep("trainer", alive=False, failures=3, error="exit code 1: no numpy")
    machine.say("trainer", alive=False)

    checks = {check.name: check for check in check_services(machine.look("sha256:new"))}
    assert {name: check.result for name, check in checks.items()} == {
        "inference-0": "ok",
        "outcomes-0": "warn",
        "monitor-0": "ok",
        "trainer-0": "fail",
    }
    assert "no numpy" in checks["trainer-0"].found
    assert "trainer-0.log" in checks["trainer-0"].todo


def test_the_doctor_warns_if_no_service_runs(machine: Machine) -> None:
    (check,) = check_services(machine.look())

    assert (check.result, check.found) == ("warn", "none is running on this machine")


def test_a_damaged_state_file_is_a_problem_and_hides_no_other_service(machine: Machine) -> None:
    machine.all_run()
    path = machine.folder / "inference-0.json"
    path.write_text("{")
    problems = machine.problems()

    assert len(problems) == 1
    assert problems[0].startswith(f"{path} cannot be read, so its content is ignored: ")
    assert [worker.state.state for worker in machine.look().workers] == ["starting"] + [
        "running"
    ] * 3


REJECTED = {"sha256:b": "its digest is wrong", "sha256:a": "its digest is wrong"}


def test_inference_without_a_usable_model_is_a_problem(machine: Machine) -> None:
    machine.all_run()
    machine.say("inference", "waiting for a model", rejected=REJECTED)

    assert machine.problems() == [
        "inference-0 is unhealthy: no model can be used, so no record is scored: "
        "sha256:b: its digest is wrong (and 1 more)"
    ]


def test_inference_that_waits_for_its_first_model_is_no_problem(machine: Machine) -> None:
    machine.all_run()
    machine.say("inference", "waiting for a model", rejected={"freeze": "unsigned"})

    assert machine.problems() == []
