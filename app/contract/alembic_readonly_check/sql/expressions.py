"""One shape of an expression, blind to its spelling, and asked of no server.

`canonical` is blind to `IN` against `= ANY`, `BETWEEN` against two comparisons, casts of constants
that the catalog prints and nobody writes. What still differs is put to `EXPLAIN` where a server is
there.
"""

import re
from dataclasses import dataclass
from enum import Enum as PythonEnum
from functools import lru_cache
from typing import Any

import pglast
from pglast import ast
from pglast.enums import A_Expr_Kind, BoolExprType, SQLValueFunctionOp

from alembic_readonly_check.sql.aliases import renamed
from alembic_readonly_check.sql.constants import (
    NUMBERS,
    Shape,
    array_of,
    constant,
    is_constant_array,
    typed,
)
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


def columns_of(node: Any) -> set[str]:
    """List every name by which an expression may mean a column, or its whole table."""
    if isinstance(node, ast.ColumnRef):
        fields = [getattr(field, "sval", None) for field in node.fields or ()]
        # `goods.qty` names a column; `goods.*` and `goods` alone name all.
        return {name for name in (fields[-1] or fields[-2:][0],) if name}
    if isinstance(node, tuple | list):
        return set().union(*map(columns_of, node))
    if isinstance(node, ast.Node):
        return set().union(*(columns_of(getattr(node, slot)) for slot in node))
    return set()


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
            return constant(node)
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
        case ast.CoalesceExpr() | ast.MinMaxExpr():
            kind = str(getattr(node, "op", "coalesce"))
            return (kind, *(_plain(shape_of(item, scope), scope) for item in node.args or ()))
        case ast.ResTarget():
            return _target(node, scope)
        case ast.CollateClause():
            collation = names_of(node.collname)
            own = len(collation) == 2 and collation[0] in ("pg_catalog", scope.schema)
            return ("collate", shape_of(node.arg, scope), *(collation[1:] if own else collation))
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


def _cast(node: Any, scope: Scope) -> Shape:
    inner = shape_of(node.arg, scope)
    type_ = qualified(spell(node.typeName), scope.schema)
    if scope.exact:
        return ("cast", inner, type_)
    if isinstance(node.arg, ast.A_Const) and inner[0] == "number" and type_ in _TEXTS:
        return ("text", str(value_of(node.arg.val)))
    if (value := typed(inner, type_)) is not None:
        return value
    if inner[0] == "text" and type_ == "regclass":
        return ("relation", _relation(str(inner[1]), scope))
    # The catalog prints the type that Postgres gave a constant; the text of a document does not.
    # A length, a precision or the fields of an interval make another value of it.
    whole = "(" not in type_ and not type_.startswith("interval ")
    if whole and (inner[0] in ("text", "null") or is_constant_array(inner)):
        return inner
    if not whole and type_.partition("(")[0] in NUMBERS:
        inner = _plain(inner, scope)
    # A varchar column is read as text in every comparison, which the catalog prints.
    if type_ in ("text", "text[]") and inner[0] == "column":
        held = scope.type_of(str(inner[-1])) or ""
        if held.startswith("character varying") or held == type_:
            return inner
    return ("cast", inner, type_)


_TEXTS = ("text", "character varying")


def _plain(shape: Shape, scope: Scope) -> Shape:
    """Forget of what type a number is, where no operator's result hangs on it."""
    return shape[:2] if shape[0] == "number" and not scope.exact else shape


def _width(shape: Shape, scope: Scope) -> int | None:
    """Say how wide a number is, as its place in `NUMBERS`; None if that is not known."""
    match shape:
        case ("number", _, kind) | ("cast", _, kind):
            held = kind
        case ("column", *_, name):
            held = (scope.type_of(str(name)) or "").partition("(")[0]
        case ("op", "+" | "-" | "*" | "/" | "%", left, right):
            widths = [_width(side, scope) for side in (left, right) if side != ("none",)]
            return None if None in widths else max(w for w in widths if w is not None)
        case _:
            return None
    return NUMBERS.index(held) if held in NUMBERS else None


def _operation(node: Any, scope: Scope) -> Shape:
    operator = node.name[-1].sval
    operator = "<>" if operator == "!=" else operator
    left = shape_of(node.lexpr, scope) if node.lexpr is not None else ("none",)
    if node.kind == A_Expr_Kind.AEXPR_IN:
        items = tuple(shape_of(item, scope) for item in node.rexpr)
        word = "any" if operator == "=" else "all"
        return _quantified(word, operator, left, ("array", *items), scope)
    if node.kind in (A_Expr_Kind.AEXPR_BETWEEN, A_Expr_Kind.AEXPR_NOT_BETWEEN):
        low, high = (shape_of(item, scope) for item in node.rexpr)
        if node.kind == A_Expr_Kind.AEXPR_BETWEEN:
            ends = [_compared(">=", left, low, scope), _compared("<=", left, high, scope)]
            return _joined("and", ends)
        ends = [_compared("<", left, low, scope), _compared(">", left, high, scope)]
        return _joined("or", ends)
    right = shape_of(node.rexpr, scope)
    if node.kind in (A_Expr_Kind.AEXPR_OP_ANY, A_Expr_Kind.AEXPR_OP_ALL):
        quantifier = "any" if node.kind == A_Expr_Kind.AEXPR_OP_ANY else "all"
        return _quantified(quantifier, operator, left, right, scope)
    if node.kind in (A_Expr_Kind.AEXPR_OP, A_Expr_Kind.AEXPR_LIKE, A_Expr_Kind.AEXPR_ILIKE):
        if operator == "-" and left == ("none",) and right[0] == "number":
            return ("number", -right[1], *right[2:])
        left, right = _promoted(left, right, scope), _promoted(right, left, scope)
        return _compared(operator, left, right, scope)
    return ("op", A_Expr_Kind(node.kind).name, operator, left, right)


_MIRRORED = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_NEGATED = {"=": "<>", "<>": "=", "<": ">=", ">": "<=", "<=": ">", ">=": "<"}
_CONSTANTS = ("text", "number", "boolean", "null")


def _compared(operator: str, left: Shape, right: Shape, scope: Scope) -> Shape:
    """Shape an operator; a comparison reads the same from both ends, and `= true` says nothing."""
    if operator not in _MIRRORED:
        # An integer is read as the wider type of a column beside it: `price / 2`, not `1 / 2`.
        beside = [(_width(side, scope) or 0) >= NUMBERS.index("numeric") for side in (left, right)]
        left = _plain(left, scope) if beside[1] and right[0] == "column" else left
        right = _plain(right, scope) if beside[0] and left[0] == "column" else right
        return ("op", operator, left, right)
    left, right = _plain(left, scope), _plain(right, scope)
    ends = [(side[0] in _CONSTANTS, repr(side)) for side in (left, right)]
    if ends[0] > ends[1]:
        operator, left, right = _MIRRORED[operator], right, left
    if right[0] == "boolean" and left[0] != "boolean" and operator in ("=", "<>"):
        return left if right[1] == (operator == "=") else _negated(left)
    return ("op", operator, left, right)


def _quantified(quantifier: str, operator: str, left: Shape, right: Shape, scope: Scope) -> Shape:
    """Shape `= ANY` or `<> ALL`; a list of constants is a set."""
    if right[0] == "text" and operator in ("=", "<>"):
        right = array_of(str(right[1])) or right
    if right[0] == "array" and is_constant_array(right):
        items = sorted({_plain(item, scope) for item in right[1:]}, key=repr)
        if len(items) == 1:
            return _compared(operator, left, items[0], scope)
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
    """Drop a widening cast to the type of the other side: Postgres would add it."""
    if shape[0] == "cast" and shape[2] in NUMBERS and not scope.exact:
        inner, wide = _width(shape[1], scope), _width(other, scope)
        if inner is not None and inner <= NUMBERS.index(shape[2]) == wide:
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


# What Postgres has by itself is no function of the project, though both bear the name.
_BUILT_IN = frozenset(
    """abs ceil coalesce concat floor gen_random_uuid greatest initcap jsonb_array_length
    jsonb_typeof least left length lower lpad ltrim mod now octet_length power regexp_replace
    replace right round rpad rtrim sign split_part sqrt substr to_char to_tsvector trim trunc upper
    uuidv7""".split()
)
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
    own = len(parts) == 2 and parts[0] == scope.schema and parts[1] not in _BUILT_IN
    name = ".".join(parts[1:] if own and parts[1] not in _SYNONYMS else parts)
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
