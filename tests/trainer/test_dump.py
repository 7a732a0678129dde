"""Estimators with equal content are written as equal bytes."""

import io

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeRegressor

from trainer.dump import dump, without_garbage

PADDED = np.dtype({"names": ["flag", "number"], "formats": ["u1", "f8"], "offsets": [0, 8]})


def test_padding_is_written_as_zeros() -> None:
    memory = np.full(32, 0xAB, dtype=np.uint8)
    array = memory.view(PADDED)
    array["flag"], array["number"] = 1, 2.5
    clean = without_garbage(array)
    assert clean.tobytes()[1:8] == bytes(7)
    assert (clean == array).all()


def test_equal_strings_give_the_same_bytes_whether_or_not_they_are_one_object() -> None:
    one = "".join(["a", "b"])
    other = "".join(["a", "b"])
    assert one is not other
    assert dump([one, other]) == dump([one, one])


def test_equal_types_give_the_same_bytes_whether_or_not_they_are_one_object() -> None:
    loaded = joblib.load(io.BytesIO(dump(np.dtype("f8"))))
    array = np.zeros(3)
    assert dump([array, np.zeros(3, dtype=loaded)]) == dump([array, np.zeros(3)])


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeRegressor(random_state=0),
        RandomForestClassifier(n_estimators=20, random_state=0),
    ],
    ids=["tree", "forest"],
)
def test_the_same_data_give_the_same_bytes(estimator: object) -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(200, 3)).astype(np.float32)
    target = (matrix[:, 0] > 0).astype(np.int64)

    def fitted() -> bytes:
        from sklearn.base import clone

        return dump(clone(estimator).fit(matrix, target))

    assert len({fitted() for _ in range(5)}) == 1
    loaded = joblib.load(io.BytesIO(fitted()))
    assert (loaded.predict(matrix) == target).mean() > 0.9
