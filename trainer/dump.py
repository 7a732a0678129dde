"""Serialize an estimator to joblib bytes that depend on its content alone.

Plain `joblib.dump` gives different bytes for equal estimators: the padding in tree nodes has
arbitrary content, and a pickle shows which equal strings are the same object.
"""

import io
from typing import Any

import numpy as np
from joblib.numpy_pickle import NumpyPickler
from numpy.typing import NDArray


def dump(estimator: Any) -> bytes:
    """Return bytes for `joblib.load`, the same ones for estimators with the same content."""
    file = io.BytesIO()
    _Pickler(file).dump(estimator)
    return file.getvalue()


class _Pickler(NumpyPickler):  # type: ignore[misc]  # joblib has no types
    """Writes structured arrays with zeros as padding, and equal strings as one object."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._first: dict[Any, Any] = {}  # the first of all equal strings, or data types

    def save(self, obj: Any, *args: Any, **options: Any) -> Any:
        if type(obj) is str or isinstance(obj, np.dtype):
            obj = self._first.setdefault(obj, obj)
        elif type(obj) is np.ndarray and obj.dtype.names is not None:
            obj = without_garbage(obj)
        return super().save(obj, *args, **options)


def without_garbage(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of a structured array whose padding is zero."""
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in array.dtype.names or ():
        clean[name] = array[name]
    return clean
