"""Text from records, made safe to show: nothing in it acts on a terminal, a page or a log line."""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

import msgspec

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


def visible_lines(text: str) -> str:
    r"""Return `visible` text in which each line after the first is indented, so that none of them
    reads like a line that somebody else wrote.

    >>> visible_lines("failed\x1b\n  frame\nERROR forged")
    'failed\\x1b\n  frame\n  ERROR forged'
    """
    return re.sub(r"\n(?!  )", "\n  ", visible(text, keep="\n"))


def json_line(value: object) -> str:
    r"""Return the value as JSON that says the same, in one line with `visible` characters alone.

    >>> json_line({"id": "a\x9b\u202e"})
    '{"id":"a\\u009b\\u202e"}'
    """
    return visible_json(msgspec.json.encode(value))


def visible_json(encoded: bytes) -> str:
    r"""As `json_line`, of JSON. Raises DecodeError, UnicodeDecodeError.

    >>> visible_json(b'{"a":\n 1.50}')
    '{"a":1.50}'
    """
    text = msgspec.json.format(encoded, indent=-1).decode()
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        json.dumps(c)[1:-1] if unicodedata.category(c) in _ACTIVE and c not in _JOINERS else c
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
