"""Find and open saved runs: folders to which `driftline run` wrote a stream file and topics.

Input: a run's name, its folder, or "last". Output: the folder, or the run's stream and an
in-memory broker with its topics.
"""

from pathlib import Path
from typing import Final

from driftline.broker.port import Broker
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, load
from driftline.errors import SettingsError

STREAM_FILE: Final = "stream.toml"  # name of the stream file in a run folder
TOPICS: Final = "topics"  # name of the topics folder in a run folder


def open_run(run: str | Path = "last") -> tuple[Stream, Broker]:
    """Return a saved run's stream, and an in-memory broker with its topics.

    run: the name of a run in `DRIFTLINE_HOME/runs`, the path of a run folder, or "last" for the
    newest run. Raises SettingsError, StreamFileError, BrokerError.
    """
    return load_run(run_folder(load_settings(), str(run)))


def load_run(folder: Path) -> tuple[Stream, Broker]:
    """Load the stream and the topics from a run's folder.

    Raises StreamFileError, BrokerError.
    """
    from driftline.broker.memory import MemoryBroker

    return load(folder / STREAM_FILE), MemoryBroker.load(folder / TOPICS)


def run_folder(settings: Settings, name: str, stream: str | None = None) -> Path:
    """Return the folder of the run with this name or path.

    "last" is the newest run or, if `stream` is given, the newest run of that stream. Raises
    SettingsError.
    """
    if name == "last":
        runs = sorted(settings.runs.glob(f"*/{STREAM_FILE}"), key=lambda path: path.parent.name)
        for path in reversed(runs):
            # Runs on Kafka, and runs that were killed, have no topics in their folders.
            if not has_topics(path.parent):
                continue
            if stream is None or load(path).name == stream:
                return path.parent
        of = "" if stream is None else f" of stream {stream}"
        raise SettingsError(
            f"no run{of} in {settings.runs}", hint="`driftline run DATA` creates one"
        )
    # A `name` with a slash is a path. Otherwise, it may be a run's name or a path.
    plain = name not in ("", ".", "..") and Path(name).name == name
    for folder in (settings.runs / name, Path(name)) if plain else (Path(name),):
        try:
            if name and (folder / STREAM_FILE).is_file():
                if not has_topics(folder):
                    raise SettingsError(
                        f"run {folder.name} has no saved topics",
                        hint="the run was killed, or it ran on Kafka, which has its topics",
                    )
                return folder
        except (OSError, ValueError) as error:  # the name is too long or not a valid path
            raise SettingsError(f"no run {name[:40]!r}…: {error.args[-1]}") from error
    raise SettingsError(
        f"no run {name!r} in {settings.runs}", hint="`--run last` selects the newest run"
    )


def has_topics(folder: Path) -> bool:
    """Return whether a run's folder contains its topics. A run saves all of its topics or none."""
    return (folder / TOPICS).is_dir()
