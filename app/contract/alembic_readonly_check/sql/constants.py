"""Constants of expressions: what a number, a word or an array's literal says, whatever its type."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from pglast import ast

from alembic_readonly_check.sql.parsing import value_of

Shape = tuple[Any, ...]

NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
"""From the narrowest to the widest: Postgres reads a narrower operand as the wider one's type."""

INTEGERS = NUMBERS[:3]


def constant(node: Any) -> Shape:
    if node.isnull:
        return ("null",)
    value = node.val
    if isinstance(value, ast.Integer | ast.Float):
        kind = "integer" if isinstance(value, ast.Integer) else "numeric"
        return ("number", Decimal(value_of(value)).normalize(), kind)
    if isinstance(value, ast.Boolean):
        return ("boolean", bool(value.boolval))
    return ("text", value_of(value))


def typed(value: Shape, type_: str) -> Shape | None:
    """Read a constant as the type says, so that '1' and 1, '{}' and ARRAY[] are one; else None."""
    if type_.endswith("[]"):
        element = type_.removesuffix("[]")
        if value[0] == "text":
            value = array_of(str(value[1])) or value
        if not is_constant_array(value):
            return None
        return ("array", *(typed(item, element) or item for item in value[1:]))
    if value[0] == "boolean" and type_ == "boolean":
        return value
    if value[0] == "text" and type_ == "boolean":
        word = str(value[1]).strip().lower()
        return ("boolean", word == "1" or word[:2] == "on" or word[:1] in ("t", "y"))
    if value[0] == "text" and type_ in NUMBERS:
        return number(str(value[1]), type_)
    if value[0] == "number" and type_ in NUMBERS:
        kind = "integer" if type_ in INTEGERS else type_
        # What is rounded is another number.
        return None if kind == "integer" and value[1] % 1 else ("number", value[1], kind)
    return None


def array_of(text: str) -> Shape | None:
    """Read an array's literal of one dimension without quotes in it."""
    match = re.fullmatch(r"\{([^{}\"\\]*)\}", text.strip())
    if match is None:
        return None
    items = match[1].split(",") if match[1].strip() else []
    return (
        "array",
        *(
            ("null",) if item.strip().upper() == "NULL" else ("text", item.strip())
            for item in items
        ),
    )


def number(text: str, type_: str) -> Shape | None:
    try:
        value = Decimal(text.strip()).normalize()
    except InvalidOperation:
        return None
    return ("number", value, "integer" if type_ in INTEGERS else type_)


def is_constant_array(shape: Shape) -> bool:
    return shape[0] == "array" and all(
        item[0] in ("text", "number", "null", "boolean") for item in shape[1:]
    )
