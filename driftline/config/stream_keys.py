"""Describe a stream file's keys for `driftline config`, and explain msgspec's error messages.

Input: the structs of `driftline.config.stream`, whose annotations contain the descriptions, and the
parsed TOML. Output: rows for `driftline config`, and messages for StreamFileError.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo, fields

from driftline.safe_text import is_control

_SPAN: Final = 'a duration such as "90s", "30m", "7d" or a number of records'


class KeyRow(msgspec.Struct, frozen=True):
    """One key of a stream file.

    `value` is TOML text, or "" if the key has no value. `given` is true if the file contains the
    key, and false if the value is a default.
    """

    key: str
    value: str
    given: bool
    meaning: str


def describe(stream: msgspec.Struct, raw: Mapping[str, Any] | None = None) -> tuple[KeyRow, ...]:
    """Return every key with its value and meaning, in the order of the structs' fields.

    `raw` is the parsed TOML, which determines `given` in each row. Without `raw`, `given` is true
    if the value differs from the field's default.
    """
    return tuple(_rows(stream, raw, ""))


def _rows(struct: msgspec.Struct, raw: Mapping[str, Any] | None, prefix: str) -> Iterator[KeyRow]:
    hints = get_type_hints(type(struct), include_extras=True)
    for field in fields(struct):
        value, key = getattr(struct, field.name), f"{prefix}{field.name}"
        given = _given(field, value, raw)
        meaning = meaning_of(hints[field.name])
        if isinstance(value, msgspec.Struct) and "distribution" not in value.__struct_fields__:
            inner = (raw or {}).get(field.name, {}) if raw is not None else None
            yield from _rows(value, inner if isinstance(inner, Mapping) else None, f"{key}.")
        elif isinstance(value, Mapping):
            if not value:
                yield KeyRow(key, "{}", given, meaning)
            for name, item in value.items():
                yield KeyRow(f"{key}.{quoted_key(name)}", _compact(item), True, meaning)
                meaning = ""  # only the first entry shows the description
            yield from _parts(hints[field.name], key)
        else:
            yield KeyRow(key, toml(value), given, meaning)


def _given(field: FieldInfo, value: object, raw: Mapping[str, Any] | None) -> bool:
    if raw is not None:
        return field.name in raw
    return field.default is NODEFAULT or bool(value != field.default)


def _parts(hint: Any, key: str) -> Iterator[KeyRow]:
    """Yield the keys that each entry of a table such as [features] may have."""
    for part in _alternatives(get_args(_plain(hint))[1]):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            hints = get_type_hints(part, include_extras=True)
            for field in fields(part):
                default = "" if field.default is NODEFAULT else toml(field.default)
                yield KeyRow(f"{key}.*.{field.name}", default, False, meaning_of(hints[field.name]))


def meaning_of(hint: Any) -> str:
    """Return the description in a field's annotation, or "" if there is none."""
    if get_origin(hint) is Annotated:
        for extra in hint.__metadata__:
            if isinstance(extra, Meta) and extra.description:
                return extra.description
    return ""


# ---- values as TOML ------------------------------------------------------------------------------


def toml(value: Any) -> str:
    """Format a value as TOML, or as "" for None.

    >>> toml(("data", True, 0.5))
    '["data", true, 0.5]'
    """
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case int() | float():
            return f"{value:_}" if isinstance(value, int) and value >= 10_000 else repr(value)
        case datetime():
            return value.isoformat()
        case list() | tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
        case Mapping():
            inner = ", ".join(f"{quoted_key(k)} = {toml(v)}" for k, v in value.items())
            return "{ " + inner + " }"
        case msgspec.Struct():
            return _compact(value)
    records = getattr(value, "records", None)  # only a Span has this attribute
    return str(value) and (toml(records) if records is not None else quoted(str(value)))


def quoted(text: str) -> str:
    r"""Format text as a basic TOML string on one line, with control characters escaped.

    >>> print(quoted('say "x"\n\x9b\U000e0041'))
    "say \"x\"\u000a\u009b\U000e0041"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(_toml_escape(c) if is_control(c) else c for c in escaped) + '"'


def _toml_escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted_key(name: str) -> str:
    """Format a TOML key, without quotes if possible.

    >>> quoted_key("vicprice"), quoted_key("petal width")
    ('vicprice', '"petal width"')
    """
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else quoted(name)


def _compact(value: Any) -> str:
    """Format a struct as an inline table of its non-default values.

    A single value is formatted without the table: `"number"`, not `{ kind = "number" }`.
    """
    if not isinstance(value, msgspec.Struct):
        return toml(value)
    changed = {
        field.name: getattr(value, field.name)
        for field in fields(value)
        if field.default is NODEFAULT or getattr(value, field.name) != field.default
    }
    return toml(next(iter(changed.values()))) if len(changed) == 1 else toml(changed)


# ---- errors --------------------------------------------------------------------------------------


def explain(
    error: str,
    raw: Mapping[str, Any],
    root: type,
    fits: Callable[[Any, Any], bool],
) -> str:
    """Turn a msgspec error into a message with the key, the expected value and the actual value.

    `error` is the text of msgspec's ValidationError, and `raw` is the parsed TOML.
    `fits(type, value)` returns whether the value can be converted to the type.
    """
    message, _, path = error.partition(" - at `$")
    parts = re.findall(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]", path)
    hint: Any = root
    value: Any = raw
    key = ""
    for name, index in parts:
        hint, value, step = _step(hint, value, name, index, fits)
        key += step if not key and not step.startswith("[") else f".{step}".replace(".[", "[")
    found = re.match(r"Object contains unknown field `(.*)`$", message)
    if found:
        return _unknown(key, found[1], hint, value)
    missing = re.match(r"Object missing required field `(.*)`$", message)
    if missing:
        struct = _struct(hint)
        field_hint = get_type_hints(struct, include_extras=True)[missing[1]] if struct else str
        full = f"{key}.{missing[1]}" if key else missing[1]
        return f"[{full}] Missing. Expected {words(field_hint)}" + _meaning(field_hint)
    # `Span.parse` raises this error.
    too_long = re.match(r"Expected (a duration of at most \w+), got", message)
    expected = too_long[1] if too_long else words(hint)
    return f"[{key or 'top level'}] Expected {expected}, got {toml(value)}" + _meaning(hint)


def _step(
    hint: Any, value: Any, name: str, index: str, fits: Callable[[Any, Any], bool]
) -> tuple[Any, Any, str]:
    """Follow one step of msgspec's error path, and return the step's type, value and key."""
    if name:
        struct = _struct(hint, name)
        inner = get_type_hints(struct, include_extras=True)[name] if struct else object
        return inner, value.get(name) if isinstance(value, Mapping) else None, name
    parts = [part for part in _alternatives(hint) if get_args(_plain(part))]
    arguments = get_args(_plain(parts[0])) if parts else ()
    if index == "...":  # a table with user-defined keys; msgspec does not report which key is wrong
        inner = arguments[1]
        for entry, item in value.items():
            if not fits(inner, item):
                return inner, item, quoted_key(entry)
        return inner, None, "*"
    return arguments[0] if arguments else object, value[int(index)], f"[{index}]"


def _unknown(key: str, name: str, hint: Any, value: Any) -> str:
    # The type may allow several structs for a table such as `{ mn = 3 }`. Choose the struct that
    # shares the most keys with the table.
    structs = [part for part in _alternatives(hint) if _is_struct(part)]
    given = set(value) if isinstance(value, Mapping) else set()
    struct = max(structs, key=lambda part: len(given & set(part.__struct_fields__)))
    allowed = struct.__struct_fields__
    near = get_close_matches(name, allowed, n=1, cutoff=0.5)
    full = f"{key}.{quoted_key(name)}" if key else quoted_key(name)
    if near:
        return f"[{full}] Unknown key. Did you mean {near[0]!r}?"
    return f"[{full}] Unknown key. Expected one of {', '.join(allowed)}"


def _meaning(hint: Any) -> str:
    meaning = meaning_of(hint)
    return f" ({meaning})" if meaning else ""


def words(hint: Any) -> str:
    """Describe the values that a type accepts.

    >>> words(Literal["auto", "manual"]), words(tuple[str, ...])
    ('"auto" or "manual"', 'a list in which each item is text')
    """
    kinds: list[str] = []
    for part in _alternatives(hint):
        if get_origin(part) is Literal:
            kinds += [toml(value) for value in get_args(part)]
        elif part is not NoneType:
            kinds.append(_word(part))
    return kinds[0] if len(kinds) == 1 else ", ".join(kinds[:-1]) + " or " + kinds[-1]


def _word(hint: Any) -> str:
    limits = ""
    if get_origin(hint) is Annotated:
        for extra in hint.__metadata__:
            limits += _limits(extra)
        hint = hint.__origin__
    origin = get_origin(hint)
    if origin is tuple:
        return f"a list in which each item is {words(get_args(hint)[0])}"
    if origin in (Union, UnionType):
        return words(hint)
    if origin is dict or _is_struct(hint):
        return "a table"
    known = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        datetime: "a time with a time zone, such as 2025-01-31T00:00:00+10:00",
    }
    return known.get(hint, _SPAN) + limits


def _limits(extra: Any) -> str:
    if not isinstance(extra, Meta):
        return ""
    bounds = [
        f"{word} {limit:g}"
        for word, limit in (
            ("from", extra.ge),
            ("above", extra.gt),
            ("to", extra.le),
            ("below", extra.lt),
        )
        if limit is not None
    ]
    return " " + " ".join(bounds) if bounds else ""


def _alternatives(hint: Any) -> list[Any]:
    """Return the members of a union, with nested and annotated unions expanded."""
    plain = _plain(hint)
    if get_origin(plain) in (Union, UnionType):
        return [part for item in get_args(plain) for part in _alternatives(item)]
    limited = get_origin(hint) is Annotated and any(_limits(extra) for extra in hint.__metadata__)
    return [hint if limited else plain]


def _plain(hint: Any) -> Any:
    return hint.__origin__ if get_origin(hint) is Annotated else hint


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _struct(hint: Any, field: str | None = None) -> Any:
    """Return the first struct in a type, or None. If `field` is given, skip structs without it."""
    for part in _alternatives(hint):
        if _is_struct(part) and (field is None or field in part.__struct_fields__):
            return part
    return None
