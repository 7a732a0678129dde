"""Copy the changing fields of an object to a struct of plain data, and back.

The field `x` of the struct is the attribute `_x` or `x`. A file contains the struct, so reading it
checks the types of all values and never runs code.
"""

from collections import deque
from typing import Annotated, Any, TypeVar

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Piece = tuple[Positive, float]  # number of values, and their sum

S = TypeVar("S", bound=msgspec.Struct)


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base class of all states."""


def take(kind: type[S], owner: object, **others: Any) -> S:
    """Return the state of `owner`. `others` are the values of fields that are not its attributes.
    The state may share lists with the owner, so encode it before the owner changes."""
    values = dict(others)
    for name in kind.__struct_fields__:
        if name not in values:
            value = getattr(owner, _attribute(owner, name))
            values[name] = list(value) if isinstance(value, deque) else value
    return kind(**values)


def put(state: msgspec.Struct, owner: object, *others: str) -> None:
    """Set the attributes of `owner` from this state, except the fields `others`."""
    for name in state.__struct_fields__:
        if name not in others:
            attribute = _attribute(owner, name)
            value, old = getattr(state, name), getattr(owner, attribute)
            if isinstance(old, deque):
                value = deque(value, maxlen=old.maxlen)
            setattr(owner, attribute, value)


def _attribute(owner: object, name: str) -> str:
    return f"_{name}" if hasattr(owner, f"_{name}") else name
