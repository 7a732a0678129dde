"""Text from records is shown as it is, and acts on nothing."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from driftline.plain import MAX_LABEL, json_line, labels, visible, visible_lines
from tests.hostile import HOSTILE


def acting(text: str) -> set[str]:
    categories = {unicodedata.category(c) for c in text if c not in "\u200c\u200d"}
    return categories & {"Cc", "Cf", "Zl", "Zp", "Cs"}


@given(st.text() | st.sampled_from(HOSTILE))
def test_no_character_that_acts_remains(text: str) -> None:
    shown = visible(text)
    assert not acting(shown)


@given(st.text() | st.sampled_from(HOSTILE) | st.lists(st.sampled_from(HOSTILE)).map("\n".join))
def test_no_line_reads_like_one_that_somebody_else_wrote(text: str) -> None:
    first, *more = visible_lines(text).split("\n")
    assert not acting(first + "".join(more))
    assert all(line.startswith("  ") for line in more)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(HOSTILE))
def test_json_says_the_same_with_characters_that_do_nothing(text: str) -> None:
    line = json_line({"id": text})
    assert json.loads(line) == {"id": text}
    assert not acting(line)


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
