"""SQL fragments: one spelling of a type, one shape of an expression, definitions taken apart.

Everything here works on Postgres' own grammar (pglast) and asks no server. `canonical` is
blind only to spelling: `IN` against `= ANY`, `BETWEEN` against two comparisons, casts of
constants that the catalog prints and nobody writes. What still differs is put to `EXPLAIN`
where a server is there.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum as PythonEnum
from functools import lru_cache
from typing import Any

import pglast
from pglast import ast
from pglast.enums import (
    A_Expr_Kind,
    BoolExprType,
    ConstrType,
    SortByDir,
    SortByNulls,
    SQLValueFunctionOp,
)
from pglast.stream import RawStream

from alembic_readonly_check.facts import (
    Check,
    Domain,
    Exclusion,
    ForeignKey,
    Function,
    Grant,
    Index,
    IndexKey,
    Policy,
    Sequence,
    Trigger,
    Unique,
)


class Unparsable(ValueError):
    """Say why a fragment is not the SQL it should be; the text is Postgres' own message."""


TYPE_NAMES = {
    "bool": "boolean",
    "bpchar": "character",
    "char": "character",
    "dec": "numeric",
    "decimal": "numeric",
    "float4": "real",
    "float8": "double precision",
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "interval": "interval",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "timetz": "time with time zone",
    "varbit": "bit varying",
    "varchar": "character varying",
}
"""pg_type name -> the name `format_type` prints; a name that is absent prints as it is."""

BUILT_IN = frozenset(TYPE_NAMES.values()) | frozenset(
    """bigint bit boolean box bytea character cidr circle date daterange datemultirange
    double inet int4multirange int4range int8multirange int8range integer interval json jsonb
    jsonpath line lseg macaddr macaddr8 money name numeric nummultirange numrange oid path
    pg_lsn pg_snapshot point polygon real record regclass regcollation regconfig regdictionary
    regnamespace regoper regoperator regproc regprocedure regrole regtype smallint text tid
    time timestamp timetz timestamptz trigger event_trigger tsmultirange tsquery tsrange
    tstzmultirange tstzrange tsvector txid_snapshot uuid void xid xid8 xml any anyarray
    anyelement anycompatible anycompatiblearray anyenum anynonarray anyrange cstring
    internal language_handler unknown int2vector oidvector aclitem""".split()
)

EXTENSION_TYPES = frozenset(
    """citext cube earthdistance geography geometry halfvec hstore isbn ltree lquery ltxtquery
    seg sparsevec vector""".split()
)
"""Types that live in whatever schema their extension was put in, so they compare unqualified."""

INTERVAL_FIELDS = {
    4: "year",
    2: "month",
    8: "day",
    1024: "hour",
    2048: "minute",
    4096: "second",
    6: "year to month",
    1032: "day to hour",
    3080: "day to minute",
    7176: "day to second",
    3072: "hour to minute",
    7168: "hour to second",
    6144: "minute to second",
}

_FULL_INTERVAL = 32767


@lru_cache(maxsize=4096)
def parse_type(text: str) -> str:
    """Spell a type as `format_type` does; raises `Unparsable` if it is none."""
    bare = re.sub(r"^\s*setof\s+", "", text, flags=re.IGNORECASE)
    if re.search(r";|--|/\*", bare):
        raise Unparsable("a type cannot hold a comment or a semicolon")
    try:
        statement: Any = pglast.parse_sql(f"SELECT NULL::{bare}")[0].stmt
    except pglast.parser.ParseError as error:
        raise Unparsable(_why(error)) from None
    cast = statement.targetList[0].val if len(statement.targetList or ()) == 1 else None
    if not isinstance(cast, ast.TypeCast) or statement.fromClause or statement.whereClause:
        raise Unparsable(f"{text!r} is not a type")
    spelled = _type(cast.typeName)
    return f"SETOF {spelled}" if bare != text.strip() and bare != text else spelled


def is_known_type(type_: str) -> bool:
    """Tell whether a spelled type is one of Postgres' own or of a well-known extension's."""
    base = re.sub(r"\(.*?\)|\[\]", "", type_.removeprefix("SETOF ")).strip()
    return base in BUILT_IN or base.rpartition(".")[2] in EXTENSION_TYPES or " " in base


def qualified(type_: str, schema: str) -> str:
    """Put an unqualified user type into a schema; Postgres' own and extensions' types stay bare."""
    if is_known_type(type_):
        base, _, rest = type_.partition("(")
        name = base.rpartition(".")[2]
        return (
            type_
            if name.removesuffix("[]") not in EXTENSION_TYPES
            else name + (f"({rest}" if rest else "")
        )
    return type_ if "." in type_ else f"{schema}.{type_}"


def _type(name: Any) -> str:
    """Spell a parsed type name."""
    parts = [part.sval for part in name.names]
    if parts[0] == "pg_catalog":
        parts = parts[1:]
    base = TYPE_NAMES.get(parts[0], parts[0]) if len(parts) == 1 else ".".join(parts)
    modifiers = [_modifier(modifier) for modifier in name.typmods or ()]
    if base == "interval" and modifiers:
        fields = INTERVAL_FIELDS.get(int(modifiers[0]), "")
        precision = f"({modifiers[1]})" if len(modifiers) > 1 else ""
        base = f"interval{f' {fields}' if fields else ''}{precision}"
    elif base.startswith(("time ", "timestamp ")) and modifiers:
        head, _, tail = base.partition(" ")
        base = f"{head}({modifiers[0]}) {tail}"
    elif base == "numeric" and len(modifiers) == 1:
        base = f"numeric({modifiers[0]},0)"
    elif base in ("character", "bit") and modifiers == ["1"] and parts[0] in ("bpchar", "bit"):
        base = f"{base}(1)"
    elif modifiers:
        base = f"{base}({','.join(modifiers)})"
    return base + ("[]" if name.arrayBounds else "")


def _modifier(node: Any) -> str:
    """Write one type modifier."""
    if isinstance(node, ast.A_Const):
        value = node.val
        return str(value.ival if isinstance(value, ast.Integer) else _value(value))
    if isinstance(node, ast.ColumnRef):
        return str(_names(node.fields)[0])
    return RawStream()(node)


def _value(value: Any) -> str:
    for attribute in ("sval", "fval", "bsval", "boolval"):
        if hasattr(value, attribute):
            return str(getattr(value, attribute))
    return str(getattr(value, "ival", 0) or 0)


def _why(error: Exception) -> str:
    """Take Postgres' sentence out of a parse error."""
    return str(error.args[0]) if error.args else str(error)


# ---------------------------------------------------------------------------- expressions

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

_NOW = ("call", "now")

Shape = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an expression stands: its table, that table's column types, the default schema."""

    table: str = ""
    types: tuple[tuple[str, str], ...] = ()
    schema: str = "public"

    def type_of(self, column: str) -> str | None:
        """Find a column's type; None if the table has no such column."""
        return next((type_ for name, type_ in self.types if name == column), None)


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Any:
    """Parse exactly one scalar expression; raises `Unparsable` with Postgres' message."""
    try:
        statements = pglast.parse_sql(f"SELECT ({text}\n)")
    except pglast.parser.ParseError as error:
        raise Unparsable(_why(error)) from None
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
    return target.val


def canonical(text: str, scope: Scope) -> Shape | str:
    """Give the shape of an expression, blind to spelling; text that does not parse stays text."""
    try:
        return _canonical(text, scope)
    except Unparsable:
        return " ".join(text.split())


@lru_cache(maxsize=8192)
def _canonical(text: str, scope: Scope) -> Shape:
    return _shape(parse_expression(text), scope)


def _shape(node: Any, scope: Scope) -> Shape:
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
            return ("array", *(_shape(item, scope) for item in node.elements or ()))
        case ast.ResTarget():
            return _target(node, scope)
        case ast.CollateClause():
            return ("collate", _shape(node.arg, scope), _names(node.collname)[-1])
        case tuple() | list():
            return tuple(_shape(item, scope) for item in node)
        case ast.Node():
            return (
                type(node).__name__,
                *(
                    (slot, _shape(getattr(node, slot), scope))
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
        return ("number", Decimal(_value(value)).normalize())
    if isinstance(value, ast.Boolean):
        return ("boolean", bool(value.boolval))
    return ("text", _value(value))


def _cast(node: Any, scope: Scope) -> Shape:
    inner = _shape(node.arg, scope)
    type_ = qualified(_type(node.typeName), scope.schema)
    if inner[0] == "text" and type_ == "boolean":
        return ("boolean", str(inner[1]).lower() in ("t", "true", "yes", "on", "1"))
    if inner[0] == "text" and type_.partition("(")[0] in _NUMBERS:
        return _number(str(inner[1])) or ("cast", inner, type_)
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


def _number(text: str) -> Shape | None:
    try:
        return ("number", Decimal(text.strip()).normalize())
    except InvalidOperation:
        return None


def _is_constant_array(shape: Shape) -> bool:
    return shape[0] == "array" and all(item[0] in ("text", "number", "null") for item in shape[1:])


def _operation(node: Any, scope: Scope) -> Shape:
    operator = node.name[-1].sval
    operator = "<>" if operator == "!=" else operator
    left = _shape(node.lexpr, scope) if node.lexpr is not None else ("none",)
    if node.kind == A_Expr_Kind.AEXPR_IN:
        items = tuple(_shape(item, scope) for item in node.rexpr)
        if len(items) == 1:
            return ("op", operator, left, items[0])
        return ("any" if operator == "=" else "all", operator, left, ("array", *items))
    if node.kind in (A_Expr_Kind.AEXPR_BETWEEN, A_Expr_Kind.AEXPR_NOT_BETWEEN):
        low, high = (_shape(item, scope) for item in node.rexpr)
        if node.kind == A_Expr_Kind.AEXPR_BETWEEN:
            return ("and", ("op", ">=", left, low), ("op", "<=", left, high))
        return ("or", ("op", "<", left, low), ("op", ">", left, high))
    right = _shape(node.rexpr, scope)
    if node.kind in (A_Expr_Kind.AEXPR_OP_ANY, A_Expr_Kind.AEXPR_OP_ALL):
        quantifier = "any" if node.kind == A_Expr_Kind.AEXPR_OP_ANY else "all"
        return (quantifier, operator, left, right)
    if node.kind in (A_Expr_Kind.AEXPR_OP, A_Expr_Kind.AEXPR_LIKE, A_Expr_Kind.AEXPR_ILIKE):
        if operator == "-" and left == ("none",) and right[0] == "number":
            return ("number", -right[1])
        return ("op", operator, _promoted(left, right, scope), _promoted(right, left, scope))
    return ("op", A_Expr_Kind(node.kind).name, operator, left, right)


def _promoted(shape: Shape, other: Shape, scope: Scope) -> Shape:
    """Drop a cast to the type of the column on the other side: Postgres would add it."""
    if shape[0] == "cast" and shape[2] in _NUMBERS and other[0] == "column":
        held = (scope.type_of(str(other[-1])) or "").partition("(")[0]
        if held == shape[2]:
            return tuple(shape[1])
    return shape


def _boolean(node: Any, scope: Scope) -> Shape:
    word = {
        BoolExprType.AND_EXPR: "and",
        BoolExprType.OR_EXPR: "or",
        BoolExprType.NOT_EXPR: "not",
    }[BoolExprType(node.boolop)]
    parts: list[Any] = []
    for argument in node.args:
        shape = _shape(argument, scope)
        parts.extend(shape[1:] if word != "not" and shape[0] == word else [shape])
    return (word, *parts)


def _target(node: Any, scope: Scope) -> Shape:
    """Shape a select item; the name that Postgres would give it anyway is no difference."""
    value = _shape(node.val, scope)
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


def _call(node: Any, scope: Scope) -> Shape:
    parts = [part.sval for part in node.funcname]
    if len(parts) == 2 and parts[0] in ("pg_catalog", scope.schema):
        parts = parts[1:]
    name = ".".join(parts)
    if name in ("now", "transaction_timestamp") and not node.args:
        return _NOW
    arguments = [_shape(argument, scope) for argument in node.args or ()]
    if name in ("nextval", "currval", "setval") and arguments and arguments[0][0] == "text":
        arguments[0] = ("relation", _relation(str(arguments[0][1]), scope))
    flags = tuple(
        (slot, _shape(getattr(node, slot), scope))
        for slot in ("agg_order", "agg_filter", "over", "agg_distinct", "agg_star", "func_variadic")
        if getattr(node, slot) not in (None, False, ())
    )
    return ("call", name, *arguments, *flags)


def _relation(text: str, scope: Scope) -> str:
    name = text.replace('"', "")
    return name if "." in name else f"{scope.schema}.{name}"


# ---------------------------------------------------------------------------- definitions

ACTIONS = {
    "a": "NO ACTION",
    "r": "RESTRICT",
    "c": "CASCADE",
    "n": "SET NULL",
    "d": "SET DEFAULT",
}
MATCHES = {"s": "SIMPLE", "f": "FULL", "p": "PARTIAL"}


def _statement(sql: str, kind: type[ast.Node], otherwise: str) -> Any:
    """Parse one statement of a kind; what else it may be is not this."""
    try:
        statements = pglast.parse_sql(sql)
    except pglast.parser.ParseError as error:
        raise Unparsable(_why(error)) from None
    if len(statements) != 1 or not isinstance(statements[0].stmt, kind):
        raise Unparsable(otherwise)
    return statements[0].stmt


def text_of(node: Any) -> str:
    """Write a parsed expression out again."""
    return RawStream()(node)


def _names(nodes: Any) -> tuple[str, ...]:
    return tuple(node.sval for node in nodes or ())


def _relation_name(node: Any, schema: str) -> str:
    return f"{node.schemaname or schema}.{node.relname}"


def _deferral(node: Any) -> str:
    if node.initdeferred:
        return " DEFERRABLE INITIALLY DEFERRED"
    return " DEFERRABLE" if node.deferrable else ""


def parse_constraint(name: str, text: str, schema: str) -> ForeignKey | Unique | Check | Exclusion:
    """Take a table constraint apart; unqualified tables are of `schema`; raises `Unparsable`."""
    if not_valid := re.search(r"\s+NOT\s+VALID\s*$", text, re.IGNORECASE):
        text = text[: not_valid.start()]
    statement = _statement(
        f'ALTER TABLE "t" ADD CONSTRAINT "x" {text}', ast.AlterTableStmt, "it is not one constraint"
    )
    if len(statement.cmds) != 1:
        raise Unparsable("it is not one constraint")
    node = statement.cmds[0].def_
    match node.contype:
        case ConstrType.CONSTR_FOREIGN:
            return ForeignKey(
                name,
                _names(node.fk_attrs),
                _relation_name(node.pktable, schema),
                _names(node.pk_attrs),
                _action(node.fk_del_action) + _set_columns(node),
                _action(node.fk_upd_action),
                MATCHES[node.fk_matchtype or "s"],
                _deferral(node),
                not not_valid,
            )
        case ConstrType.CONSTR_UNIQUE:
            return Unique(
                name,
                _names(node.keys),
                _names(node.including),
                not node.nulls_not_distinct,
                _deferral(node),
            )
        case ConstrType.CONSTR_CHECK:
            expression = text[text.index("(") + 1 : text.rindex(")")].strip()
            return Check(name, expression, not not_valid, not node.is_no_inherit)
        case ConstrType.CONSTR_EXCLUSION:
            return Exclusion(name, " ".join(text.split()))
    raise Unparsable("it is neither a foreign key, a unique, a check nor an exclusion")


def _action(letter: str | None) -> str:
    return ACTIONS[letter or "a"]


def _set_columns(node: Any) -> str:
    columns = _names(node.fk_del_set_cols)
    return f" ({', '.join(columns)})" if columns else ""


def parse_exclusion(text: str, scope: Scope) -> Shape | str:
    """Give the shape of an exclusion constraint, blind to the spelling of its predicate."""
    try:
        statement = _statement(
            f'ALTER TABLE "t" ADD CONSTRAINT "x" {text}', ast.AlterTableStmt, "it is no constraint"
        )
        return _shape(statement.cmds[0].def_, scope)
    except Unparsable:
        return text


def parse_index(name: str, text: str, table: str) -> Index:
    """Take `[UNIQUE] method (keys) …` apart; raises `Unparsable`."""
    unique = bool(re.match(r"\s*UNIQUE\b", text, re.IGNORECASE))
    rest = re.sub(r"^\s*UNIQUE\b", "", text, flags=re.IGNORECASE)
    if not re.match(r"\s*[a-z_]+\s*\(", rest, re.IGNORECASE):
        raise Unparsable("an index reads `btree (column, …)`, with UNIQUE before it if it is")
    word = "UNIQUE " if unique else ""
    statement: Any = _statement(
        f'CREATE {word}INDEX "x" ON {quoted(table)} USING {rest}',
        ast.IndexStmt,
        "it is not one index",
    )
    return Index(
        name,
        tuple(_key(element) for element in statement.indexParams),
        unique,
        statement.accessMethod or "btree",
        tuple(element.name for element in statement.indexIncludingParams or ()),
        text_of(statement.whereClause) if statement.whereClause is not None else None,
        not statement.nulls_not_distinct,
        options=tuple(
            f"{option.defname}={_value(option.arg) if option.arg is not None else 'true'}"
            for option in statement.options or ()
        ),
    )


def _key(element: Any) -> IndexKey:
    descending = element.ordering == SortByDir.SORTBY_DESC
    nulls_first = {
        SortByNulls.SORTBY_NULLS_FIRST: True,
        SortByNulls.SORTBY_NULLS_LAST: False,
    }.get(SortByNulls(element.nulls_ordering), descending)
    return IndexKey(
        element.name if element.name is not None else text_of(element.expr),
        _names(element.collation)[-1] if element.collation else None,
        _names(element.opclass)[-1] if element.opclass else None,
        descending,
        nulls_first,
    )


def parse_partition_key(text: str) -> tuple[str, tuple[str, ...]]:
    """Split `RANGE (a, lower(b))` into the strategy and its keys; raises `Unparsable`."""
    statement = _statement(
        f'CREATE TABLE "t" () PARTITION BY {text}', ast.CreateStmt, "it is not a partition key"
    )
    if statement.partspec is None:
        raise Unparsable("it is not a partition key")
    strategy = str(getattr(statement.partspec.strategy, "name", statement.partspec.strategy))
    return strategy.rpartition("_")[2], tuple(
        element.name if element.name is not None else text_of(element.expr)
        for element in statement.partspec.partParams
    )


def parse_policy(name: str, text: str, table: str) -> Policy:
    """Take `[AS …] FOR … TO … USING (…) WITH CHECK (…)` apart; raises `Unparsable`."""
    statement = _statement(
        f'CREATE POLICY "x" ON {quoted(table)} {text}', ast.CreatePolicyStmt, "it is not one policy"
    )
    return Policy(
        name,
        (statement.cmd_name or "all").upper(),
        tuple(sorted(_role(role) for role in statement.roles or ())) or ("PUBLIC",),
        text_of(statement.qual) if statement.qual is not None else None,
        text_of(statement.with_check) if statement.with_check is not None else None,
        bool(statement.permissive),
    )


def _role(node: Any) -> str:
    return node.rolename if node.rolename is not None else "PUBLIC"


ALL_PRIVILEGES = ("DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE")


def parse_grant(grantee: str, text: str) -> Grant:
    """Take `SELECT, UPDATE (a, b)` apart; ALL means every privilege that all versions know."""
    statement = _statement(
        f'GRANT {text} ON "t" TO "x"', ast.GrantStmt, "it is not a list of privileges"
    )
    privileges: set[tuple[str, str | None]] = set()
    for node in statement.privileges or ():
        columns: tuple[str | None, ...] = _names(node.cols) or (None,)
        privileges.update((node.priv_name.upper(), column) for column in columns)
    if not statement.privileges:
        privileges.update((word, None) for word in ALL_PRIVILEGES)
    return Grant("PUBLIC" if grantee.upper() == "PUBLIC" else grantee, frozenset(privileges))


def parse_trigger(name: str, text: str, table: str) -> Trigger:
    """Read what follows a trigger's name, ON left out; raises `Unparsable`."""
    trigger_shape(text, table)
    return Trigger(name, " ".join(text.split()))


def trigger_shape(text: str, table: str) -> Shape:
    """Give the shape of a trigger, blind to the spelling of WHEN; raises `Unparsable`."""
    head = re.match(
        r"(?P<when>.*?\b(?:INSERT|UPDATE|DELETE|TRUNCATE)\b(?:\s+OF\s+[\w\", ]+?)?)"
        r"(?=\s+(?:ON|FROM|NOT\s+DEFERRABLE|DEFERRABLE|INITIALLY|REFERENCING|FOR|WHEN|EXECUTE)\b)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if head is None:
        raise Unparsable("a trigger reads `BEFORE UPDATE FOR EACH ROW EXECUTE FUNCTION f()`")
    rest = re.sub(r"^\s*ON\s+\S+", "", text[head.end() :], flags=re.IGNORECASE)
    timing = head["when"]
    constraint = "CONSTRAINT " if re.match(r"\s*CONSTRAINT\b", timing, re.IGNORECASE) else ""
    timing = re.sub(r"^\s*CONSTRAINT\b", "", timing, flags=re.IGNORECASE)
    statement = _statement(
        f'CREATE {constraint}TRIGGER "x" {timing} ON {quoted(table)} {rest}',
        ast.CreateTrigStmt,
        "it is not one trigger",
    )
    return _shape(statement, Scope(table))


def parse_function(signature: str, returns: str, schema: str) -> Function:
    """Take `schema.name(arguments)` and its result apart; raises `Unparsable`."""
    table = re.match(r"\s*TABLE\s*\((.*)\)\s*$", returns, re.IGNORECASE | re.DOTALL)
    statement = _statement(
        f"CREATE FUNCTION {signature} RETURNS void LANGUAGE sql AS ''",
        ast.CreateFunctionStmt,
        "it is not one function",
    )
    parts = _names(statement.funcname)
    arguments = tuple(
        (argument.name or "", _argument_type(argument, schema))
        for argument in statement.parameters or ()
        if str(getattr(argument.mode, "value", argument.mode)) in ("d", "i", "b", "v", "100")
        or getattr(argument.mode, "name", "")
        in ("FUNC_PARAM_DEFAULT", "FUNC_PARAM_IN", "FUNC_PARAM_INOUT", "FUNC_PARAM_VARIADIC")
    )
    name = ".".join(parts) if len(parts) > 1 else f"{schema}.{parts[0]}"
    return Function(
        name, arguments, table_result(returns, schema) if table else result(returns, schema)
    )


def result(text: str, schema: str) -> str:
    """Spell the result of a function; raises `Unparsable`."""
    if text.strip() == "":
        return ""
    spelled = parse_type(text)
    if spelled.startswith("SETOF "):
        return f"SETOF {qualified(spelled.removeprefix('SETOF '), schema)}"
    return qualified(spelled, schema)


def table_result(text: str, schema: str) -> str:
    """Spell `TABLE(a integer, …)`; raises `Unparsable`."""
    statement = _statement(
        f"CREATE FUNCTION f() RETURNS {text} LANGUAGE sql AS ''",
        ast.CreateFunctionStmt,
        "it is no result",
    )
    columns = ", ".join(
        f"{argument.name} {_argument_type(argument, schema)}"
        for argument in statement.parameters or ()
    )
    return f"TABLE({columns})"


def _argument_type(argument: Any, schema: str) -> str:
    return qualified(_type(argument.argType), schema)


def parse_sequence(name: str, text: str) -> Sequence:
    """Take the options of CREATE SEQUENCE apart; raises `Unparsable`."""
    statement: Any = _statement(
        f"CREATE SEQUENCE {quoted(name)} {text}", ast.CreateSeqStmt, "it is not one sequence"
    )
    options = {option.defname: option.arg for option in statement.options or ()}

    def number(key: str) -> int | None:
        node = options.get(key)
        return int(_value(node)) if node is not None else None

    increment = number("increment") or 1
    minimum, maximum = number("minvalue"), number("maxvalue")
    first = minimum if increment > 0 else maximum
    start = number("start")
    cycle = options.get("cycle")
    return Sequence(
        name,
        _type(options["as"]) if "as" in options else "bigint",
        (
            start
            if start is not None
            else (first if first is not None else (1 if increment > 0 else -1))
        ),
        increment,
        minimum,
        maximum,
        number("cache") or 1,
        bool(cycle is not None and _value(cycle) in ("True", "1", "true")),
    )


def parse_enum(text: str) -> tuple[str, ...]:
    """Take `'a', 'b'` or `ENUM ('a', 'b')` apart; raises `Unparsable`."""
    bare = re.sub(r"^\s*ENUM\s*\((.*)\)\s*$", r"\1", text, flags=re.IGNORECASE | re.DOTALL)
    statement = _statement(
        f'CREATE TYPE "x" AS ENUM ({bare})', ast.CreateEnumStmt, "it is not a list of values"
    )
    return _names(statement.vals)


def parse_domain(name: str, text: str, schema: str) -> Domain:
    """Take what follows the name of a domain apart; raises `Unparsable`."""
    statement = _statement(
        f"CREATE DOMAIN {quoted(name)} AS {text}", ast.CreateDomainStmt, "it is not one domain"
    )
    nodes = statement.constraints or ()
    return Domain(
        name,
        qualified(_type(statement.typeName), schema),
        not any(node.contype == ConstrType.CONSTR_NOTNULL for node in nodes),
        next((text_of(n.raw_expr) for n in nodes if n.contype == ConstrType.CONSTR_DEFAULT), None),
        _names(statement.collClause.collname)[-1] if statement.collClause else None,
        tuple(
            Check(node.conname, text_of(node.raw_expr))
            for node in nodes
            if node.contype == ConstrType.CONSTR_CHECK
        ),
    )


def parse_view(
    name: str, text: str, schema: str
) -> tuple[bool, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Take `[MATERIALIZED] (a integer, …) [WITH (option = value)]` apart; raises `Unparsable`."""
    materialized = bool(re.match(r"\s*MATERIALIZED\b", text, re.IGNORECASE))
    rest = re.sub(r"^\s*MATERIALIZED\b", "", text, flags=re.IGNORECASE)
    statement = _statement(
        f"CREATE TABLE {quoted(name)} {rest}",
        ast.CreateStmt,
        "a view reads `(column type, …) WITH (security_invoker = true)`",
    )
    if not statement.tableElts:
        raise Unparsable("a view reads `(column type, …) WITH (security_invoker = true)`")
    columns = tuple(
        (element.colname, qualified(_type(element.typeName), schema))
        for element in statement.tableElts
    )
    options = tuple(
        sorted(
            f"{option.defname}={_value(option.arg).lower() if option.arg is not None else 'true'}"
            for option in statement.options or ()
        )
    )
    return materialized, columns, options


def quoted(name: str) -> str:
    """Quote a dotted name part by part."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
