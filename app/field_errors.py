"""What is wrong with one field, in JSON's words: msgspec names Python's types and its own paths."""

import re

from app.schemas.problems import FieldError

TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "datetime": "a date-time (RFC 3339)",
    "uuid": "a UUID",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
MISSING = re.compile(r"Object missing required field `([^`]*)`")
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
TYPE = re.compile(r"`([a-z| ]+)`")
REGEX = re.compile(r"matching regex (['\"])(.*)\1", re.DOTALL)


def field_error(message: str, pointer: str) -> FieldError:
    """Turn msgspec's message about the value at a JSON pointer into one about a field."""
    if found := MISSING.fullmatch(message):
        return FieldError(f"{pointer}/{escaped(found[1])}", "Required, and missing")
    if found := UNKNOWN.fullmatch(message):
        return FieldError(f"{pointer}/{escaped(found[1])}", "Not a field of this object")
    return FieldError(pointer, in_json_words(message))


def in_json_words(message: str) -> str:
    """Say the same with JSON's types: `int | null` is an integer or null."""
    if message.startswith("Invalid RFC3339"):
        return "Expected a date-time (RFC 3339), such as 2026-01-31T12:00:00Z"
    message = REGEX.sub(lambda m: f"that matches {m[2]}", message)
    message = message.replace("\\\\Z", "$").replace("\\Z", "$").replace("\\\\", "\\")
    message = message.replace("with a timezone component", "with Z or an offset")
    return TYPE.sub(lambda m: " or ".join(TYPES.get(t, t) for t in m[1].split(" | ")), message)


def as_pointer(path: str) -> str:
    """Turn msgspec's `$.a[0].b` or Litestar's `a.0.b` into a JSON pointer (RFC 6901)."""
    parts = path.removeprefix("$").replace("[", ".").replace("]", "").split(".")
    return "".join(f"/{escaped(p)}" for p in parts if p)


def escaped(name: str) -> str:
    """Write a member's name as a part of a JSON pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")
