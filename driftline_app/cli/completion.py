"""Complete `driftline` arguments in the shell: stream files, topics, runs, data sets, policies.

Input: the beginning of a word, and local files and folders. Output: the possible completions. The
functions never raise an error, connect to a broker or write anything. Unreadable files and folders
yield no completions.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, get_args

import typer

from driftline.client.saved_runs import STREAM_FILE
from driftline.config.settings import load_settings
from driftline.config.stream_sections import Policy
from driftline.errors import DriftlineError
from driftline.wire.topics import Role, Topics
from driftline_app.stream_file import find_stream, is_stream_file

_DATA_NAMES: Final = ("iris", "iris-drift", "river:")
_DATA_SUFFIXES: Final = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")


def stream_files(incomplete: str) -> list[str]:
    """Return the matching stream files, and the matching folders, which may contain such files."""
    return _paths(incomplete, _is_readable_stream_file)


def data_sets(incomplete: str) -> list[str]:
    """Return the matching built-in data sets, data files and folders."""
    names = [name for name in _DATA_NAMES if name.startswith(incomplete)]
    return names + _paths(
        incomplete, lambda path: path.name.lower().removesuffix(".gz").endswith(_DATA_SUFFIXES)
    )


def topics(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the matching topic roles and, if the stream file is readable, full topic names."""
    names: list[str] = list(get_args(Role))
    try:
        file = ctx.params.get("file")
        planned = Topics(find_stream(None if file is None else Path(file))).plan()
    except (DriftlineError, OSError):
        planned = ()
    names += [topic.name for topic in planned]
    return [name for name in names if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Return the matching values of `--run`: "last", then the names of saved runs, newest first."""
    try:
        found = sorted(path.parent.name for path in load_settings().runs.glob(f"*/{STREAM_FILE}"))
    except (DriftlineError, OSError):
        found = []
    return [name for name in ("last", *reversed(found)) if name.startswith(incomplete)]


def policies(incomplete: str) -> list[str]:
    """Return the matching retraining policies."""
    return [name for name in get_args(Policy) if name.startswith(incomplete)]


def _is_readable_stream_file(path: Path) -> bool:
    try:
        return path.suffix == ".toml" and is_stream_file(path)
    except (OSError, ValueError):
        return False


def _paths(incomplete: str, is_wanted: Callable[[Path], bool]) -> list[str]:
    """Return the folders matching `incomplete`, and the matching files that `is_wanted` accepts."""
    folder, slash, beginning = incomplete.rpartition("/")
    try:
        return list(_matching(f"{folder}{slash}", beginning, is_wanted))
    except OSError:
        return []


def _matching(folder: str, beginning: str, is_wanted: Callable[[Path], bool]) -> Iterator[str]:
    for path in sorted(Path(folder or ".").iterdir()):
        # Like a shell, suggest hidden files only if the word starts with a dot.
        is_hidden = path.name.startswith(".") and not beginning
        if is_hidden or not path.name.startswith(beginning):
            continue
        if path.is_dir():
            yield f"{folder}{path.name}/"
        elif is_wanted(path):
            yield f"{folder}{path.name}"
