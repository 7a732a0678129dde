"""The decider as it stood after a commit, in a file: a restart goes on from there instead of from
the beginning of `windows`. The file may be lost, or be of no use; then all is read again.

In and out: the decider, and the offset in `windows` up to which it has read.
"""

import hashlib
import logging
import os
import pickle
import secrets
from importlib.metadata import version
from pathlib import Path

import msgspec

from driftline.stream import Stream
from monitor.decisions.decide import Decider

log = logging.getLogger(__name__)

# Windows and panes between two snapshots: to read so many again takes a second or less, to write
# one (40 kB) a few milliseconds.
EVERY = 2_000


class Decided(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of the `windows` topic's commit: decisions up to this offset were published."""

    published: int = 0
    token: str = ""  # which commits a snapshot belongs to


class _File(msgspec.Struct, frozen=True):
    made_by: str  # the stream file, and the code whose state it is
    token: str  # of the group's commits since they began: of these topics, and no earlier ones
    offset: int
    decider: bytes


class Snapshots:
    """Snapshots of one stream's decider in `folder`; without one there are none.

    The state after an offset follows from the topic alone, so that a snapshot is good for whoever
    goes on, if the group has committed as much. Only this user's own file is unpickled.
    """

    def __init__(self, stream: Stream, folder: Path | None) -> None:
        self._stream = stream
        self._path = None if folder is None else folder / "decisions"
        self._made_by = "" if folder is None else _made_by(stream)
        self._token = ""
        self._taken_at = 0
        self._taken: _File | None = None  # until the commit has succeeded

    def resume(self, committed: Decided) -> tuple[int, Decider]:
        """Where to go on in `windows`, with what state."""
        self._token = committed.token
        if self._path is not None and not self._token:
            self._token = secrets.token_hex(8)
        self._taken = None
        found = self._read()
        if found is not None and found.token == committed.token != "":
            offset = found.offset
            if found.made_by == self._made_by and offset <= committed.published:
                try:
                    decider: Decider = pickle.loads(found.decider)
                except Exception as error:  # noqa: BLE001 - whatever an old class may raise
                    log.warning("the snapshot %s cannot be read: %s", self._path, error)
                else:
                    self._taken_at = offset
                    return offset, decider
        self._taken_at = 0
        return 0, Decider(self._stream)

    def hold(self, published: int, read: int, decider: Decider) -> Decided:
        """What to commit: decisions before the offset `published` are out, and `decider` has read
        what stands before `read`, which is less while it reads again."""
        if self._path is not None and read - self._taken_at >= EVERY:
            self._taken = _File(self._made_by, self._token, read, pickle.dumps(decider))
        return Decided(published, self._token)

    def settle(self) -> None:
        """The commit has succeeded: what was taken for it is written."""
        taken, self._taken = self._taken, None
        if taken is None or self._path is None:
            return
        self._taken_at = taken.offset
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.msgpack.encode(taken))
            fresh.replace(self._path)
        except OSError as error:
            log.warning("the snapshot %s cannot be written: %s", self._path, error)

    def _read(self) -> _File | None:
        try:
            if self._path is None or self._path.stat().st_uid != os.geteuid():
                return None
            return msgspec.msgpack.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("the snapshot %s cannot be read: %s", self._path, error)
            return None


def _made_by(stream: Stream) -> str:
    parts = [part.encode() for part in (repr(stream), version("driftline"), version("river"))]
    parts += [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()
