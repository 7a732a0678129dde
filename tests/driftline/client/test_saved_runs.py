"""Opening what `driftline run` has saved."""

from pathlib import Path

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.client.saved_runs import STREAM_FILE, TOPICS, open_run
from driftline.errors import SettingsError
from driftline.wire.topics import Topics
from tests import world


def save(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / STREAM_FILE).write_text(world.STREAM_FILE, encoding="utf-8")
    broker = MemoryBroker()
    broker.admin().create(Topics(world.STREAM).creation())
    broker.save(folder / TOPICS)
    return folder


def test_a_run_is_opened_by_its_name_its_folder_or_as_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path))
    folder = save(tmp_path / "runs" / "2-s")
    save(tmp_path / "runs" / "1-s")
    for run in ("last", "2-s", folder, str(folder)):
        stream, broker = open_run(run)
        assert stream == world.STREAM
        assert Topics(stream).drift in broker.admin().describe()
    with pytest.raises(SettingsError, match="no run '3-s'"):
        open_run("3-s")
