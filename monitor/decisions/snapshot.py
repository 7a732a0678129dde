"""The decider as it was after a commit, in a file: a restart goes on from there instead of from
the beginning of `windows`. The file may be lost, or be of no use; then all is read again.

In and out: the decider, and the offset in `windows` up to which it has read. The file is data:
nothing in it is ever run.
"""

import hashlib
import logging
import os
import secrets
from pathlib import Path

import msgspec

from driftline.commit_metadata import Offset
from driftline.stream import Stream
from monitor.decisions.decide import Decider, DeciderState
from monitor.decisions.keep import Count, State

log = logging.getLogger(__name__)

# Of the state's format and its meaning: to be raised when either changes. Files of another version
# are not used.
VERSION = 3
# Windows and panes between two snapshots: to read so many again takes a second or less, to write
# one (40 kB) a few milliseconds.
EVERY = 2_000
# A hundred times what one of seven detectors has.
MAX_BYTES = 32 << 20


class Decided(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of the `windows` topic's commit: decisions up to this offset were published."""

    published: Offset = 0
    token: str = ""  # which commits a snapshot belongs to


class _Version(msgspec.Struct, frozen=True):
    version: int


class _Body(State, frozen=True):
    stream: str  # digest of the stream file's contents
    token: str  # of the group's commits since they began: of these topics, and no earlier ones
    offset: Count
    decider: DeciderState


class _File(State, frozen=True):
    version: int
    digest: bytes  # of `body`
    body: msgspec.Raw


class _Unusable(Exception):
    """Says why a file is not used."""


class Snapshots:
    """Snapshots of one stream's decider in `folder`; without one there are none.

    The state after an offset follows from the topic alone, so that a snapshot is good for whoever
    goes on, if the group has committed as much. Detectors of River's keep their state to
    themselves: with one of them there are no snapshots, and `windows` is read again.
    """

    def __init__(self, stream: Stream, folder: Path | None) -> None:
        self._stream = stream
        self._path = None if folder is None else folder / "decisions"
        self._of = hashlib.sha256(repr(stream).encode()).hexdigest()
        self._token = ""
        self._taken_at = 0
        self._taken: tuple[int, bytes] | None = None  # until the commit has succeeded
        self._cannot_write = False
        if self._path is not None and Decider(stream).state() is None:
            self._path = None
            log.info(
                "decisions of %s are not kept on disk, for a detector of River's is used: each "
                "start reads `windows` from its beginning",
                stream.name,
            )

    def resume(self, committed: Decided) -> tuple[int, Decider]:
        """Where to go on in `windows`, with what state."""
        self._token = committed.token
        if self._path is not None and not self._token:
            self._token = secrets.token_hex(8)
        self._taken = None
        try:
            offset, decider = self._read(committed)
        except _Unusable as error:
            log.warning(
                "the snapshot %s cannot be read: %s; `windows` is read from its beginning",
                self._path,
                error,
            )
            offset, decider = 0, Decider(self._stream)
        self._taken_at = offset
        return offset, decider

    def hold(self, published: int, read: int, decider: Decider) -> Decided:
        """What to commit: decisions before the offset `published` are out, and `decider` has read
        what stands before `read`, which is less while it reads again."""
        if self._path is not None and read - self._taken_at >= EVERY:
            state = decider.state()
            assert state is not None  # as was found at the start
            body = msgspec.msgpack.encode(_Body(self._of, self._token, read, state))
            file = _File(VERSION, hashlib.sha256(body).digest(), msgspec.Raw(body))
            self._taken = read, msgspec.msgpack.encode(file)
        return Decided(published, self._token)

    def settle(self) -> None:
        """The commit has succeeded: what was taken for it is written."""
        taken, self._taken = self._taken, None
        if taken is None or self._path is None:
            return
        self._taken_at, content = taken
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(content)
            fresh.replace(self._path)
        except OSError as error:
            self._tell_once(error)
            _remove(fresh)
        else:
            self._cannot_write = False

    def _read(self, committed: Decided) -> tuple[int, Decider]:
        """Raises _Unusable; a file that is not of these commits is silently left out."""
        nothing = 0, Decider(self._stream)
        content = self._content()
        if content is None or not committed.token:
            return nothing
        try:
            version = msgspec.msgpack.decode(content, type=_Version).version
            if version != VERSION:
                raise _Unusable(f"it is of version {version}, not {VERSION}")
            file = msgspec.msgpack.decode(content, type=_File)
            if hashlib.sha256(file.body).digest() != file.digest:
                raise _Unusable("it is damaged")
            body = msgspec.msgpack.decode(file.body, type=_Body)
            if body.token != committed.token or body.stream != self._of:
                return nothing
            if body.offset > committed.published:
                return nothing
            return body.offset, Decider.restored(self._stream, body.decider)
        except (msgspec.DecodeError, ValueError, LookupError, RecursionError) as error:
            raise _Unusable(str(error)) from error

    def _content(self) -> bytes | None:
        if self._path is None:
            return None
        try:
            if self._path.stat().st_uid != os.geteuid():
                raise _Unusable("it is another user's")
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _Unusable(str(error)) from error
        if len(content) > MAX_BYTES:
            raise _Unusable(f"it has more than {MAX_BYTES} bytes")
        return content

    def _tell_once(self, error: OSError) -> None:
        if not self._cannot_write:
            self._cannot_write = True
            log.warning(
                "the snapshot %s cannot be written: %s; decisions go on, and the next start reads "
                "more of `windows` again",
                self._path,
                error,
            )


def _remove(path: Path) -> None:
    """Leave no half of a file on a full disk."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.debug("%s cannot be removed: %s", path, error)
