"""Find a command's stream file: the `--stream` file, or the only one in the current folder."""

import tomllib
from pathlib import Path
from typing import Final

from driftline.config.stream import Stream, load
from driftline.errors import StreamFileError

# A TOML file with at least two of these keys is treated as a stream file, because the user may have
# forgotten one.
_KEYS: Final = frozenset({"version", "task", "target"})
_ENOUGH_KEYS: Final = 2


def find_stream(file: Path | None) -> Stream:
    """Load the given stream file, or the only one in the current folder. Raises StreamFileError."""
    return load(find_stream_file(file))


def find_stream_file(file: Path | None) -> Path:
    """Return `file` or, if it is None, the path of the only stream file in the current folder.

    Raises StreamFileError if `file` is None and the folder does not contain exactly one such file.
    """
    if file is not None:
        return file
    found = []
    unreadable = []
    for path in sorted(Path().glob("*.toml")):
        try:
            if is_stream_file(path):
                found.append(path)
        except (OSError, ValueError, RecursionError) as error:
            unreadable.append(f"{path} ({error})")
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path) for path in found)
        raise StreamFileError(
            f"several stream files in this folder: {names}",
            hint="choose one with --stream FILE",
        )
    if unreadable:
        raise StreamFileError(
            f"no readable stream file in this folder; cannot read {', '.join(unreadable)}",
            hint="correct the file, or choose another file with --stream FILE",
        )
    raise StreamFileError(
        "no stream file in this folder",
        hint="choose one with --stream FILE, or create one: driftline init DATA --target COLUMN",
    )


def is_stream_file(path: Path) -> bool:
    """Return whether a TOML file is a stream file. Raises OSError, ValueError, RecursionError."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return len(_KEYS & content.keys()) >= _ENOUGH_KEYS
