"""Text from records is displayed unchanged, but cannot control the terminal."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from driftline.safe_text import MAX_LABEL, json_line, labels, visible, visible_lines
from tests.hostile import HOSTILE


def acting(text: str) -> set[str]:
    categories = {unicodedata.category(c) for c in text if c not in "\u200c\u200d"}
    return categories & {"Cc", "Cf", "Zl", "Zp", "Cs"}


@given(st.text() | st.sampled_from(HOSTILE))
def test_no_control_character_remains(text: str) -> None:
    shown = visible(text)
    assert not acting(shown)


@given(st.text() | st.sampled_from(HOSTILE) | st.lists(st.sampled_from(HOSTILE)).map("\n".join))
def test_no_line_of_a_text_can_imitate_another_line(text: str) -> None:
    first, *more = visible_lines(text).split("\n")
    assert not acting(first + "".join(more))
    assert all(line.startswith("  ") for line in more)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(HOSTILE))
def test_json_has_the_same_content_without_control_characters(text: str) -> None:
    line = json_line({"id": text})
    assert json.loads(line) == {"id": text}
    assert not acting(line)


@given(st.sets(st.text() | st.sampled_from(HOSTILE) | st.text("<‹>›", max_size=3)))
def test_labels_have_no_markup_and_are_distinct(texts: set[str]) -> None:
    found = labels(texts)
    assert set(found) == texts
    assert len(set(found.values())) == len(texts)
    assert not set("<>&\n") & set("".join(found.values()))


def test_ordinary_text_is_kept() -> None:
    ordinary = ["Größe in °C", "日本 👩‍🔬", 'say "x" [1]', "a\u200cb"]
    assert labels(ordinary) == {text: text for text in ordinary}


def test_long_labels_are_shortened_and_stay_distinct() -> None:
    found = labels(["x" * 10_000 + end for end in "ab"])
    assert sorted(map(len, found.values())) == [MAX_LABEL, MAX_LABEL + 4]
