"""Replace a file on disk in one step, so that readers never see a partial file."""

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o666, flush: bool = True) -> None:
    """Replace a file's content completely or not at all. Create its folder if necessary.

    With `flush`, the replacement also survives a power failure. `mode` contains the
    file's permissions before the umask is applied. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        # Set the mode when creating the file. If the mode were set later, other users could read
        # the file until then.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
