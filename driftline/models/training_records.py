"""Encode and decode the labelled records that a model was trained on, as a file of the model store.

Only models that are trained on a data set have this file, because the outcomes topic does not
contain their rows. The model's manifest contains the file's digest, so the package's signature also
covers the file. Inference never reads it, and it can be deleted without making the package invalid.
"""

import io
import zipfile
from collections.abc import Iterable
from typing import Final

import msgspec

from driftline.errors import PackageCheckFailed
from driftline.models.archive import ArchiveLimits, archive
from driftline.wire.events import Value

_NAME: Final = "records.json"
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same records give the same bytes
# The largest size of the records as JSON: about 200,000 records with ten numbers. Compressed, they
# take a few MB.
MAX_RECORDS_BYTES: Final = 32 << 20
_EXTRA_BYTES: Final = 32  # more than the JSON around a record and its label
_LIMITS: Final = ArchiveLimits(1, MAX_RECORDS_BYTES, frozenset({_NAME}))


class LabelledRecord(msgspec.Struct, frozen=True):
    """A feature record as raw JSON, and its label."""

    record: msgspec.Raw
    label: Value


def encode_records(newest_first: Iterable[tuple[bytes, Value]]) -> bytes | None:
    """Return the file with the first records that fit into `MAX_RECORDS_BYTES`, or None if none do.

    The same records always give the same bytes.
    """
    kept: list[LabelledRecord] = []
    size = 2
    for record, label in newest_first:
        size += len(record) + len(msgspec.json.encode(label)) + _EXTRA_BYTES
        if size > MAX_RECORDS_BYTES:
            break
        kept.append(LabelledRecord(msgspec.Raw(record), label))
    if not kept:
        return None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        entry = zipfile.ZipInfo(_NAME, _ZIP_TIME)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.create_system = 3  # so that the bytes do not depend on the operating system
        file.writestr(entry, msgspec.json.encode(kept[::-1]))
    return buffer.getvalue()


def decode_records(data: bytes) -> tuple[LabelledRecord, ...]:
    """Decode bytes from `encode_records`. Raises PackageCheckFailed if the bytes are invalid."""
    failure = "the training records cannot be read"
    with archive(data, _LIMITS, failure) as file:
        raw = file.read(_NAME)
    try:
        return msgspec.json.decode(raw, type=tuple[LabelledRecord, ...])
    except (ValueError, RecursionError) as error:
        raise PackageCheckFailed(f"{failure}: {error}") from error
