"""A snapshot saves rereading, and is used only if rereading would give the same state."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.config.stream import Stream
from driftline.wire.window_events import PerformancePane, WindowsEvent
from monitor.decisions import snapshot
from monitor.decisions.decider import Decider, DeciderState
from monitor.decisions.snapshot import DecisionsCheckpoint, Snapshots
from tests.monitor.streams import small_stream

STREAM = small_stream()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "EVERY", 10)


def windows(count: int) -> list[WindowsEvent]:
    """Return panes whose errors increase, so that a drift event opens."""
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


def committed(folder: Path, count: int, stream: Stream = STREAM) -> DecisionsCheckpoint:
    """Return the checkpoint after this many windows."""
    snapshots = Snapshots(stream, folder)
    _, decider = snapshots.resume(DecisionsCheckpoint())
    read(decider, windows(50)[:count])
    at = snapshots.checkpoint(count, count, decider)
    snapshots.save()
    return at


@pytest.mark.parametrize("detector", ["glr", "stepd"])
@pytest.mark.parametrize("count", [10, 24, 27, 33])
def test_decisions_from_a_snapshot_are_the_same_as_after_rereading(
    tmp_path: Path, count: int, detector: str
) -> None:
    stream = small_stream(drift=f"detectors = ['{detector}']")
    everything = read(Decider(stream), windows(50))
    before = read(Decider(stream), windows(50)[:count])
    start, decider = Snapshots(stream, tmp_path).resume(committed(tmp_path, count, stream))
    assert start == count
    assert before + read(decider, windows(50)[count:]) == everything
    assert everything


def test_a_snapshot_is_written_after_a_number_of_windows_and_a_commit(tmp_path: Path) -> None:
    assert committed(tmp_path, 9).published == 9
    assert not list(tmp_path.iterdir())
    snapshots = Snapshots(STREAM, tmp_path)
    _, decider = snapshots.resume(DecisionsCheckpoint())
    snapshots.checkpoint(10, 10, decider)
    assert not list(tmp_path.iterdir())
    snapshots.save()
    assert [path.name for path in tmp_path.iterdir()] == ["decisions"]


def test_a_snapshot_that_does_not_match_the_commit_or_the_settings_is_not_used(
    tmp_path: Path,
) -> None:
    at = committed(tmp_path, 20)
    behind = msgspec.structs.replace(at, published=19)
    recreated = DecisionsCheckpoint(published=30, token="another")
    for other in (behind, recreated, DecisionsCheckpoint(published=30), DecisionsCheckpoint()):
        assert Snapshots(STREAM, tmp_path).resume(other)[0] == 0
    edited = small_stream(drift="detectors = ['ddm']")
    assert Snapshots(edited, tmp_path).resume(at)[0] == 0
    assert Snapshots(STREAM, None).resume(at)[0] == 0
    assert Snapshots(STREAM, tmp_path).resume(at)[0] == 20


def test_a_snapshot_of_another_version_is_not_used_and_this_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at = committed(tmp_path, 20)
    monkeypatch.setattr(snapshot, "VERSION", snapshot.VERSION + 1)
    assert Snapshots(STREAM, tmp_path).resume(at)[0] == 0
    assert "it has version" in caplog.text


def test_the_version_is_raised_when_the_format_changes() -> None:
    """If this fails, raise `VERSION` in snapshot.py, then enter the new digest here."""
    whole = msgspec.json.schema(DeciderState)
    schema = msgspec.json.encode(_bare(whole, whole["$defs"]), order="sorted")
    assert (snapshot.VERSION, hashlib.sha256(schema).hexdigest()[:16]) == (6, "3c39ac9300cd80b0")


def _bare(schema: object, structs: Mapping[str, object]) -> object:
    """Remove descriptions and the names of structs, which are not stored, from a schema."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _bare(structs[schema["$ref"].removeprefix("#/$defs/")], structs)
        unused = ("description", "title", "discriminator", "$defs")
        return {key: _bare(own, structs) for key, own in schema.items() if key not in unused}
    if isinstance(schema, list | tuple):
        return [_bare(own, structs) for own in schema]
    return schema


class _Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._mark,)


def test_loading_a_snapshot_runs_no_code_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = committed(tmp_path, 20)
    path, mark = tmp_path / "decisions", tmp_path / "mark"
    pickled = pickle.dumps(_Trap(mark))
    old = {"made_by": "", "token": at.token, "offset": 20, "decider": pickled}
    for content in (pickled, msgspec.msgpack.encode(old)):
        path.write_bytes(content)
        assert Snapshots(STREAM, tmp_path).resume(at)[0] == 0
        assert not mark.exists()
    assert caplog.text.count("discarding unusable snapshot") == 2


@given(st.data())
@settings(max_examples=50)
def test_a_damaged_snapshot_does_not_stop_the_monitor(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("state")
    at, path = committed(folder, 20), folder / "decisions"
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["cut", "flip", "more"])):
        case "cut":
            content = content[:place]
        case "flip":
            other = content[place] ^ data.draw(st.integers(1, 255))
            content = content[:place] + bytes([other]) + content[place + 1 :]
        case _:
            content += data.draw(st.binary(min_size=1))
    path.write_bytes(content)
    start, decider = Snapshots(STREAM, folder).resume(at)
    assert start == 0
    read(decider, windows(3))


def test_a_snapshot_of_other_detectors_is_not_used_and_this_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at, path = committed(tmp_path, 20), tmp_path / "decisions"
    body = msgspec.msgpack.decode(path.read_bytes())["body"]
    for change in (
        {"name": "stepd"},
        {
            "test": {
                "type": "stepd",
                "recent": [],
                "since": 0.0,
                "count": 0,
                "total": 0.0,
                "squares": 0.0,
                "split": None,
                "drift_detected": False,
                "warning_detected": False,
            }
        },
        {"test": {"type": "glr"}},
        {"recent": ["x"]},
    ):
        detector = body["decider"]["errors"]["detectors"][0]
        other = {
            **body,
            "decider": {
                **body["decider"],
                "errors": {**body["decider"]["errors"], "detectors": [{**detector, **change}]},
            },
        }
        encoded = msgspec.msgpack.encode(other)
        path.write_bytes(
            msgspec.msgpack.encode(
                {
                    "version": snapshot.VERSION,
                    "digest": hashlib.sha256(encoded).digest(),
                    "body": msgspec.Raw(encoded),
                }
            )
        )
        caplog.clear()
        assert Snapshots(STREAM, tmp_path).resume(at)[0] == 0
        assert "discarding unusable snapshot" in caplog.text


def test_windows_are_reread_if_a_detector_of_river_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stream = small_stream(drift="detectors = ['glr', 'adwin']")
    snapshots = Snapshots(stream, tmp_path)
    assert "no snapshots of the decisions" in caplog.text
    _, decider = snapshots.resume(DecisionsCheckpoint())
    read(decider, windows(50))
    assert snapshots.checkpoint(50, 50, decider) == DecisionsCheckpoint(50)
    snapshots.save()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_the_checkpoint_contains_no_snapshot() -> None:
    snapshots = Snapshots(STREAM, None)
    _, decider = snapshots.resume(DecisionsCheckpoint())
    assert snapshots.checkpoint(20, 20, decider) == DecisionsCheckpoint(20)


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_an_unreadable_snapshot_is_not_used_and_this_is_logged(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    at = committed(tmp_path, 20)
    (tmp_path / "decisions").write_bytes(content)
    assert Snapshots(STREAM, tmp_path).resume(at)[0] == 0
    assert "decisions and reading `windows` from its beginning" in caplog.text


def test_a_folder_that_cannot_be_written_is_logged_and_the_monitor_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    at = committed(tmp_path / "file", 20)
    assert at.published == 20
    assert "could not write snapshot" in caplog.text
