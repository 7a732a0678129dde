"""The changing fields of an object as a struct of plain data, and back again.

A struct of state has a field `x` for an attribute `_x` (or `x`). It is what a file holds, so that
reading one checks the types of all values and can run nothing.
"""

from collections import deque
from typing import Annotated, Any, TypeVar

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Piece = tuple[Positive, float]  # how many values, and their sum

S = TypeVar("S", bound=msgspec.Struct)


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all structs of state."""


def take(kind: type[S], owner: object, **others: Any) -> S:
    """Return the state of `owner`; `others` are fields that are no attributes of it.

    It may share lists with the owner: encode it before the owner changes.
    """
    values = dict(others)
    for name in kind.__struct_fields__:
        if name not in values:
            value = getattr(owner, _attribute(owner, name))
            values[name] = list(value) if isinstance(value, deque) else value
    return kind(**values)


def put(state: msgspec.Struct, owner: object, *others: str) -> None:
    """Give `owner` this state, but for the fields `others`."""
    for name in state.__struct_fields__:
        if name not in others:
            attribute = _attribute(owner, name)
            value, old = getattr(state, name), getattr(owner, attribute)
            if isinstance(old, deque):
                value = deque(value, maxlen=old.maxlen)
            setattr(owner, attribute, value)


def _attribute(owner: object, name: str) -> str:
    return f"_{name}" if hasattr(owner, f"_{name}") else name
