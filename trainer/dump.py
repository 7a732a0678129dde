"""An estimator as joblib bytes that depend on its content alone.

Plain `joblib.dump` gives other bytes for an equal estimator: the nodes of trees have padding, which
holds whatever lay in memory, and pickles note which equal strings are one object.
"""

import io
from typing import Any

import joblib
import numpy as np
from joblib.numpy_pickle import NumpyPickler
from numpy.typing import NDArray


def dump(estimator: Any) -> bytes:
    """What `joblib.load` takes; the same for estimators with the same content."""
    first = io.BytesIO()
    _Pickler(first).dump(estimator)
    first.seek(0)
    # After a round trip, what is one object hangs on the content alone, not on how it came about.
    second = io.BytesIO()
    _Pickler(second).dump(joblib.load(first))
    return second.getvalue()


class _Pickler(NumpyPickler):  # type: ignore[misc]  # joblib has no types
    """Writes structured arrays with zeros between their fields."""

    def save(self, obj: Any) -> Any:
        if type(obj) is np.ndarray and obj.dtype.names is not None:
            obj = without_garbage(obj)
        return super().save(obj)


def without_garbage(array: NDArray[Any]) -> NDArray[Any]:
    """A copy of a structured array whose padding is zero."""
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in array.dtype.names or ():
        clean[name] = array[name]
    return clean
