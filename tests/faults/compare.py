"""Compare the windows and drift events of two runs.

These events contain no partition, worker or client. Two runs over the same records and models must
therefore publish the same bytes. Only the end of the stream depends on partitions: labels that were
known after the newest record advance only their own partition. The number of panes that close there
is not compared.
"""

from collections.abc import Iterable, Sequence

import msgspec

from tests.replay import Written


class _Place(msgspec.Struct, frozen=True):
    """The end of a window, or the position of a drift event."""

    end: int = 0
    position: int = 0


def up_to(end: int, written: Written) -> Written:
    """Return the events at or before a position, which is a record number if records have one.

    >>> up_to(10, Written([b'{"end": 10}', b'{"end": 11}'], [b'{"position": 12}']))
    Written(windows=[b'{"end": 10}'], drift=[])
    """
    return Written(_up_to(end, written.windows), _up_to(end, written.drift))


def _up_to(end: int, values: Iterable[bytes]) -> list[bytes]:
    places = msgspec.json.Decoder(_Place)
    return [v for v in values if max((at := places.decode(v)).end, at.position) <= end]


def differences(expected: Written, found: Written) -> tuple[str, ...]:
    """Return a text for each difference; empty if there is none.

    >>> differences(Written([b"{}"], []), Written([b"{}"], []))
    ()
    """
    return tuple(
        line
        for name, ours, theirs in (
            ("windows", expected.windows, found.windows),
            ("drift", expected.drift, found.drift),
        )
        for line in _differences(name, ours, theirs)
    )


def _differences(name: str, ours: Sequence[bytes], theirs: Sequence[bytes]) -> list[str]:
    mine, other = set(ours), set(theirs)
    if mine == other and len(ours) == len(theirs):
        return []
    said = [
        f"{name}: {len(ours)} and {len(theirs)}, of which {len(mine - other)} and "
        f"{len(other - mine)} are in only one run"
    ]
    pairs = _by_id(mine - other), _by_id(other - mine)
    for id in sorted(pairs[0].keys() & pairs[1].keys())[:3]:
        fields = [
            f"{key}: {value!s:.120} against {pairs[1][id].get(key)!s:.120}"
            for key, value in pairs[0][id].items()
            if value != pairs[1][id].get(key)
        ]
        said.append(f"{id}: {'; '.join(fields)}")
    return said


def _by_id(values: set[bytes]) -> dict[str, dict[str, object]]:
    decoded = (msgspec.json.decode(value, type=dict[str, object]) for value in sorted(values))
    return {str(value.get("id")): value for value in decoded}
