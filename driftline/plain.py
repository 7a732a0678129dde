"""Text from records, made safe to show: nothing in it acts on a terminal, a page or a log line."""

import unicodedata
from collections.abc import Iterable
from typing import Final

# Kept as they are: they are in "Cf" with the marks that turn text around, but only join letters.
_JOINERS: Final = "\u200c\u200d"
# Control characters, marks that turn text around, line separators, halves of surrogate pairs.
_ACTIVE: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
# What begins a tag or an entity, in HTML and in the labels of Plotly, and what looks like it.
_MARKUP: Final = str.maketrans({"<": "‹", ">": "›", "&": "＆"})
# Longer ones make a page unreadable, and many of them too large to open.
MAX_LABEL: Final = 200


def visible(text: str, *, keep: str = "") -> str:
    r"""Return the text with each character that acts instead of showing written as an escape.

    >>> visible("\x1b[31mred\u202e\n"), visible("two\nlines", keep="\n")
    ('\\x1b[31mred\\u202e\\n', 'two\nlines')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in _ACTIVE and c not in _JOINERS and c not in keep
        else c
        for c in text
    )


def labels(texts: Iterable[str]) -> dict[str, str]:
    """Return for each text one that contains no markup and shows the same; all are different.

    >>> labels(["<b>", "‹b›", "plain"])
    {'<b>': '‹b›', 'plain': 'plain', '‹b›': '‹b› (2)'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for text in sorted(set(texts)):
        shown = label = visible(text).translate(_MARKUP)
        if len(label) > MAX_LABEL:
            shown = label = label[: MAX_LABEL - 1] + "…"
        number = 2
        while label in taken:
            label, number = f"{shown} ({number})", number + 1
        taken.add(label)
        found[text] = label
    return found
