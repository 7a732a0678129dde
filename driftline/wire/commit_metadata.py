"""Reads the metadata beside committed offsets, which any tool that moves offsets may have written.

In: what a group has committed. Out: a struct, or none where the text is not one of its values. The
bounds of the structs' fields say which numbers a service can go on from.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from driftline.broker.port import Committed, TopicPartition
from driftline.config.stream import Axis
from driftline.errors import StreamFileError
from driftline.wire.column_decoders import DECODE_ERRORS

log = logging.getLogger(__name__)

# Positions are microseconds of the years 1 to 9999, or numbers of records, give or take the longest
# span of a stream file.
_FURTHEST: Final = 2**59
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Position = Annotated[int, Meta(ge=-_FURTHEST, le=_FURTHEST)]
Step = Annotated[int, Meta(ge=0, le=2 * _FURTHEST)]

T = TypeVar("T")

_BY: Final[Mapping[Axis, str]] = {"time": "by event time (`span`)", "row": "in records (`records`)"}


class Kind(NamedTuple):
    """What stands beside the offsets of a topic, and what follows where it cannot be used."""

    struct: type[msgspec.Struct]
    otherwise: str


def metadata_of(committed: Committed, struct: type[T]) -> T | None:
    """Return what stands beside a committed offset; None if that is nothing, or unusable.

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
    """Return the commits of a group without the metadata that it cannot go on from; log each.

    `kinds`: by topic. Metadata of other topics is left as it is. Raises StreamFileError if the
    group's windows were on another axis until now: positions of the two cannot be compared.
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
        is_empty = committed.metadata in ("", "{}")  # `{}`: nothing but the topic's id was there
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
