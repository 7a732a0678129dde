"""Serialize a scikit-learn estimator to joblib bytes that depend only on its content.

Plain `joblib.dump` can produce different bytes for equal estimators: padding bytes in tree nodes
are arbitrary, and a pickle encodes which of several equal strings are the same object.
"""

import io
from typing import Any

import numpy as np
from joblib.numpy_pickle import NumpyPickler
from numpy.typing import NDArray


def dump(estimator: Any) -> bytes:
    """Return bytes that `joblib.load` can read. Equal estimators produce equal bytes."""
    file = io.BytesIO()
    _Pickler(file).dump(estimator)
    return file.getvalue()


class _Pickler(NumpyPickler):  # type: ignore[misc]  # joblib has no types
    """Writes structured arrays with zeroed padding, and equal strings as a single object."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._first: dict[Any, Any] = {}  # first object seen for each string or data type

    def save(self, obj: Any, *args: Any, **options: Any) -> Any:
        if type(obj) is str or isinstance(obj, np.dtype):
            obj = self._first.setdefault(obj, obj)
        elif type(obj) is np.ndarray and obj.dtype.names is not None:
            obj = without_garbage(obj)
        return super().save(obj, *args, **options)


def without_garbage(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of a structured array with zeroed padding."""
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in array.dtype.names or ():
        clean[name] = array[name]
    return clean
