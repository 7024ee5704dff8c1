"""What a column admits: by its type, its domain and the CHECKs on it alone."""

import json
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from alembic_readonly_check.facts import Check, Schema
from alembic_readonly_check.openapi.reading import Json
from alembic_readonly_check.openapi.shapes import Bound
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
    if left == column:
        return _bounded(limits, operator, limit)
    if left[0] == "call" and left[2:3] == (column,):
        whole = int(limit)
        most = {"<": whole - 1, "<=": whole, "=": whole}.get(operator)
        least = {">": whole + 1, ">=": whole, "=": whole}.get(operator)
        if left[1] in _LENGTHS:
            limits = replace(limits, length=_least(limits.length, most))
            return replace(limits, least=_most(limits.least, least))
        if left[1] in _COUNTS:
            return replace(limits, count=_least(limits.count, most))
    return limits


def _bounded(limits: Limits, operator: str, limit: Decimal) -> Limits:
    bound = (limit, operator in ("<", ">"))
    if operator in (">", ">="):
        return replace(limits, lower=max(limits.lower, bound) if limits.lower else bound)
    if operator in ("<", "<="):
        return replace(
            limits,
            upper=(
                min(limits.upper, bound, key=lambda b: (b[0], not b[1])) if limits.upper else bound
            ),
        )
    return limits


def _least(one: int | None, other: int | None) -> int | None:
    return min((n for n in (one, other) if n is not None), default=None)


def _most(one: int | None, other: int | None) -> int | None:
    return max((n for n in (one, other) if n is not None), default=None)


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


def bound_words(word: str, bound: Bound | None) -> str:
    if bound is None:
        return f"no {word}"
    return f"exclusive{word.capitalize()} {bound[0]}" if bound[1] else f"{word} {bound[0]}"


def limit_words(sign: str, limit: tuple[Decimal, bool]) -> str:
    return f"{sign}{'' if limit[1] else '='} {plain(limit[0])}"


def listed(values: frozenset[str]) -> str:
    return ", ".join(sorted(repr(value) for value in values))
