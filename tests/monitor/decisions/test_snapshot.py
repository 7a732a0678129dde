"""A snapshot saves reading, and is used only where it is what reading would give."""

from pathlib import Path

import msgspec
import pytest

from driftline.events import PerformancePane, WindowsEvent
from monitor.decisions import snapshot
from monitor.decisions.decide import Decider
from monitor.decisions.snapshot import Decided, Snapshots
from tests.monitor.streams import small_stream

STREAM = small_stream()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "EVERY", 10)


def windows(count: int) -> list[WindowsEvent]:
    """Errors that become many: drift opens at some time."""
    return [
        PerformancePane(
            id=f"p{index}",
            index=index,
            start=index * 20,
            end=index * 20 + 20,
            model="a",
            records=20,
            errors=tuple(float(index > count // 2 or place == 0) for place in range(20)),
            reference_error=0.05,
            first_position=index * 20,
            last_position=index * 20 + 19,
            row=index * 20 + 19,
            time=None,
        )
        for index in range(count)
    ]


def read(decider: Decider, events: list[WindowsEvent]) -> list[object]:
    return [decision for event in events for decision in decider.read(event)]


def committed(folder: Path, count: int) -> Decided:
    """After so many windows."""
    snapshots = Snapshots(STREAM, folder)
    _, decider = snapshots.resume(Decided())
    read(decider, windows(50)[:count])
    at = snapshots.hold(count, count, decider)
    snapshots.settle()
    return at


@pytest.mark.parametrize("count", [10, 24, 33])
def test_who_goes_on_decides_as_if_all_had_been_read(tmp_path: Path, count: int) -> None:
    everything = read(Decider(STREAM), windows(50))
    before = read(Decider(STREAM), windows(50)[:count])
    start, decider = Snapshots(STREAM, tmp_path).resume(committed(tmp_path, count))
    assert start == count
    assert before + read(decider, windows(50)[count:]) == everything
    assert everything


def test_it_is_taken_now_and_then_and_written_when_the_commit_has_succeeded(tmp_path: Path) -> None:
    assert committed(tmp_path, 9).published == 9
    assert not list(tmp_path.iterdir())
    snapshots = Snapshots(STREAM, tmp_path)
    _, decider = snapshots.resume(Decided())
    snapshots.hold(10, 10, decider)
    assert not list(tmp_path.iterdir())
    snapshots.settle()
    assert [path.name for path in tmp_path.iterdir()] == ["decisions"]


def test_one_that_is_ahead_of_the_commits_or_of_others_is_not_used(tmp_path: Path) -> None:
    at = committed(tmp_path, 20)
    behind = msgspec.structs.replace(at, published=19)
    recreated = Decided(published=30, token="another")
    for other in (behind, recreated, Decided(published=30), Decided()):
        assert Snapshots(STREAM, tmp_path).resume(other)[0] == 0
    edited = small_stream(drift="detectors = ['ddm']")
    assert Snapshots(edited, tmp_path).resume(at)[0] == 0
    assert Snapshots(STREAM, None).resume(at)[0] == 0
    assert Snapshots(STREAM, tmp_path).resume(at)[0] == 20


def test_one_that_other_code_has_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = committed(tmp_path, 20)
    code = tmp_path / "code"
    code.mkdir()
    (code / "decide.py").write_text("# the class has another field\n")
    monkeypatch.setattr(snapshot, "__file__", str(code / "snapshot.py"))
    assert Snapshots(STREAM, tmp_path).resume(at)[0] == 0


def test_without_a_folder_what_is_committed_follows_from_the_topics_alone() -> None:
    snapshots = Snapshots(STREAM, None)
    _, decider = snapshots.resume(Decided())
    assert snapshots.hold(20, 20, decider) == Decided(20)


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_a_damaged_one_is_left_out_and_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    at = committed(tmp_path, 20)
    (tmp_path / "decisions").write_bytes(content)
    assert Snapshots(STREAM, tmp_path).resume(at)[0] == 0
    assert "decisions cannot be read" in caplog.text


def test_one_with_a_damaged_state_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = committed(tmp_path, 20)
    path = tmp_path / "decisions"
    found = msgspec.msgpack.decode(path.read_bytes())
    path.write_bytes(msgspec.msgpack.encode(found | {"decider": b"junk"}))
    assert Snapshots(STREAM, tmp_path).resume(at)[0] == 0
    assert "decisions cannot be read" in caplog.text


def test_a_folder_that_cannot_be_written_is_said_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    at = committed(tmp_path / "file", 20)
    assert at.published == 20
    assert "cannot be written" in caplog.text
