"""Encode and decode labels, the records' true values, as flat JSON in the `labels` Kafka topic."""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

from driftline.config.stream import Stream
from driftline.config.stream_sections import AT, ID
from driftline.errors import DataError
from driftline.wire.batch_decoding import Decoded, decode_each
from driftline.wire.column_decoders import DECODE_ERRORS, IdType, Scalar, make_decoder, reason_of
from driftline.wire.columns import Rejected
from driftline.wire.events import MAX_ROW
from driftline.wire.values import MAX_NUMBER, format_time, parse_time, shortened, shown, text


class Label(msgspec.Struct, frozen=True, gc=False):
    """A record's true value.

    `at` is the position at which the label became known; None means the record's own position.
    `key` is the value of the key column, or None if the label does not contain this column or if
    records are keyed by their id.
    """

    record_id: str
    label: str | float
    at: int | None = None
    key: str | None = None


class LabelCodec:
    """Encode and decode one stream's labels.

    >>> from driftline.config.stream import loads
    >>> stream = loads('''
    ... version = 1
    ... name = "iris"
    ... task = "classification"
    ... target = "species"
    ... record = { id = "flower" }
    ... features = { petal_width = "number" }
    ... ''')
    >>> codec = LabelCodec(stream)
    >>> codec.encode("7", "setosa", at=12)
    b'{"flower":"7","species":"setosa","@at":12}'
    >>> codec.decode(b'{"flower": 7, "species": "setosa"}')
    Label(record_id='7', label='setosa', at=None, key=None)
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._by_row = stream.axis == "row"
        self._is_number = stream.task == "regression"
        self._id = stream.record.id
        key = stream.record.key
        self._key = None if key in (ID, self._id) else key
        types: dict[str, Any] = {
            self._id: IdType,
            stream.target: float | None if stream.task == "regression" else Scalar,
            AT: str | int | None,
        }
        if self._key is not None and self._key not in types:
            types[self._key] = Scalar
        fields = [0, 1, 2] if self._key is None else [0, 1, 2, list(types).index(self._key)]
        self._fields = attrgetter(*(f"f{place}" for place in fields))
        self._decode = make_decoder(types, refuse_unknown=False)
        self._decode_at = make_decoder({AT: types[AT]}, refuse_unknown=False)

    def decode(self, value: bytes | None) -> Label:
        """Decode one label. Raises DataError with the column and the reason."""
        if value is None:
            raise DataError("no value: the label is empty")
        try:
            value.decode()  # also check the encoding of fields that the schema skips
            decoded = self._decode(value)
        except DECODE_ERRORS as error:
            raise DataError(reason_of(error)) from error
        return self._label(decoded)

    def decode_all(self, values: Sequence[bytes | None]) -> Decoded[Label]:
        """Decode a batch of labels. Unusable labels are returned in `rejected`, with reasons."""
        found = decode_each(self._decode, values)
        if not found.rejected and (plain := self._plain(found.items)) is not None:
            return Decoded(plain, found.kept, [])
        labels: list[Label] = []
        kept: list[int] = []
        rejected = list(found.rejected)
        for index, decoded in zip(found.kept, found.items, strict=True):
            try:
                labels.append(self._label(decoded))
            except DataError as error:
                rejected.append(Rejected(index, error.message))
            else:
                kept.append(index)
        return Decoded(labels, kept, sorted(rejected, key=attrgetter("index")))

    def _plain(self, decoded: Sequence[Any]) -> list[Label] | None:
        """Convert all labels column by column, in half the time that `_label` takes.

        Return None unless all ids, keys and classes are text and every `@at` is a record number.
        """
        if not decoded or self._is_number or not self._by_row:
            return None
        ids, labels, at, *keys = zip(*map(self._fields, decoded), strict=True)
        if not all(ids) or set(map(type, chain(ids, labels, *keys))) != {str}:
            return None
        if set(map(type, at)) != {int} or min(at) < 0 or max(at) > MAX_ROW:
            return None
        return list(map(Label, ids, labels, at, *keys))

    def _label(self, decoded: Any) -> Label:
        record_id, label, at, *keys = self._fields(decoded)
        if record_id is None or record_id == "":
            raise DataError(f"missing id: column {self._id!r} is {shown(record_id)}")
        if label is None:
            raise DataError(f"missing label: column {self._stream.target!r} is null or absent")
        if self._is_number and abs(label) > MAX_NUMBER:
            raise DataError(
                f"column {self._stream.target!r}: expected a number from -{MAX_NUMBER:.7g} to "
                f"{MAX_NUMBER:.7g}, got {label!r}"
            )
        return Label(  # nearly all ids and classes are strings, which need no call to `text`
            record_id if type(record_id) is str else text(record_id),
            label if self._is_number or type(label) is str else text(label),
            None if at is None else self._position(at),
            *(None if key is None else text(key) for key in keys),
        )

    def _position(self, at: str | int) -> int:
        if self._by_row:
            if isinstance(at, int) and 0 <= at <= MAX_ROW:
                return at
            raise DataError(
                f"field {AT!r}: expected a record number up to {MAX_ROW}, got {shortened(repr(at))}"
            )
        try:
            return parse_time(str(at))
        except ValueError as error:
            raise DataError(f"field {AT!r}: {shortened(str(error))}") from error

    def position(self, value: bytes | None) -> int | None:
        """Return the `@at` of an unusable label, or None if `@at` is absent or unreadable.

        >>> from driftline.config.stream import loads
        >>> stream = loads('''
        ... version = 1
        ... name = "iris"
        ... task = "classification"
        ... target = "species"
        ... features = { petal_width = "number" }
        ... ''')
        >>> LabelCodec(stream).position(b'{"kind": "setosa", "@at": 12}')
        12
        """
        try:
            at = self._decode_at(value or b"").f0
            return None if at is None else self._position(at)
        except (*DECODE_ERRORS, DataError):
            return None

    def encode(
        self, record_id: str, label: str | float, *, at: int | None = None, key: object = None
    ) -> bytes:
        """Encode one label as JSON.

        `at` is a position on the windows' axis. `key` is the record's value in the key column; it
        is omitted if records are keyed by their id.
        """
        fields: dict[str, object] = {self._id: record_id}
        if self._key is not None and key is not None:
            fields[self._key] = key
        fields[self._stream.target] = label
        if at is not None:
            fields[AT] = at if self._stream.axis == "row" else format_time(at)
        return msgspec.json.encode(fields)
