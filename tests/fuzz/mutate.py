"""Mutate bytes so that they stay almost valid, by replacing tokens and not only bytes.

In: seeds (valid examples), words that the format treats specially, a seeded `Random`. Out: an
endless stream of inputs, the same for the same seed.
"""

import re
from collections.abc import Sequence
from random import Random
from typing import Final

_TOKEN: Final = re.compile(
    rb'"(?:[^"\\]|\\.)*"|[A-Za-z_@][A-Za-z0-9_.@]*|-?[0-9][0-9A-Za-z.+:-]*|\s+|.', re.S
)
_VALUE_START: Final = b'"-0123456789tfnabcdefghijklmopqrsuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_@'

# Values on which JSON readers and Python disagree, and limits of numbers, times and texts.
WORDS: Final[tuple[bytes, ...]] = (
    *(b"null", b"true", b"false", b"0", b"-0", b"1", b"-1", b"0.5", b"-0.0", b"1e400", b"-1e400"),
    *(b"1e308", b"5e-324", b"1E5", b"01", b"1.", b".5", b"+1", b"NaN", b"Infinity", b"-Infinity"),
    *(str(2**power + delta).encode() for power in (31, 53, 63, 64) for delta in (-1, 0, 1)),
    *(str(-(2**power) + delta).encode() for power in (31, 53, 63) for delta in (-1, 0, 1)),
    *(b"1" + b"0" * 400, b"-1" + b"0" * 400, b"0." + b"1" * 400, b"9" * 5000),
    *(b'""', b'" "', b'"a"', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"'),
    *(b'"\\""', b'"\\\\"', b'"%s"', b'"%b"', b'","', b'"</script>"', b'"../../x"', b'"\xff"'),
    *(b'"\xc3\xa9"', b'"e\xcc\x81"', b'"\xe2\x80\xae"', b'"' + b"x" * 70_000 + b'"', b'"NaN"'),
    *(b'"0001-01-01T00:00:00+01:00"', b'"9999-12-31T23:59:59.999999-01:00"', b'"1970-01-01"'),
    *(b'"2024-02-30T00:00:00Z"', b'"2024-01-01T24:00:00Z"', b'"2024-01-01T00:00:60Z"'),
    *(b'"2024-01-01T00:00:00"', b'"2024-01-01T00:00:00Z"', b'"2024-01-01T00:00:00.1234567Z"'),
    *(b'"9999-12-31T23:59:59Z"', b'"0000-00-00T00:00:00Z"', b'"2024-01-01T00:00:00+24:00"'),
    *(b"[]", b"{}", b"[null]", b'{"a":1}', b"[" * 2000, b"[" * 50 + b"]" * 50, b"\xef\xbb\xbf"),
    *(b'"sha256:' + b"0" * 64 + b'"', b'"prediction"', b'"watermark"', b'"champion"', b'"bHc="'),
)


class Mutator:
    """Draws inputs. `words` are used in addition to `WORDS`."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes], random: Random) -> None:
        self._seeds = [_TOKEN.findall(seed) for seed in seeds]
        self._raw = list(seeds)
        self._words = (*WORDS, *words)
        self._random = random

    def draw(self) -> bytes:
        """Return one input."""
        random = self._random
        tokens = list(random.choice(self._seeds))
        kind = random.random()
        if kind < 0.55:
            self._exchange(tokens)
        elif kind < 0.65:
            self._exchange(tokens)
            self._rearrange(tokens)
        elif kind < 0.75:
            self._rearrange(tokens)
        elif kind < 0.85:
            other = random.choice(self._seeds)
            cut = random.randrange(len(tokens) + 1)
            tokens = tokens[:cut] + other[min(cut, len(other)) :]
        value = b"".join(tokens)
        return self._corrupt(value) if kind >= 0.85 or random.random() < 0.05 else value

    def _exchange(self, tokens: list[bytes]) -> None:
        """Replace one to three tokens with words, or with tokens of a seed."""
        random = self._random
        places = [place for place, token in enumerate(tokens) if token[0:1] in _STARTS]
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            if places:
                place = random.choice(places)
                word = (
                    random.choice(self._words)
                    if random.random() < 0.8
                    else random.choice(random.choice(self._seeds) or [b""])
                )
                tokens[place] = word

    def _rearrange(self, tokens: list[bytes]) -> None:
        """Drop, repeat or move a few neighbouring tokens."""
        random = self._random
        if not tokens:
            return
        start = random.randrange(len(tokens))
        end = min(len(tokens), start + random.choice((1, 2, 3, 4, 8)))
        part = tokens[start:end]
        kind = random.randrange(3)
        if kind != 1:
            del tokens[start:end]
        if kind:
            at = random.randrange(len(tokens) + 1)
            tokens[at:at] = part

    def _corrupt(self, value: bytes) -> bytes:
        """Change, delete or repeat bytes, regardless of tokens."""
        random = self._random
        data = bytearray(value)
        for _ in range(random.choice((1, 1, 2, 8))):
            if not data:
                return b""
            at = random.randrange(len(data))
            kind = random.randrange(4)
            if kind == 0:
                data[at] = random.randrange(256)
            elif kind == 1:
                data[at] ^= 1 << random.randrange(8)
            elif kind == 2:
                del data[at : at + random.choice((1, 4, len(data)))]
            else:
                data[at:at] = data[at : at + random.choice((1, 4, 64))]
        return bytes(data)


_STARTS: Final = frozenset(bytes([byte]) for byte in _VALUE_START)
