"""Build JSON decoders for a stream's columns, and explain decoding errors.

Input: column names, each with its allowed JSON types. Output: a function that decodes bytes to a
struct with one field per column. The field is None if the JSON lacks the column.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from driftline.wire.values import shortened, text

Scalar = str | int | float | bool | None
IdType = str | int | float | None

# Callers raise UnicodeDecodeError when they check that all bytes are UTF-8, even in fields that the
# schema skips.
DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def make_struct(types: Mapping[str, Any], *, refuse_unknown: bool) -> type[msgspec.Struct] | None:
    """Return a struct type with one field per column, in the order of `types`.

    All fields default to None. Return None if a name contains a quote, a backslash or a control
    character, because msgspec cannot decode such field names.
    """
    if not all(map(_can_be_renamed, types)):
        return None
    return _struct(types, {f"f{place}": name for place, name in enumerate(types)}, refuse_unknown)


def make_decoder(types: Mapping[str, Any], *, refuse_unknown: bool) -> Callable[[bytes], Any]:
    """Return a function that decodes JSON to a struct with the fields that `make_struct` defines.

    If decoding fails, the function raises one of `DECODE_ERRORS`, which `reason_of` can explain.
    """
    known = make_struct(types, refuse_unknown=refuse_unknown)
    if known is not None:
        return msgspec.json.Decoder(known).decode
    # msgspec cannot decode to a struct with these names, so decode to a dict, which is slower.
    struct = _struct(types, None, refuse_unknown)
    names = {f"f{place}": name for place, name in enumerate(types)}
    to_dict = msgspec.json.Decoder(dict[str, Any])
    aliases = {name: alias for alias, name in names.items()}

    def decode(value: bytes) -> Any:
        raw = to_dict.decode(value)
        try:
            return msgspec.convert(
                {aliases.get(name, f"column {name}"): item for name, item in raw.items()}, struct
            )
        except msgspec.ValidationError as error:
            message = str(error)
            for alias, name in names.items():
                if message.endswith(f"`$.{alias}`"):
                    message = message[: -len(alias) - 1] + f"{name}`"
            raise msgspec.ValidationError(message.replace("field `column ", "field `")) from error

    return decode


def id_reader(column: str) -> Callable[[bytes | None], str | None]:
    """Return a function that decodes only a record's id.

    The function returns None if the id is missing or unreadable.
    """
    decode = make_decoder({column: IdType}, refuse_unknown=False)

    def read(value: bytes | None) -> str | None:
        try:
            found = decode(value or b"").f0
        except DECODE_ERRORS:
            return None
        return None if found is None else text(found)

    return read


def _struct(
    types: Mapping[str, Any], rename: dict[str, str] | None, refuse_unknown: bool
) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        "FeatureRecord",
        [(f"f{place}", type_, None) for place, type_ in enumerate(types.values())],
        rename=rename,
        frozen=True,
        gc=False,
        forbid_unknown_fields=refuse_unknown,
    )


def _can_be_renamed(name: str) -> bool:
    return not any(character in '\\"' or character < " " for character in name)


_TYPES: Final = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "null": "null",
    "object": "an object",
}


def reason_of(error: Exception) -> str:
    """Return the reason why a record or label cannot be decoded, shortened if it is long."""
    return shortened(_whole_reason(error))


def _whole_reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not JSON: not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return f"not JSON: {message}"
    detail, _, path = message.partition(" - at `$.")
    if detail.startswith("Object contains unknown field "):
        return (
            f"unknown column {detail.removeprefix('Object contains unknown field ').strip('`')!r}"
        )
    if detail.startswith("Expected `object`") and not path:
        return "not a JSON object: " + detail.partition(", ")[2].replace("`", "")
    where = f"column {path.removesuffix('`')!r}: " if path else ""
    if detail.startswith("Expected `"):
        expected, _, got = detail.removeprefix("Expected `").partition("`, got ")
        parts = [_TYPES.get(part, part) for part in expected.split(" | ")]
        if "float" in expected and "int" in expected:
            parts.remove(_TYPES["int"])
        words = " or ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
        return f"{where}expected {words}, got {got.strip('`')}"
    return where + detail[0].lower() + detail[1:]
