"""The tests of columns give the same numbers as Evidently, on all kinds of data."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftline.config.stream_sections import Kind
from driftline.errors import MissingExtra, StreamFileError
from monitor.reference.column_tests import (
    DISTANCES,
    LEFT_OUT,
    MAX_EFFECT,
    P_VALUES,
    check,
    compare,
)
from tests.monitor.streams import small_stream

ALL = [(kind, name) for table in (P_VALUES, DISTANCES) for kind in table for name in table[kind]]
RNG = np.random.default_rng(0)


def sample(kind: Kind, size: int, shift: bool) -> NDArray[np.float64] | NDArray[np.object_]:
    if kind == "number":
        return RNG.normal(0.8 if shift else 0.0, 1.0, size)
    return RNG.choice(np.array(["a", "b"], dtype=object), size, p=[0.8, 0.2] if shift else None)


@pytest.mark.parametrize(("kind", "test"), ALL)
def test_each_test_distinguishes_a_shift_from_no_shift(kind: Kind, test: str) -> None:
    reference = sample(kind, 3000, False)
    same = compare(kind, test, reference, sample(kind, 1000, False))
    shifted = compare(kind, test, reference, sample(kind, 1000, True))
    assert same is not None
    assert shifted is not None
    assert (same.p_value is None) == (test in DISTANCES[kind])
    assert same.effect < 0.1 < shifted.effect
    if same.p_value is not None and shifted.p_value is not None:
        assert same.p_value > 0.005 > shifted.p_value


numbers = st.lists(st.floats(-1e12, 1e12), max_size=30).map(np.array)
classes = st.lists(st.sampled_from(["", "a", "β", "0"]), max_size=30).map(
    lambda values: np.array(values, dtype=object)
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), which=st.sampled_from(ALL))
def test_no_data_cause_an_error_in_a_test(data: st.DataObject, which: tuple[Kind, str]) -> None:
    kind, test = which
    values = numbers if kind == "number" else classes
    found = compare(kind, test, data.draw(values), data.draw(values))
    if found is not None:
        assert 0.0 <= found.effect <= MAX_EFFECT
        assert found.p_value is None or 0.0 <= found.p_value <= 1.0


def test_a_constant_column_that_changes_has_a_bounded_effect() -> None:
    constant = np.full(500, 3.0)
    same = compare("number", "ks", constant, constant[:200])
    other = compare("number", "ks", constant, np.full(200, 3.2))
    assert same is not None
    assert other is not None
    assert (same.p_value, same.effect) == (1.0, 0.0)
    assert other.p_value == pytest.approx(0.0)
    assert other.effect == MAX_EFFECT


def test_the_unit_of_a_column_does_not_matter() -> None:
    old, new = sample("number", 500, False), sample("number", 500, True)
    metres = compare("number", "ks", old, new)
    gigametres = compare("number", "ks", old * 1e-9, new * 1e-9)
    assert metres is not None
    assert gigametres is not None
    assert gigametres.effect == pytest.approx(metres.effect)


def test_an_unseen_category_is_a_certain_shift() -> None:
    old = np.array(["a"] * 500, dtype=object)
    found = compare("category", "chisquare", old, np.array(["b"] * 100, dtype=object))
    assert found is not None
    assert found.p_value == 0.0


def test_the_z_test_falls_back_to_chi_square_for_more_than_two_values() -> None:
    two = np.array(["a", "b"] * 50, dtype=object)
    three = np.array(["a", "b", "c", "c"] * 25, dtype=object)
    names = [compare("category", "z", two, other) for other in (two, three)]
    assert [found and found.test for found in names] == ["z", "chisquare"]


def test_only_tests_without_an_implementation_of_ours_need_evidently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "evidently", None)  # as if it were not installed
    check(small_stream())
    with pytest.raises(MissingExtra, match="category_test = 'psi' needs, is not installed"):
        check(small_stream(drift='category_test = "psi"'))


def test_each_test_of_evidently_is_available_or_excluded_with_a_reason() -> None:
    from evidently.legacy.calculations.stattests import registry

    offered = {name for _, name in ALL}
    of_text = {name for name in registry._registered_stat_tests if "text" in name}
    assert offered | set(LEFT_OUT) == set(registry._registered_stat_tests) - of_text
    for kind, name in (("number", "TVD"), ("category", "g_test")):
        stream = small_stream(drift=f'{kind}_test = "{name}"')
        with pytest.raises(StreamFileError, match=f"not '{name}': it (takes|needs)"):
            check(stream)


def test_another_process_gets_exactly_the_same_results() -> None:
    script = (
        "import numpy as np; from monitor.reference.column_tests import compare;"
        "rng = np.random.default_rng(0); names = [f'category {i}' for i in range(40)];"
        "old, new = (rng.choice(names, n).astype(object) for n in (1000, 700));"
        "print([compare('category', test, old, new) for test in ('chisquare', 'psi')])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
