"""JSON that is not ours: checked and handed on as it was sent, never decoded to floats."""

import re
from typing import TypeAlias

import msgspec
from msgspec import Raw

from app.errors import InvalidRequest, TooLarge
from app.schemas.problems import FieldError

Document: TypeAlias = dict[str, Raw]
"""A JSON object whose members stay as they are."""

MAX_PRINTED = 131_072
"""Digits that the exponents of a document may stand for; Postgres writes each of them out."""
MAX_METADATA = 16_384
MAX_DEPTH = 100
"""Levels of a merge patch."""
# What a number looks like that may be outside of a double's range, once every digit is a 0.
OUTLINE = bytes.maketrans(b"123456789E-", b"000000000e+")
SUSPECT = (b"e000", b"e+000", b"0" * 309)
# A number of so many digits, or with such an exponent, that it may be outside of any range.
LARGE = re.compile(
    rb"(?<![0-9.])(?:[0-9.]{101,}(?:[eE][+-]?[0-9]+)?|[0-9.]++[eE][+-]?0*[1-9][0-9]{2,})"
)


def check_numbers(document: Raw, pointer: str) -> int:
    """Refuse numbers outside of a double's range (RFC 7493, section 2.2).

    `pointer` says where the document stands. Returns how many digits its large exponents stand for.
    Raises `InvalidRequest`, or `TooLarge` for so many of these that the document would be too large
    as Postgres writes it.
    """
    content = bytes(document)
    outline = content.translate(OUTLINE)
    if not any(sign in outline for sign in SUSPECT):
        return 0
    # Without its texts, and only where a number is large: a look at each takes a second a mebibyte.
    bare = b'"'.join(content.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    printed = 0
    for found in LARGE.finditer(bare):
        mantissa, _, exponent = found.group().lower().partition(b"e")
        size = exponent.lstrip(b"+-").lstrip(b"0")
        is_zero = not mantissa.strip(b"0.")
        # Of a zero the exponent is a number of places, which Postgres keeps.
        if (
            len(size) > 3
            or (is_zero and int(size or b"0") > 400)
            or is_out_of_range(found.group(), is_zero)
        ):
            raise InvalidRequest(
                "A number is outside the range of a double (RFC 7493, section 2.2).",
                errors=[FieldError(pointer, "has a number that is out of range")],
            )
        printed += int(size or b"0")
        if printed > MAX_PRINTED:
            raise TooLarge("The numbers, written out, are longer than 128 KiB.")
    return printed


def is_out_of_range(number: bytes, is_zero: bool) -> bool:
    """Say whether a number becomes infinite as a double, or zero without being zero."""
    value = float(number)
    return value == float("inf") or (value == 0 and not is_zero)


def check_members(document: Document, pointer: str) -> int:
    """Do what `check_numbers` does, for an object whose members were told apart."""
    # At once: an object may have a hundred thousand members.
    return check_numbers(Raw(b"[%b]" % b",".join(map(bytes, document.values()))), pointer)


def check_patch(patch: Document) -> None:
    """Refuse a merge patch of metadata that is larger than what may come of it.

    Raises `InvalidRequest`, also for a number that is out of range or more than 100 levels.
    """
    if sum(len(name) + len(bytes(value)) for name, value in patch.items()) > 4 * MAX_METADATA:
        raise InvalidRequest(
            "The metadata is larger than 16 KiB.", errors=[FieldError("/metadata", "over 16 KiB")]
        )
    check_members(patch, "/metadata")
    check_depth(patch, MAX_DEPTH)


def check_depth(patch: Document, levels: int) -> None:
    """Raise `InvalidRequest` for a merge patch with objects below so many levels."""
    for value in patch.values():
        if bytes(value)[:1] == b"{":  # decoded values have no space before them
            if not levels:
                raise InvalidRequest("The metadata is nested too deeply.")
            check_depth(msgspec.json.decode(value, type=Document), levels - 1)
