"""Encode and decode `reference.npz`, the reference in a model package, as bytes.

The reference contains samples of the model's training data. The monitor compares windows with these
samples. Class and category names are stored as codes and a table, never as pickles, so decoding a
reference never executes code.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.models.archive import ArchiveLimits, archive
from driftline.wire.columns import Columns

# 10,000 rows are enough for all tests at the significance levels in use. They add a few hundred kB
# to the package.
MAX_REFERENCE_ROWS: Final = 10_000

# For each of the two samples, the file contains a few arrays per column.
_LIMITS: Final = ArchiveLimits(20_000, 256 << 20)

NumberArray = NDArray[np.float64]
ObjectArray = NDArray[np.object_]


class Reference(msgspec.Struct, frozen=True):
    """Two samples of a model's training data.

    The first sample contains the newest `n` rows (at most 10,000) that the model was trained on, in
    time order. `columns` contains the watched and derived features, and `positions` is int64 (n,).
    `predictions` are the model's predictions: class names, object (n,), or numbers, float64 (n,).

    The second sample contains the `m` rows that were held out while models were compared, and
    `held_labels` contains the labels. `held_predictions` and `held_scores` (m, k) come from the
    chosen model before it was refitted on all rows, because in-sample errors would be too small.
    `errors` are float64 (m,): 0 or 1 for classification, absolute errors for regression. The
    columns of `held_scores` are in the order of `classes`. `held_columns` are the watched and
    derived features of the newest `min(m, 10,000)` held-out rows. Old packages have neither
    `classes` nor `held_columns`.

    `levels` contains all values of each category in the training data, and `ranges` contains the
    smallest and largest value of each number. `rows` is the manifest's number of training rows.
    """

    columns: Columns
    positions: NDArray[np.int64]
    predictions: ObjectArray | NumberArray
    held_labels: ObjectArray | NumberArray
    held_predictions: ObjectArray | NumberArray
    held_scores: NumberArray | None
    errors: NumberArray
    levels: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, tuple[float, float]]
    classes: tuple[str, ...] = ()
    held_columns: Columns | None = None
    rows: int | None = None


class _Names(msgspec.Struct, frozen=True):
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    ranges: dict[str, tuple[float, float]]
    classes: tuple[str, ...] = ()
    held: bool = False  # whether the file has `held_columns`, with the same column names


def save_reference(reference: Reference) -> bytes:
    """Encode a reference as an npz file. The same reference always gives the same bytes."""
    arrays: dict[str, NDArray[Any]] = {"positions": reference.positions, "errors": reference.errors}
    columns = reference.columns
    names = _Names(
        tuple(columns.numbers),
        tuple(columns.categories),
        dict(reference.levels),
        dict(reference.ranges),
        reference.classes,
        held=reference.held_columns is not None,
    )
    arrays["names"] = np.frombuffer(msgspec.json.encode(names), dtype=np.uint8)
    # Store columns by number, because a column name may contain characters that are not allowed
    # in a zip entry.
    _pack_columns(arrays, "", columns, names)
    if reference.held_columns is not None:
        _pack_columns(arrays, "held_", reference.held_columns, names)
    for name in ("predictions", "held_labels", "held_predictions"):
        _pack(arrays, name, getattr(reference, name))
    if reference.held_scores is not None:
        arrays["held_scores"] = reference.held_scores
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub expects a flag
    return file.getvalue()


def load_reference(data: bytes) -> Reference:
    """Decode bytes from `save_reference`. Raises PackageCheckFailed if the bytes are invalid."""
    with archive(data, _LIMITS, "the package's reference cannot be read") as package:
        arrays = {name.removesuffix(".npy"): _array(package.read(name)) for name in package.names}
        names = msgspec.json.decode(arrays["names"].tobytes(), type=_Names)
        errors = arrays["errors"]
        held = min(len(errors), MAX_REFERENCE_ROWS)
        reference = Reference(
            columns=_unpack_columns(arrays, "", names, len(arrays["positions"])),
            positions=arrays["positions"],
            predictions=_unpack(arrays, "predictions"),
            held_labels=_unpack(arrays, "held_labels"),
            held_predictions=_unpack(arrays, "held_predictions"),
            held_scores=arrays.get("held_scores"),
            errors=errors,
            levels=names.levels,
            ranges=names.ranges,
            classes=names.classes,
            held_columns=_unpack_columns(arrays, "held_", names, held) if names.held else None,
        )
        _check(reference)
        return reference


def _array(data: bytes) -> NDArray[Any]:
    """Decode an array in NumPy's format. Raises ValueError if the header does not match the size.

    NumPy's own reader is not used, because it would allocate as much memory as the header states.
    """
    file = io.BytesIO(data)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, by_column, dtype = read(file)
    at = file.tell()
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(data) - at:
        raise ValueError(f"invalid array: {dtype} of shape {shape} in {len(data) - at} bytes")
    flat: NDArray[Any] = np.frombuffer(bytearray(data), dtype, offset=at)
    return flat.reshape(shape, order="F" if by_column else "C")


def _check(reference: Reference) -> None:
    """Raise ValueError unless the arrays have matching lengths."""
    rows, held = len(reference.positions), len(reference.errors)
    _need("predictions", reference.predictions, rows)
    for name in ("held_labels", "held_predictions", "errors"):
        _need(name, getattr(reference, name), held)
    kept = min(held, MAX_REFERENCE_ROWS)
    for columns, length in ((reference.columns, rows), (reference.held_columns, kept)):
        if columns is not None:
            for name, values in (*columns.numbers.items(), *columns.categories.items()):
                _need(name, values, length)
    scores = reference.held_scores
    if scores is not None and (scores.ndim != 2 or len(scores) != held):
        raise ValueError(f"held-out scores of shape {scores.shape} for {held} rows")


def _need(name: str, values: NDArray[Any], length: int) -> None:
    if values.shape != (length,):
        raise ValueError(f"{name[:100]}: shape {values.shape}, but {length} rows were expected")


def _pack_columns(
    arrays: dict[str, NDArray[Any]], prefix: str, columns: Columns, names: _Names
) -> None:
    for place, name in enumerate(names.numbers):
        arrays[f"{prefix}number_{place}"] = columns.numbers[name]
    for place, name in enumerate(names.categories):
        _pack(arrays, f"{prefix}category_{place}", columns.categories[name])


def _unpack_columns(
    arrays: Mapping[str, NDArray[Any]], prefix: str, names: _Names, length: int
) -> Columns:
    return Columns(
        {name: arrays[f"{prefix}number_{place}"] for place, name in enumerate(names.numbers)},
        {
            name: _unpack(arrays, f"{prefix}category_{place}")
            for place, name in enumerate(names.categories)
        },
        length,
    )


def _pack(arrays: dict[str, NDArray[Any]], name: str, values: NDArray[Any]) -> None:
    """Add `values` to `arrays`: numbers unchanged, names as codes and a JSON table.

    The code of a missing name is -1.
    """
    if values.dtype != object:
        arrays[name] = values
        return
    table: Sequence[str] = sorted({value for value in values if value is not None})
    places: dict[str | None, int] = {value: place for place, value in enumerate(table)}
    places[None] = -1
    arrays[f"{name}_codes"] = np.array([places[value] for value in values], dtype=np.int32)
    arrays[f"{name}_table"] = np.frombuffer(msgspec.json.encode(table), dtype=np.uint8)


def _unpack(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name in arrays:
        return arrays[name]
    table = msgspec.json.decode(arrays[f"{name}_table"].tobytes(), type=list[str])
    # The code -1 selects the last element, which is None.
    lookup = np.empty(len(table) + 1, dtype=object)
    lookup[:-1] = table
    values: ObjectArray = lookup[arrays[f"{name}_codes"]]
    return values
