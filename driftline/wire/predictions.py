"""Encode a batch of predictions as JSON values for Kafka, each with its record's raw bytes."""

from collections.abc import Sequence
from functools import partial
from operator import is_not

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.wire.columns import Batch
from driftline.wire.values import format_time

_is_known = partial(is_not, None)


class PredictionEncoder:
    """Encode one model's predictions for records from one topic, a batch at a time.

    The result is JSON that decodes to `events.Prediction`. Each column is encoded in one call, and
    a template joins the columns. Values that all records share are part of the template. Encoding
    one struct per record would take three times as long.
    """

    def __init__(self, model: str, classes: Sequence[str], topic: str) -> None:
        self._model = model
        self._classes = classes
        self._topic = topic

    def encode(
        self,
        partitions: Sequence[int],
        offsets: Sequence[int],
        records: Sequence[bytes | None],
        batch: Batch,
        predictions: Sequence[str] | NDArray[np.float64],
        probabilities: NDArray[np.float64] | None,
    ) -> list[bytes]:
        """Encode the predictions for n ≥ 1 records. All arguments have length n.

        `partitions` and `offsets` locate the records in their topic. `records` are the records'
        bytes, and `batch` was decoded from these bytes. `predictions` are n class names, or n
        numbers for regression. `probabilities` has shape (n, classes), or is None if the model
        returns no probabilities.
        """
        cells: list[Sequence[bytes | None]] = [_texts(batch.ids)]
        template = [b'{"type":"prediction","record_id":"%b","time":']
        if any(map(_is_known, batch.times_us)):
            times = [None if time is None else format_time(time) for time in batch.times_us]
            cells.append(_numbers(times))
            template.append(b"%b")
        else:
            template.append(b"null")
        cells.append(_numbers(batch.rows))
        if isinstance(predictions, np.ndarray):
            cells.append(_numbers(predictions.tolist()))
            template.append(b',"row":%b,"prediction":%b,"scores":')
        else:
            cells.append(_texts(predictions))
            template.append(b',"row":%b,"prediction":"%b","scores":')
        if probabilities is None:
            template.append(b"null")
        else:
            cells.extend(map(_numbers, probabilities.T.tolist()))
            template += [b"{", b",".join(_fixed(name) + b":%b" for name in self._classes), b"}"]
        template += [b',"model":', _fixed(self._model)]
        template += [b',"source":{"topic":', _fixed(self._topic), b',"partition":']
        if partitions.count(partitions[0]) == len(partitions):
            template.append(b"%d" % partitions[0])
        else:
            cells.append(_numbers(partitions))
            template.append(b"%b")
        cells += [_numbers(offsets), records]
        template.append(b',"offset":%b},"record":%b}')
        return list(map(b"".join(template).__mod__, zip(*cells, strict=True)))


def marked_ahead(event: bytes) -> bytes:
    """Return an encoded prediction or outcome with `ahead` set to true.

    >>> marked_ahead(b'{"type":"prediction","record_id":"7"}')
    b'{"type":"prediction","ahead":true,"record_id":"7"}'
    """
    kind, comma, rest = event.partition(b",")
    return kind + comma + b'"ahead":true,' + rest


def _fixed(text: str) -> bytes:
    """Return text as JSON, with `%` escaped for the template."""
    return msgspec.json.encode(text).replace(b"%", b"%%")


def _texts(values: Sequence[str]) -> list[bytes]:
    """Encode one or more strings as JSON, without the enclosing quotes."""
    encoded = msgspec.json.encode(values)
    if b"\\" in encoded:  # a string with an escaped quote may contain `","`
        return [msgspec.json.encode(value)[1:-1] for value in values]
    return encoded[2:-2].split(b'","')


def _numbers(values: Sequence[float | str | None]) -> list[bytes]:
    """Encode one or more values as JSON: numbers, None, or strings without a comma."""
    return msgspec.json.encode(values)[1:-1].split(b",")
