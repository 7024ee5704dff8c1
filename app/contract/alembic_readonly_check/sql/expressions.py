"""One shape of an expression, blind to its spelling, and asked of no server.

`canonical` is blind to `IN` against `= ANY`, `BETWEEN` against two comparisons, casts of constants
that the catalog prints and nobody writes. What still differs is put to `EXPLAIN` where a server is
there.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum as PythonEnum
from functools import lru_cache
from typing import Any

import pglast
from pglast import ast
from pglast.enums import A_Expr_Kind, BoolExprType, SQLValueFunctionOp

from alembic_readonly_check.sql.aliases import renamed
from alembic_readonly_check.sql.parsing import Unparsable, names_of, parse_one, value_of, why
from alembic_readonly_check.sql.types import qualified, spell

_IGNORED = frozenset(
    {
        "location",
        "list_start",
        "list_end",
        "rexpr_list_start",
        "rexpr_list_end",
        "funcformat",
        "row_format",
        "coerceformat",
        "stmt_location",
        "stmt_len",
        "multidims",
    }
)

_NOW = ("call", "pg_catalog.now")
Shape = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an expression stands: its table, that table's column types, the default schema.

    With `exact` no cast counts as mere spelling: both texts are a catalog's, which prints them all.
    """

    table: str = ""
    types: tuple[tuple[str, str], ...] = ()
    schema: str = "public"
    exact: bool = False

    def type_of(self, column: str) -> str | None:
        """Find a column's type; None if the table has no such column."""
        return next((type_ for name, type_ in self.types if name == column), None)


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Any:
    """Parse exactly one scalar expression; raises `Unparsable` with Postgres' message."""
    try:
        statements = pglast.parse_sql(f"SELECT ({text}\n)")
    except pglast.parser.ParseError as error:
        raise Unparsable(why(error)) from None
    select: Any = statements[0].stmt
    if len(statements) != 1 or not isinstance(select, ast.SelectStmt):
        raise Unparsable("it is not one expression")
    bare = ast.SelectStmt(targetList=select.targetList)
    if len(select.targetList or ()) != 1 or any(
        getattr(select, slot) != getattr(bare, slot)
        for slot in (
            "fromClause",
            "whereClause",
            "intoClause",
            "groupClause",
            "larg",
            "valuesLists",
        )
    ):
        raise Unparsable("it is not one expression")
    (target,) = select.targetList or ()
    return renamed(target.val)


def canonical(text: str, scope: Scope) -> Shape | str:
    """Give the shape of an expression, blind to spelling; text that does not parse stays text."""
    try:
        return _canonical(text, scope)
    except Unparsable:
        return " ".join(text.split())


def query_shape(text: str, scope: Scope) -> Shape | str:
    """Give the shape of a query, blind to its aliases as well."""
    try:
        query = parse_one(text, ast.SelectStmt, "it is not one query")
    except Unparsable:
        return text
    return shape_of(renamed(query), scope)


@lru_cache(maxsize=8192)
def _canonical(text: str, scope: Scope) -> Shape:
    return shape_of(parse_expression(text), scope)


def shape_of(node: Any, scope: Scope) -> Shape:
    """Turn a node into nested tuples, applying the rules of spelling."""
    match node:
        case ast.A_Const():
            return _constant(node)
        case ast.TypeCast():
            return _cast(node, scope)
        case ast.A_Expr():
            return _operation(node, scope)
        case ast.BoolExpr():
            return _boolean(node, scope)
        case ast.ColumnRef():
            return _column(node, scope)
        case ast.FuncCall():
            return _call(node, scope)
        case ast.SQLValueFunction(op=SQLValueFunctionOp.SVFOP_CURRENT_TIMESTAMP):
            return _NOW
        case ast.A_ArrayExpr():
            return ("array", *(shape_of(item, scope) for item in node.elements or ()))
        case ast.ResTarget():
            return _target(node, scope)
        case ast.CollateClause():
            return ("collate", shape_of(node.arg, scope), names_of(node.collname)[-1])
        case tuple() | list():
            return tuple(shape_of(item, scope) for item in node)
        case ast.Node():
            return (
                type(node).__name__,
                *(
                    (slot, shape_of(getattr(node, slot), scope))
                    for slot in getattr(type(node), "__slots__", ())
                    if slot not in _IGNORED and getattr(node, slot) not in (None, False, ())
                ),
            )
        case PythonEnum():
            return ("enum", node.name)
        case _:
            return ("value", node)


def _constant(node: Any) -> Shape:
    if node.isnull:
        return ("null",)
    value = node.val
    if isinstance(value, ast.Integer | ast.Float):
        return ("number", Decimal(value_of(value)).normalize())
    if isinstance(value, ast.Boolean):
        return ("boolean", bool(value.boolval))
    return ("text", value_of(value))


def _cast(node: Any, scope: Scope) -> Shape:
    inner = shape_of(node.arg, scope)
    type_ = qualified(spell(node.typeName), scope.schema)
    if scope.exact:
        return ("cast", inner, type_)
    if (typed := _typed(inner, type_)) is not None:
        return typed
    if inner[0] == "text" and type_ == "regclass":
        return ("relation", _relation(str(inner[1]), scope))
    # The catalog prints the type that Postgres gave a constant; the text of a document does not.
    if inner[0] in ("text", "number", "null", "boolean") or _is_constant_array(inner):
        return inner
    # A varchar column is read as text in every comparison, which the catalog prints.
    if type_ in ("text", "text[]") and inner[0] == "column":
        held = scope.type_of(str(inner[-1])) or ""
        if held.startswith("character varying") or held == type_:
            return inner
    return ("cast", inner, type_)


_NUMBERS = frozenset({"smallint", "integer", "bigint", "numeric", "real", "double precision"})


def _typed(value: Shape, type_: str) -> Shape | None:
    """Read a constant as the type says, so that '1' and 1, '{}' and ARRAY[] are one; else None."""
    if type_.endswith("[]"):
        element = type_.removesuffix("[]")
        if value[0] == "text":
            value = _array(str(value[1])) or value
        if not _is_constant_array(value):
            return None
        return ("array", *(_typed(item, element) or item for item in value[1:]))
    base = type_.partition("(")[0]
    if value[0] == "text" and base == "boolean":
        word = str(value[1]).strip().lower()
        return ("boolean", word == "1" or word[:2] == "on" or word[:1] in ("t", "y"))
    if value[0] == "text" and base in _NUMBERS:
        return _number(str(value[1]))
    if value[0] == "number" and base in ("text", "character varying"):
        return ("text", f"{value[1]:f}")
    return None


def _array(text: str) -> Shape | None:
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


def _number(text: str) -> Shape | None:
    try:
        return ("number", Decimal(text.strip()).normalize())
    except InvalidOperation:
        return None


def _is_constant_array(shape: Shape) -> bool:
    return shape[0] == "array" and all(
        item[0] in ("text", "number", "null", "boolean") for item in shape[1:]
    )


def _operation(node: Any, scope: Scope) -> Shape:
    operator = node.name[-1].sval
    operator = "<>" if operator == "!=" else operator
    left = shape_of(node.lexpr, scope) if node.lexpr is not None else ("none",)
    if node.kind == A_Expr_Kind.AEXPR_IN:
        items = tuple(shape_of(item, scope) for item in node.rexpr)
        return _quantified("any" if operator == "=" else "all", operator, left, ("array", *items))
    if node.kind in (A_Expr_Kind.AEXPR_BETWEEN, A_Expr_Kind.AEXPR_NOT_BETWEEN):
        low, high = (shape_of(item, scope) for item in node.rexpr)
        if node.kind == A_Expr_Kind.AEXPR_BETWEEN:
            return _joined("and", [_compared(">=", left, low), _compared("<=", left, high)])
        return _joined("or", [_compared("<", left, low), _compared(">", left, high)])
    right = shape_of(node.rexpr, scope)
    if node.kind in (A_Expr_Kind.AEXPR_OP_ANY, A_Expr_Kind.AEXPR_OP_ALL):
        quantifier = "any" if node.kind == A_Expr_Kind.AEXPR_OP_ANY else "all"
        return _quantified(quantifier, operator, left, right)
    if node.kind in (A_Expr_Kind.AEXPR_OP, A_Expr_Kind.AEXPR_LIKE, A_Expr_Kind.AEXPR_ILIKE):
        if operator == "-" and left == ("none",) and right[0] == "number":
            return ("number", -right[1])
        return _compared(operator, _promoted(left, right, scope), _promoted(right, left, scope))
    return ("op", A_Expr_Kind(node.kind).name, operator, left, right)


_MIRRORED = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_NEGATED = {"=": "<>", "<>": "=", "<": ">=", ">": "<=", "<=": ">", ">=": "<"}
_CONSTANTS = ("text", "number", "boolean", "null")


def _compared(operator: str, left: Shape, right: Shape) -> Shape:
    """Shape an operator; a comparison reads the same from both ends, and `= true` says nothing."""
    if operator not in _MIRRORED:
        return ("op", operator, left, right)
    ends = [(side[0] in _CONSTANTS, repr(side)) for side in (left, right)]
    if ends[0] > ends[1]:
        operator, left, right = _MIRRORED[operator], right, left
    if right[0] == "boolean" and left[0] != "boolean" and operator in ("=", "<>"):
        return left if right[1] == (operator == "=") else _negated(left)
    return ("op", operator, left, right)


def _quantified(quantifier: str, operator: str, left: Shape, right: Shape) -> Shape:
    """Shape `= ANY` or `<> ALL`; a list of constants is a set."""
    if right[0] == "text" and operator in ("=", "<>"):
        right = _array(str(right[1])) or right
    if right[0] == "array" and _is_constant_array(right):
        items = sorted(set(right[1:]), key=repr)
        if len(items) == 1:
            return _compared(operator, left, items[0])
        right = ("array", *items)
    return (quantifier, operator, left, right)


def _negated(shape: Shape) -> Shape:
    """Shape NOT; the opposite comparison says the same, for null as well."""
    if shape[0] == "not":
        return tuple(shape[1])
    if shape[0] == "op" and len(shape) == 4 and shape[1] in _NEGATED:
        return ("op", _NEGATED[shape[1]], *shape[2:])
    if shape[0] in ("any", "all") and shape[1] in _NEGATED:
        return ("all" if shape[0] == "any" else "any", _NEGATED[shape[1]], *shape[2:])
    return ("not", shape)


def _joined(word: str, shapes: list[Shape]) -> Shape:
    """Shape AND and OR: their parts have no order, and saying one twice adds nothing."""
    parts: set[Shape] = set()
    for shape in shapes:
        parts.update(shape[1:] if shape[0] == word else [shape])
    return (word, *sorted(parts, key=repr)) if len(parts) > 1 else next(iter(parts))


def _promoted(shape: Shape, other: Shape, scope: Scope) -> Shape:
    """Drop a cast to the type of the column on the other side: Postgres would add it."""
    if shape[0] == "cast" and shape[2] in _NUMBERS and other[0] == "column":
        held = (scope.type_of(str(other[-1])) or "").partition("(")[0]
        if held == shape[2]:
            return tuple(shape[1])
    return shape


def _boolean(node: Any, scope: Scope) -> Shape:
    word = {BoolExprType.AND_EXPR: "and", BoolExprType.OR_EXPR: "or", BoolExprType.NOT_EXPR: "not"}[
        BoolExprType(node.boolop)
    ]
    shapes = [shape_of(argument, scope) for argument in node.args]
    return _negated(shapes[0]) if word == "not" else _joined(word, shapes)


def _target(node: Any, scope: Scope) -> Shape:
    """Shape a select item; the name that Postgres would give it anyway is no difference."""
    value = shape_of(node.val, scope)
    own = {"call": value[1:2], "column": value[-1:]}.get(str(value[0]), ())
    named = node.name is not None and (not own or str(own[0]).rpartition(".")[2] != node.name)
    return ("target", value, node.name) if named else ("target", value)


def _column(node: Any, scope: Scope) -> Shape:
    parts = [getattr(field, "sval", "*") for field in node.fields]
    own = scope.table.split(".")
    for prefix in (own, own[-1:]):
        if scope.table and len(parts) > len(prefix) and parts[: len(prefix)] == prefix:
            parts = parts[len(prefix) :]
            break
    return ("column", *parts)


_SYNONYMS = {
    "char_length": "length",
    "character_length": "length",
    "ceiling": "ceil",
    "pow": "power",
}


def _call(node: Any, scope: Scope) -> Shape:
    parts = [part.sval for part in node.funcname]
    if parts[:1] == ["pg_catalog"]:
        parts = parts[1:]
    if parts in (["now"], ["transaction_timestamp"]) and not node.args:
        return _NOW
    name = ".".join(parts[1:] if len(parts) == 2 and parts[0] == scope.schema else parts)
    name = _SYNONYMS.get(name, name)
    arguments = [shape_of(argument, scope) for argument in node.args or ()]
    if name in ("nextval", "currval", "setval") and arguments and arguments[0][0] == "text":
        arguments[0] = ("relation", _relation(str(arguments[0][1]), scope))
    flags = tuple(
        (slot, shape_of(getattr(node, slot), scope))
        for slot in ("agg_order", "agg_filter", "over", "agg_distinct", "agg_star", "func_variadic")
        if getattr(node, slot) not in (None, False, ())
    )
    return ("call", name, *arguments, *flags)


def _relation(text: str, scope: Scope) -> str:
    name = re.sub(r'"([^"]*)"|[^".]+', lambda part: part[1] or part[0].lower(), text)
    return name if "." in name else f"{scope.schema}.{name}"
