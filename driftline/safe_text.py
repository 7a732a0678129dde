"""Escape text from records so that it cannot control a terminal, an HTML page or a log line."""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

import msgspec

# These characters only join letters and are harmless. Their Unicode category, "Cf", also contains
# the marks that change the text direction.
_JOINERS: Final = "\u200c\u200d"
# The Unicode categories of control characters, marks that change the text direction, line and
# paragraph separators, and unpaired surrogates.
_ACTIVE: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
# Characters that delimit tags or entities in HTML and in Plotly labels → look-alike characters.
_MARKUP: Final = str.maketrans({"<": "‹", ">": "›", "&": "＆"})
# Longer labels would make a page unreadable, and many long labels would make it too large to open.
MAX_LABEL: Final = 200


def visible(text: str, *, keep: str = "") -> str:
    r"""Return the text with control characters escaped, except the characters in `keep`.

    >>> visible("\x1b[31mred\u202e\n"), visible("two\nlines", keep="\n")
    ('\\x1b[31mred\\u202e\\n', 'two\nlines')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if is_control(c) and c not in keep else c for c in text
    )


def is_control(character: str) -> bool:
    r"""Return whether a character can control a terminal, break a line or change text direction.

    >>> [is_control(c) for c in "a\n\u202e\u200d"]
    [False, True, True, False]
    """
    return unicodedata.category(character) in _ACTIVE and character not in _JOINERS


def visible_lines(text: str) -> str:
    r"""Escape the text as `visible` does, and indent all but the first line by at least two spaces.

    The indentation keeps a line of the text from looking like a separate log line.

    >>> visible_lines("failed\x1b\n  frame\nERROR forged")
    'failed\\x1b\n  frame\n  ERROR forged'
    """
    return re.sub(r"\n(?!  )", "\n  ", visible(text, keep="\n"))


def json_line(value: object) -> str:
    r"""Return the value as one line of JSON in which control characters are escaped.

    >>> json_line({"id": "a\x9b\u202e"})
    '{"id":"a\\u009b\\u202e"}'
    """
    return visible_json(msgspec.json.encode(value))


def visible_json(encoded: bytes) -> str:
    r"""Return encoded JSON on one line, with control characters escaped.

    Raises DecodeError or UnicodeDecodeError.

    >>> visible_json(b'{"a":\n 1.50}')
    '{"a":1.50}'
    """
    text = msgspec.json.format(encoded, indent=-1).decode()
    if text.isascii() and text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if is_control(c) else c for c in text)


def labels(texts: Iterable[str]) -> dict[str, str]:
    """Return a label without markup for each text. Different texts get different labels.

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
