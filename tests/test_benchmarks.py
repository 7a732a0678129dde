"""The benchmarks use the same records each time, measure fair rates and report missing peers."""

import doctest
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("confluent_kafka", reason="the benchmarks measure with librdkafka")

from benchmarks.arrivals import Observation
from benchmarks.contestants import CONTESTANTS, DRIFTLINE, Peers, choose
from benchmarks.data import Plan
from benchmarks.process import BenchmarkError, MeasuredProcess
from benchmarks.report import Report
from benchmarks.summary import throughput_table
from benchmarks.throughput import Throughput, rates
from driftline.config.stream import loads
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("features", [4, 20, 30])
def test_records_and_labels_match_the_stream_file(features: int) -> None:
    plan = Plan("machine", features)
    stream = loads(plan.toml())
    records = list(plan.records(50, 9_990))  # across two chunks
    batch = RecordCodec(stream).decode([record.value for record in records])
    assert batch.rejected == []
    assert len(stream.inputs) == features
    assert batch.rows == list(range(9_990, 10_040))
    labels = [LabelCodec(stream).decode(record.label) for record in records]
    assert [label.record_id for label in labels] == batch.ids
    assert {label.label for label in labels} == {"failing", "sound"}


def test_a_record_depends_only_on_its_number() -> None:
    plan = Plan("machine", 4)
    assert list(plan.records(30, 9_990))[15:] == list(plan.records(15, 10_005))


def test_the_rate_is_measured_from_a_tenth_of_the_records_to_the_last() -> None:
    samples = [
        Observation(0.0, 0, 2.0, 0),
        Observation(5.0, 200, 3.0, 0),  # a fifth of the records arrives at once, after a slow start
        Observation(7.0, 1000, 3.8, 0),
        Observation(9.0, 1000, 3.9, 0),
    ]
    assert rates(samples) == pytest.approx((400.0, 1000.0, 2.0))


def test_a_run_too_short_to_measure_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="use more records"):
        rates([Observation(0.0, 0, 0.0, 0), Observation(1.0, 100, 0.1, 0)])


def run_of(name: str, round_: int, records_per_s: float) -> Throughput:
    return Throughput(
        name=name,
        features=4,
        round=round_,
        records=1000,
        seconds=1.0,
        records_per_s=records_per_s,
        cpu_us_per_record=3.0,
        peak_mb=100.0,
    )


def test_ratios_compare_programs_within_a_round() -> None:
    runs = [
        run_of(DRIFTLINE, 1, 200.0),
        run_of("by_hand", 1, 100.0),
        run_of(DRIFTLINE, 2, 20.0),  # the machine was slow
        run_of("by_hand", 2, 10.0),
    ]
    # A cell would name the least and the greatest ratio if they differed.
    assert [line[3] for line in throughput_table(runs)[1:]] == ["× 1.00", "× 2.00"]


def test_each_peer_is_a_separate_program_that_does_not_import_driftline() -> None:
    for contestant in CONTESTANTS:
        if not contestant.is_driftline:
            assert (ROOT / "benchmarks" / "peers" / f"{contestant.name}.py").is_file()
    for path in (ROOT / "benchmarks" / "peers").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "from driftline" not in text
        assert "import driftline" not in text


def test_a_peer_that_is_not_installed_is_reported_and_the_others_are_measured(
    tmp_path: Path,
) -> None:
    class Nothing(Peers):
        def install(self) -> None:
            """Do nothing, as if the registry could not be reached."""

    taking_part, absent = choose(["by_hand", "quix", "pathway"], Nothing(tmp_path, Report()))
    assert [contestant.name for contestant in taking_part] == [DRIFTLINE, "by_hand"]
    assert absent == ["quix", "pathway"]


def test_an_error_names_an_unknown_peer(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="unknown peer 'byhand'"):
        choose(["byhand"], Peers(tmp_path, Report()))


def test_no_peer_is_a_dependency_of_driftline() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    assert not [name for name in wanted if name.startswith(("pathway", "quixstreams"))]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="measured by way of /proc")
def test_the_error_for_a_program_that_ended_contains_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such topic')"]
    program = MeasuredProcess("peer", command, environment={}, log=tmp_path / "log")
    program.wait(30)
    with pytest.raises(BenchmarkError, match=r"peer ended with 1:\nno such topic"):
        program.check()


@pytest.mark.parametrize("name", ["latency", "services", "summary", "throughput"])
def test_examples_in_docstrings_are_correct(name: str) -> None:
    found = doctest.testmod(import_module(f"benchmarks.{name}"))
    assert found.attempted
    assert not found.failed


def test_the_help_lists_the_options() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for option in ("--features", "--records", "--repeats", "--peers", "--json"):
        assert option in said
