"""Text from records is shown as it is, and acts on nothing."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from driftline.plain import MAX_LABEL, labels, visible
from tests.hostile import HOSTILE


@given(st.text() | st.sampled_from(HOSTILE))
def test_no_character_that_acts_remains(text: str) -> None:
    shown = visible(text)
    categories = {unicodedata.category(c) for c in shown if c not in "\u200c\u200d"}
    assert not categories & {"Cc", "Cf", "Zl", "Zp", "Cs"}


@given(st.sets(st.text() | st.sampled_from(HOSTILE) | st.text("<‹>›", max_size=3)))
def test_labels_have_no_markup_and_tell_values_apart(texts: set[str]) -> None:
    found = labels(texts)
    assert set(found) == texts
    assert len(set(found.values())) == len(texts)
    assert not set("<>&\n") & set("".join(found.values()))


def test_ordinary_text_is_kept() -> None:
    ordinary = ["Größe in °C", "日本 👩‍🔬", 'say "x" [1]', "a\u200cb"]
    assert labels(ordinary) == {text: text for text in ordinary}


def test_long_labels_are_cut_and_differ() -> None:
    found = labels(["x" * 10_000 + end for end in "ab"])
    assert sorted(map(len, found.values())) == [MAX_LABEL, MAX_LABEL + 4]
