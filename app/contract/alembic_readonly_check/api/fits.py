"""Tell whether JSON of a shape can carry a type of Postgres."""

import re
from typing import Final, Literal

from alembic_readonly_check.facts import Schema
from alembic_readonly_check.openapi.shapes import Shape

Use = Literal["request", "response", "lookup"]


# What each type of Postgres may be as JSON: (type, format); format None is any that only annotates.
STRICT: Final = frozenset({"uuid", "date-time", "date", "time", "partial-time", "duration"})
_INTEGER_FORMATS: Final = frozenset({"int32", "int64"})
_STRING_FORMATS: Final = STRICT | {"decimal", "byte", "binary", "int64"}

_FITS: Final[dict[str, tuple[tuple[str, str | None], ...]]] = {
    "boolean": (("boolean", None),),
    "smallint": (("integer", None), ("integer", "int32")),
    "integer": (("integer", None), ("integer", "int32")),
    "bigint": (("integer", None), ("integer", "int64"), ("string", "int64")),
    "oid": (("integer", None), ("integer", "int64")),
    "real": (("number", None),),
    "double precision": (("number", None),),
    "numeric": (("number", None), ("string", "decimal")),
    "money": (("number", None), ("string", "decimal"), ("string", None)),
    "uuid": (("string", "uuid"),),
    "timestamp with time zone": (("string", "date-time"),),
    "timestamp without time zone": (("string", "date-time"),),
    "date": (("string", "date"),),
    "time with time zone": (("string", "time"),),
    "time without time zone": (("string", "time"), ("string", "partial-time")),
    "interval": (("string", "duration"),),
    "bytea": (("string", "byte"), ("string", "binary")),
    "hstore": (("object", None),),
}

_TEXTS: Final = frozenset(
    {
        *"text citext name inet cidr macaddr macaddr8 xml ltree tsvector tsquery bit".split(),
        "character varying",
        "character",
        "bit varying",
    }
)


def fits(shape: Shape, type_: str, use: Use, schema: Schema) -> bool:
    """Tell whether JSON of a shape can carry a type of Postgres, in the direction of its use."""
    if type_.endswith("[]"):
        if shape.types is None:
            return True
        if shape.types != frozenset({"array"}):
            return False
        return shape.items is None or fits(shape.items(), type_[:-2], use, schema)
    base = re.sub(r"\(.*?\)", "", type_)
    if base in ("json", "jsonb") or shape.types is None:
        return True
    known = _FITS.get(base)
    if known is not None:
        return all(_fits_one(shape, name, known, type_, use) for name in shape.types)
    if base in _TEXTS or base in (schema.enums or {}):
        strict = shape.format in STRICT and use == "response"
        return shape.types == frozenset({"string"}) and not strict
    # A type of an extension or of the project's own: only its writer knows its JSON.
    return True


def _fits_one(
    shape: Shape, name: str, ways: tuple[tuple[str, str | None], ...], type_: str, use: Use
) -> bool:
    if name == "integer" and type_.startswith(("numeric", "real", "double")):
        # Whole numbers go into any column of numbers; only a column of scale 0 gives them back.
        return use != "response" or re.fullmatch(r"numeric\(\d+(,0)?\)", type_) is not None
    if name == "number" and ("integer", None) in ways:
        return use == "response"
    known = _INTEGER_FORMATS if name == "integer" else _STRING_FORMATS
    stated = shape.format if name != "number" and shape.format in known else None
    return (name, stated) in ways
