"""Find and open runs: the streams and topics that `driftline run` saved.

Input: the name of a run, its folder, or "last". Output: its folder, or its stream and a broker in
memory that has its topics.
"""

from pathlib import Path
from typing import Final

from driftline.broker.port import Broker
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, load
from driftline.errors import SettingsError

STREAM_FILE: Final = "stream.toml"  # name of the stream file in the folder of a run
TOPICS: Final = "topics"  # name of the folder of its topics


def open_run(run: str | Path = "last") -> tuple[Stream, Broker]:
    """Return the stream of a saved run, and a broker in memory that has its topics.

    run: the name of a run in the folder `runs` of `DRIFTLINE_HOME`, the path of its folder, or
    "last" for the newest one. Raises SettingsError, StreamFileError, BrokerError.
    """
    return load_run(run_folder(load_settings(), str(run)))


def load_run(folder: Path) -> tuple[Stream, Broker]:
    """Load the stream and the topics from the folder of a run.

    Raises StreamFileError, BrokerError.
    """
    from driftline.broker.memory import MemoryBroker

    return load(folder / STREAM_FILE), MemoryBroker.load(folder / TOPICS)


def run_folder(settings: Settings, name: str, stream: str | None = None) -> Path:
    """Return the folder of a run, by its name, its path, or "last".

    "last" is the newest run, or the newest of the given stream. Raises SettingsError.
    """
    if name == "last":
        runs = sorted(settings.runs.glob(f"*/{STREAM_FILE}"), key=lambda path: path.parent.name)
        for path in reversed(runs):
            # Runs on Kafka, and runs that were killed, have no topics in their folder.
            if not has_topics(path.parent):
                continue
            if stream is None or load(path).name == stream:
                return path.parent
        of = "" if stream is None else f" of stream {stream}"
        raise SettingsError(
            f"no run{of} in {settings.runs}", hint="`driftline run DATA` creates one"
        )
    # A plain name is the name of a run. Anything with a slash is a path.
    plain = name not in ("", ".", "..") and Path(name).name == name
    for folder in (settings.runs / name, Path(name)) if plain else (Path(name),):
        try:
            if name and (folder / STREAM_FILE).is_file():
                if not has_topics(folder):
                    raise SettingsError(
                        f"run {folder.name} has no saved topics",
                        hint="it ran on Kafka, which still has its topics, or it was killed",
                    )
                return folder
        except (OSError, ValueError) as error:  # the name is too long, or is no file name
            raise SettingsError(f"no run {name[:40]!r}…: {error.args[-1]}") from error
    raise SettingsError(f"no run {name!r} in {settings.runs}", hint="`--run last` is the newest")


def has_topics(folder: Path) -> bool:
    """Return whether the folder of a run contains its topics, which are saved all or none."""
    return (folder / TOPICS).is_dir()
