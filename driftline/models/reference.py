"""The profile of the data that a model was trained on: what the monitor compares windows with.

Kept in the package as `reference.npz`. Names are stored as codes and a table, never as pickles:
reading it runs no code.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns
from driftline.models.archive import Limits, archive

# Enough for any test at the significance levels in use, and a few hundred kB in the package.
MAX_REFERENCE_ROWS: Final = 10_000

# A few arrays for each column, twice.
_LIMITS: Final = Limits(20_000, 256 << 20)

NumberArray = NDArray[np.float64]
ObjectArray = NDArray[np.object_]


class Reference(msgspec.Struct, frozen=True):
    """Two samples of the training data.

    The newest `n` rows that the model was trained on (at most 10,000, in time order):
    `columns` of the watched and derived features, `positions` int64 (n,), and `predictions` of the
    model about them: object (n,) of class names or float64 (n,).

    The `m` rows that were held out while models were chosen, with `held_predictions` and
    `held_scores` (m, k) of the winner as it was before it was fitted again on everything: in-sample
    errors would be too small. `errors` float64 (m,) are 0 or 1, or absolute. `classes` are those of
    the scores, in order. `held_columns` are the watched and derived features of the newest
    `min(m, 10,000)` of these rows. Packages made before these two were kept have neither.

    `levels`: all values of each category in the training data; `ranges`: least and largest number.
    `rows`: how many there were, which the package's manifest says.
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
    held: bool = False  # whether the held-out columns are kept; they have the same names


def save_reference(reference: Reference) -> bytes:
    """As the bytes of an npz file; the same reference gives the same bytes."""
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
    # Columns are stored by their place: a name may hold anything, a zip entry may not.
    _pack_columns(arrays, "", columns, names)
    if reference.held_columns is not None:
        _pack_columns(arrays, "held_", reference.held_columns, names)
    for name in ("predictions", "held_labels", "held_predictions"):
        _pack(arrays, name, getattr(reference, name))
    if reference.held_scores is not None:
        arrays["held_scores"] = reference.held_scores
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one
    return file.getvalue()


def load_reference(data: bytes) -> Reference:
    """Undo `save_reference`. Raises PackageCheckFailed if these are other bytes."""
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
    """An array in NumPy's format. Its header is checked against the bytes that are there: NumPy
    would allocate what it states."""
    file = io.BytesIO(data)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, by_column, dtype = read(file)
    at = file.tell()
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(data) - at:
        raise ValueError(f"an array of {dtype} and shape {shape} in {len(data) - at} bytes")
    flat: NDArray[Any] = np.frombuffer(bytearray(data), dtype, offset=at)
    return flat.reshape(shape, order="F" if by_column else "C")


def _check(reference: Reference) -> None:
    """Raise ValueError unless the arrays fit together."""
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
        raise ValueError(f"{name[:100]}: shape {values.shape} where {length} rows are expected")


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
    """A float array as it is; names as codes into a table of JSON, -1 for a missing one."""
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
    # The place -1 is the last one: that of None.
    lookup = np.empty(len(table) + 1, dtype=object)
    lookup[:-1] = table
    values: ObjectArray = lookup[arrays[f"{name}_codes"]]
    return values
