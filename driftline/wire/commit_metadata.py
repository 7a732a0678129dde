"""Decode the metadata of committed offsets, which may also come from a tool that resets offsets.

Input: the commits of a group. Output: a struct, or None if the metadata is not valid. The bounds of
the struct's fields define which numbers a service can continue with.
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

# Room for times in the years 1 to 9999 in microseconds, and for record numbers, plus or minus the
# longest span of a stream file.
_FURTHEST: Final = 2**59
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Position = Annotated[int, Meta(ge=-_FURTHEST, le=_FURTHEST)]
Step = Annotated[int, Meta(ge=0, le=2 * _FURTHEST)]

T = TypeVar("T")

_BY: Final[Mapping[Axis, str]] = {"time": "by event time (`span`)", "row": "in records (`records`)"}


class Kind(NamedTuple):
    """The metadata of the offsets of a topic.

    `struct` is its type, and `otherwise` describes the consequence if it cannot be used.
    """

    struct: type[msgspec.Struct]
    otherwise: str


def metadata_of(committed: Committed, struct: type[T]) -> T | None:
    """Return the metadata of a committed offset, or None if it is empty or not valid.

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
    """Return the commits of a group without metadata that is not valid. Log a warning for each.

    `kinds` describes the metadata by topic. Metadata of other topics is unchanged. Raises
    StreamFileError if the group's windows were on the other axis, because positions on different
    axes cannot be compared.
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
        is_empty = committed.metadata in ("", "{}")  # `{}`: the metadata had only the topic's id
        if kind is not None and not is_empty and stored is None:
            log.warning(
                "group %s, %s[%d]: the metadata beside the committed offset %d is not Driftline's "
                "and is ignored: %s",
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

    The committed offset may be smaller, because the group rebuilds its state from there. Its
    metadata then contains the offset up to which results were published.

    >>> handled(Committed(10, '{"published": 25}')), handled(Committed(10)), handled(None)
    (25, 10, 0)
    """
    if committed is None:
        return 0
    found = metadata_of(committed, _Published)  # None if another program has committed
    return committed.offset if found is None else max(committed.offset, found.published)
