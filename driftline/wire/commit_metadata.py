"""Decode and check the metadata that services commit to Kafka along with their offsets.

Input: a consumer group's commits, some of which may come from a tool that resets offsets. Output:
a struct, or None if the metadata is invalid. The bounds on the struct's fields exclude values from
which no service can resume.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from driftline.broker.port import Committed, TopicPartition
from driftline.config.stream_sections import Axis
from driftline.errors import StreamFileError
from driftline.wire.column_decoders import DECODE_ERRORS

log = logging.getLogger(__name__)

# A position is a record number, or a time in the years 1 to 9999 in microseconds. This limit allows
# for every position, plus or minus the longest span that a stream file may set.
_FURTHEST: Final = 2**59
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Position = Annotated[int, Meta(ge=-_FURTHEST, le=_FURTHEST)]
Step = Annotated[int, Meta(ge=0, le=2 * _FURTHEST)]

T = TypeVar("T")

_BY: Final[Mapping[Axis, str]] = {"time": "by event time (`span`)", "row": "in records (`records`)"}


class Kind(NamedTuple):
    """Describes the metadata that is committed with a topic's offsets.

    `struct` is the metadata's type. `otherwise` describes, for a warning, what happens if
    the metadata is invalid.
    """

    struct: type[msgspec.Struct]
    otherwise: str


def metadata_of(committed: Committed, struct: type[T]) -> T | None:
    """Return a committed offset's metadata, or None if the metadata is empty or invalid.

    >>> class Note(msgspec.Struct):
    ...     published: Offset = 0
    >>> metadata_of(Committed(7, '{"published":9}'), Note)
    Note(published=9)
    >>> metadata_of(Committed(7, '{"published":-9}'), Note) is None
    True
    """
    try:
        return msgspec.json.decode(committed.metadata, type=struct) if committed.metadata else None
    except (*DECODE_ERRORS, UnicodeEncodeError):
        return None


def usable(
    resume: Mapping[TopicPartition, Committed], group: str, kinds: Mapping[str, Kind], axis: Axis
) -> dict[TopicPartition, Committed]:
    """Return a group's commits with invalid metadata removed. Log a warning for each removal.

    `kinds` maps topics to their kinds of metadata. Metadata of all other topics is left unchanged.
    Raises StreamFileError if the commits were made with windows on the other axis, because
    positions on different axes cannot be compared.
    """
    found = {}
    for partition, committed in resume.items():
        kind = kinds.get(partition.topic)
        stored = None if kind is None else metadata_of(committed, kind.struct)
        before: Axis | None = getattr(stored, "axis", None)
        if before is not None and before != axis:
            raise StreamFileError(
                f"[windows] the stream file counts windows {_BY[axis]}, but {partition.topic} was "
                f"processed with windows {_BY[before]}",
                hint="change `windows` back, or give the stream another name and new topics",
            )
        is_empty = committed.metadata in ("", "{}")  # `{}` remains if only a topic id was stored
        if kind is not None and not is_empty and stored is None:
            log.warning(
                "group %s, %s[%d]: ignoring the metadata of the committed offset %d, which "
                "Driftline did not write: %s",
                group,
                partition.topic,
                partition.partition,
                committed.offset,
                kind.otherwise,
            )
            committed = Committed(committed.offset)
        found[partition] = committed
    return found


class _Published(msgspec.Struct, frozen=True):
    published: Offset = 0


def handled(committed: Committed | None) -> int:
    """Return the first offset that a group has not handled yet.

    The committed offset may be smaller, because the group rereads records from there to
    rebuild its state.
    In this case, the metadata contains the offset up to which results were published.

    >>> handled(Committed(10, '{"published": 25}')), handled(Committed(10)), handled(None)
    (25, 10, 0)
    """
    if committed is None:
        return 0
    found = metadata_of(committed, _Published)  # None if the metadata is invalid
    return committed.offset if found is None else max(committed.offset, found.published)
