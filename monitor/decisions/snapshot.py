"""Save the decider's state in a snapshot file after a commit, and restore it after a restart.

Input and output: the decider, and the offset of the next event that it will read from the topic
`windows`. With a snapshot, a restarted worker need not read `windows` from the beginning. If the
file is missing or unusable, the whole topic is reread. The file contains only data, never code.
"""

import hashlib
import logging
import os
import secrets
from pathlib import Path

import msgspec

from driftline.config.stream import Stream
from driftline.wire.commit_metadata import Offset
from monitor.decisions.decider import Decider, DeciderState
from monitor.decisions.plain_state import Count, State

log = logging.getLogger(__name__)

# Increase the version when the format or meaning of the state changes. Files with another version
# are discarded.
VERSION = 6
# Number of windows and panes between two snapshots. Rereading this many takes a second or less.
# Writing a snapshot (40 kB) takes a few milliseconds.
EVERY = 2_000
# Maximum size of a snapshot file: hundreds of times the usual size.
MAX_BYTES = 32 << 20


class DecisionsCheckpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata stored with the offset committed for `windows`. All decisions on events before the
    offset `published` have been published."""

    published: Offset = 0
    token: str = ""  # identifies the commits to which a snapshot belongs


class _Version(msgspec.Struct, frozen=True):
    version: int


class _Body(State, frozen=True):
    stream: str  # digest of the parsed stream file
    token: str  # the commits' token; rules out snapshots of an earlier topic with the same name
    offset: Count
    decider: DeciderState


class _File(State, frozen=True):
    version: int
    digest: bytes  # digest of `body`
    body: msgspec.Raw


class _Unusable(Exception):
    """Raised if the snapshot file cannot be used. The message contains the reason."""


class Snapshots:
    """Saves and restores snapshots of one stream's decider in `folder`. Without a folder, no
    snapshots are saved.

    The state at an offset depends only on the topic, so any worker may use a snapshot, provided
    that the consumer group has committed up to the snapshot's offset. A River detector's state
    cannot be saved. If the stream uses a River detector, there are no snapshots, and each start
    reads `windows` from the beginning.
    """

    def __init__(self, stream: Stream, folder: Path | None) -> None:
        self._stream = stream
        self._path = None if folder is None else folder / "decisions"
        self._of = hashlib.sha256(repr(stream).encode()).hexdigest()
        self._token = ""  # set by `resume`: the committed token, or a new token
        self._taken_at = 0  # offset of the last snapshot that was loaded or saved
        # The next snapshot, as its offset and content. `checkpoint` encodes it, `save` writes it
        # after the commit, and `resume` discards it.
        self._taken: tuple[int, bytes] | None = None
        self._cannot_write = False  # True after a failed write; only the first failure is logged
        if self._path is not None and Decider(stream).state() is None:
            self._path = None
            log.info(
                "no snapshots of the decisions for stream %s are saved, because the state of River "
                "detectors cannot be saved; each start reads `windows` from the beginning",
                stream.name,
            )

    def resume(self, committed: DecisionsCheckpoint) -> tuple[int, Decider]:
        """Return the offset from which to read `windows`, and a decider with the state at that
        offset."""
        self._token = committed.token
        if self._path is not None and not self._token:
            self._token = secrets.token_hex(8)
        self._taken = None
        try:
            offset, decider = self._read(committed)
        except _Unusable as error:
            log.warning(
                "discarding unusable snapshot %s and reading `windows` from its beginning: %s",
                self._path,
                error,
            )
            offset, decider = 0, Decider(self._stream)
        self._taken_at = offset
        return offset, decider

    def checkpoint(self, published: int, read: int, decider: Decider) -> DecisionsCheckpoint:
        """Return the metadata to commit, and encode a snapshot if one is due. All decisions on
        events before `published` have been published. `decider` has read all events before `read`,
        which is less than `published` while events are being reread."""
        if self._path is not None and read - self._taken_at >= EVERY:
            state = decider.state()
            assert state is not None  # checked by `__init__`
            body = msgspec.msgpack.encode(_Body(self._of, self._token, read, state))
            file = _File(VERSION, hashlib.sha256(body).digest(), msgspec.Raw(body))
            self._taken = read, msgspec.msgpack.encode(file)
        return DecisionsCheckpoint(published, self._token)

    def save(self) -> None:
        """Save the snapshot that `checkpoint` encoded. Must be called only after the commit."""
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
            self._log_once(error)
            _remove(fresh)
        else:
            self._cannot_write = False

    def _read(self, committed: DecisionsCheckpoint) -> tuple[int, Decider]:
        """Return the snapshot's offset and decider, or offset 0 and a new decider if no snapshot
        matches `committed`. Raises _Unusable if the snapshot file cannot be used."""
        nothing = 0, Decider(self._stream)
        content = self._content()
        if content is None or not committed.token:
            return nothing
        try:
            version = msgspec.msgpack.decode(content, type=_Version).version
            if version != VERSION:
                raise _Unusable(f"it has version {version}, not {VERSION}")
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
                raise _Unusable("it belongs to another user")
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _Unusable(str(error)) from error
        if len(content) > MAX_BYTES:
            raise _Unusable(f"it is larger than {MAX_BYTES} bytes")
        return content

    def _log_once(self, error: OSError) -> None:
        if not self._cannot_write:
            self._cannot_write = True
            log.warning(
                "could not write snapshot %s; the monitor continues, but rereads more of `windows` "
                "at its next start: %s",
                self._path,
                error,
            )


def _remove(path: Path) -> None:
    """Remove an incompletely written file."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.debug("could not remove %s: %s", path, error)
