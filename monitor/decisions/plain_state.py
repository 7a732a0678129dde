"""Copy an object's mutable attributes into a plain-data struct for a snapshot file, and back.

The struct's field `x` corresponds to the attribute `_x` or `x`. A snapshot file contains such
structs, so decoding the file checks the types of all values and never executes code.
"""

from collections import deque
from typing import Annotated, Any, TypeVar

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Piece = tuple[Positive, float]  # number of values, and their sum

S = TypeVar("S", bound=msgspec.Struct)


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base class of all saved states."""


def take(kind: type[S], owner: object, **others: Any) -> S:
    """Return the state of `owner`. `others` contains the values of fields that are not attributes
    of `owner`. The state may share lists with `owner`, so encode it before `owner` changes."""
    values = dict(others)
    for name in kind.__struct_fields__:
        if name not in values:
            value = getattr(owner, _attribute(owner, name))
            values[name] = list(value) if isinstance(value, deque) else value
    return kind(**values)


def put(state: msgspec.Struct, owner: object, *others: str) -> None:
    """Set attributes of `owner` from the fields of `state`, except for the fields in `others`."""
    for name in state.__struct_fields__:
        if name not in others:
            attribute = _attribute(owner, name)
            value, old = getattr(state, name), getattr(owner, attribute)
            if isinstance(old, deque):
                value = deque(value, maxlen=old.maxlen)
            setattr(owner, attribute, value)


def _attribute(owner: object, name: str) -> str:
    return f"_{name}" if hasattr(owner, f"_{name}") else name
