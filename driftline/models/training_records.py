"""Encode the labelled records that a model was trained on as a file of the model store, and decode
them.

Only models that are trained on a data set have this file, because the outcomes topic does not
contain their rows. The model's manifest contains the file's digest, so the package's signature also
covers the file. Inference never reads the file, and it can be deleted without making the package
invalid.
"""

from collections import deque
from typing import Final

import msgspec

from driftline.errors import PackageCheckFailed
from driftline.models.archive import ArchiveLimits, archive, write_archive
from driftline.wire.events import Value

_NAME: Final = "records.jsonl"
# Size of all records and labels before compression: some 160,000 records of 200 bytes.
MAX_RECORDS_BYTES: Final = 32 << 20
_LIMITS: Final = ArchiveLimits(1, MAX_RECORDS_BYTES, frozenset({_NAME}))


class LabelledRecord(msgspec.Struct, frozen=True, array_like=True):
    """A feature record as raw JSON, as in the features topic, and its label."""

    record: msgspec.Raw
    label: Value


class NewestRecords:
    """The last added records, as many as fit into `MAX_RECORDS_BYTES`."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0

    def add(self, record: bytes, label: Value) -> None:
        """Add a record. If it is not JSON, it is ignored, because no training could use it."""
        try:
            compact = msgspec.json.format(record, indent=-1)  # without line breaks
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        line = msgspec.json.encode(LabelledRecord(msgspec.Raw(compact), label)) + b"\n"
        self._lines.append(line)
        self._bytes += len(line)
        while self._bytes > MAX_RECORDS_BYTES:
            self._bytes -= len(self._lines.popleft())

    def encode(self) -> bytes | None:
        """Return the file, or None if there are no records. Equal records give equal bytes."""
        return write_archive({_NAME: b"".join(self._lines)}) if self._lines else None


def decode_records(data: bytes) -> list[LabelledRecord]:
    """Decode a file that `NewestRecords` encoded. Raises PackageCheckFailed if it is invalid."""
    failure = "the training records cannot be read"
    with archive(data, _LIMITS, failure) as file:
        lines = file.read(_NAME)
    try:
        return msgspec.json.Decoder(LabelledRecord).decode_lines(lines)
    except (ValueError, RecursionError) as error:
        raise PackageCheckFailed(f"{failure}: {error}") from error
