"""What a column admits, by its type, its domain and the CHECKs on it, and what JSON carries it."""

import json
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal

from alembic_readonly_check.facts import Check, Schema
from alembic_readonly_check.openapi.reading import Json
from alembic_readonly_check.openapi.shapes import (
    Bound,
    Shape,
    narrower,
    tighter_lower,
    tighter_upper,
)
from alembic_readonly_check.sql.expressions import Scope, canonical

_LENGTHS: Final = frozenset({"length", "octet_length"})
_COUNTS: Final = frozenset({"cardinality", "array_length"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a column admits by its type, its domain and the CHECKs on it alone."""

    length: int | None = None
    least: int | None = None
    count: int | None = None
    lower: tuple[Decimal, bool] | None = None
    upper: tuple[Decimal, bool] | None = None
    values: frozenset[str] | None = None
    elements: frozenset[str] | None = None


def of_type(type_: str, schema: Schema) -> Limits:
    size = re.fullmatch(r"character(?: varying)?\((\d+)\)", type_)
    enum = (schema.enums or {}).get(type_)
    items = (schema.enums or {}).get(type_.removesuffix("[]")) if type_.endswith("[]") else None
    return Limits(
        length=int(size[1]) if size else None,
        values=frozenset(enum.values) if enum else None,
        elements=frozenset(items.values) if items else None,
    )


def narrowed(limits: Limits, check: Check, column: tuple[str, ...], scope: Scope) -> Limits:
    """Tighten the limits of a column by the conditions of a CHECK that stand on it alone."""
    condition = canonical(check.expression, scope)
    if not isinstance(condition, tuple):
        return limits
    for part in condition[1:] if condition[0] == "and" else (condition,):
        if part[0] == "or":
            # NULL passes a CHECK anyway, so `x IS NULL OR …` says no more than the rest.
            rest = [one for one in part[1:] if one != ("NullTest", ("arg", column))]
            if len(rest) != 1:
                continue
            inner = rest[0][1:] if rest[0][0] == "and" else (rest[0],)
        else:
            inner = (part,)
        for one in inner:
            limits = _with(limits, one, column)
    return limits


def _with(limits: Limits, part: tuple[Any, ...], column: tuple[str, ...]) -> Limits:
    if part[0] == "any" and part[1] == "=" and part[2] == column and part[3][0] == "array":
        values = frozenset(_constant(item) for item in part[3][1:])
        return replace(limits, values=values if limits.values is None else limits.values & values)
    if part[0] != "op" or len(part) != 4:
        return limits
    operator, left, right = part[1:]
    if operator == "<@" and left == column and right[0] == "array":
        return replace(limits, elements=frozenset(_constant(item) for item in right[1:]))
    if left == column and operator == "=" and right[0] in ("number", "text"):
        return replace(limits, values=frozenset({_constant(right)}))
    if right[0] != "number" or operator not in ("<", "<=", ">", ">=", "="):
        return limits
    limit: Decimal = right[1]
    bound = (limit, operator in ("<", ">"))
    if left == column and operator[0] == ">":
        return replace(limits, lower=tighter_lower(limits.lower, bound))
    if left == column and operator[0] == "<":
        return replace(limits, upper=tighter_upper(limits.upper, bound))
    if left[0] == "call" and left[2:3] == (column,):
        whole = int(limit)
        most = {"<": whole - 1, "<=": whole, "=": whole}.get(operator)
        least = {">": whole + 1, ">=": whole, "=": whole}.get(operator)
        if left[1] in _LENGTHS:
            least, most = narrower((limits.least, limits.length), (least, most))
            return replace(limits, least=least, length=most)
        if left[1] in _COUNTS:
            return replace(limits, count=narrower((None, limits.count), (None, most))[1])
    return limits


def _constant(item: tuple[Any, ...]) -> str:
    return plain(item[1])


def plain(value: Json) -> str:
    """Spell a constant so that 1, 1.0 and Decimal(1) are one, and true is not 1."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return format(Decimal(str(value)).normalize(), "f")
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def stored_value(stored: tuple[Any, ...], type_: str) -> str:
    if stored[0] == "text" and type_ in ("json", "jsonb"):
        try:
            return plain(json.loads(stored[1]))
        except ValueError:
            return str(stored[1])
    if stored[0] == "text" and type_.endswith("[]") and stored[1] == "{}":
        return "[]"
    return plain(stored[1])


def within(bound: Bound | None, limit: tuple[Decimal, bool], whole: bool, side: int) -> bool:
    """Tell whether a property's bound is at least as tight as a column's; `side` 1 is the upper."""
    if bound is None:
        return False
    number, strict = Decimal(str(bound[0])), bound[1]
    end, open_ = limit
    if whole and open_ and end == end.to_integral_value():
        end, open_ = end - side, False
    return number * side < end * side or (number == end and (strict or not open_))


def limit_words(sign: str, limit: tuple[Decimal, bool]) -> str:
    return f"{sign}{'' if limit[1] else '='} {plain(limit[0])}"


def listed(values: frozenset[str]) -> str:
    return ", ".join(sorted(repr(value) for value in values))


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
