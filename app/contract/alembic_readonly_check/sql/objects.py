"""What stands beside tables, taken apart: functions, sequences, enums, domains, views."""

import re
from typing import Any

from pglast import ast
from pglast.enums import ConstrType

from alembic_readonly_check.facts import Check, Domain, Function, Sequence, View
from alembic_readonly_check.sql.parsing import (
    Unparsable,
    names_of,
    parse_one,
    quoted,
    text_of,
    value_of,
)
from alembic_readonly_check.sql.types import parse_type, qualified, spell


def parse_function(signature: str, returns: str, schema: str) -> Function:
    """Take `schema.name(arguments)` and its result apart; raises `Unparsable`."""
    table = re.match(r"\s*TABLE\s*\((.*)\)\s*$", returns, re.IGNORECASE | re.DOTALL)
    statement = parse_one(
        f"CREATE FUNCTION {signature} RETURNS void LANGUAGE sql AS ''",
        ast.CreateFunctionStmt,
        "it is not one function",
    )
    parts = names_of(statement.funcname)
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
    statement = parse_one(
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
    return qualified(spell(argument.argType), schema)


def parse_sequence(name: str, text: str, _: str = "") -> Sequence:
    """Take the options of CREATE SEQUENCE apart; raises `Unparsable`."""
    statement: Any = parse_one(
        f"CREATE SEQUENCE {quoted(name)} {text}", ast.CreateSeqStmt, "it is not one sequence"
    )
    options = {option.defname: option.arg for option in statement.options or ()}

    def number(key: str) -> int | None:
        node = options.get(key)
        return int(value_of(node)) if node is not None else None

    increment = number("increment") or 1
    minimum, maximum = number("minvalue"), number("maxvalue")
    first = minimum if increment > 0 else maximum
    start = number("start")
    cycle = options.get("cycle")
    return Sequence(
        name,
        spell(options["as"]) if "as" in options else "bigint",
        (
            start
            if start is not None
            else (first if first is not None else (1 if increment > 0 else -1))
        ),
        increment,
        minimum,
        maximum,
        number("cache") or 1,
        bool(cycle is not None and value_of(cycle) in ("True", "1", "true")),
    )


def parse_enum(text: str) -> tuple[str, ...]:
    """Take `'a', 'b'` or `ENUM ('a', 'b')` apart; raises `Unparsable`."""
    bare = re.sub(r"^\s*ENUM\s*\((.*)\)\s*$", r"\1", text, flags=re.IGNORECASE | re.DOTALL)
    statement = parse_one(
        f'CREATE TYPE "x" AS ENUM ({bare})', ast.CreateEnumStmt, "it is not a list of values"
    )
    return names_of(statement.vals)


def parse_domain(name: str, text: str, schema: str) -> Domain:
    """Take what follows the name of a domain apart; raises `Unparsable`."""
    statement = parse_one(
        f"CREATE DOMAIN {quoted(name)} AS {text}", ast.CreateDomainStmt, "it is not one domain"
    )
    nodes = statement.constraints or ()
    return Domain(
        name,
        qualified(spell(statement.typeName), schema),
        not any(node.contype == ConstrType.CONSTR_NOTNULL for node in nodes),
        next((text_of(n.raw_expr) for n in nodes if n.contype == ConstrType.CONSTR_DEFAULT), None),
        names_of(statement.collClause.collname)[-1] if statement.collClause else None,
        tuple(
            Check(node.conname, text_of(node.raw_expr))
            for node in nodes
            if node.contype == ConstrType.CONSTR_CHECK
        ),
    )


def parse_view(name: str, text: str, schema: str) -> View:
    """Take `[MATERIALIZED] (a integer, …) [WITH (option = value)]` apart; raises `Unparsable`."""
    materialized = bool(re.match(r"\s*MATERIALIZED\b", text, re.IGNORECASE))
    rest = re.sub(r"^\s*MATERIALIZED\b", "", text, flags=re.IGNORECASE)
    statement = parse_one(
        f"CREATE TABLE {quoted(name)} {rest}",
        ast.CreateStmt,
        "a view reads `(column type, …) WITH (security_invoker = true)`",
    )
    if not statement.tableElts:
        raise Unparsable("a view reads `(column type, …) WITH (security_invoker = true)`")
    columns = tuple(
        (element.colname, qualified(spell(element.typeName), schema))
        for element in statement.tableElts
    )
    options = tuple(
        sorted(
            f"{option.defname}={value_of(option.arg).lower() if option.arg is not None else 'true'}"
            for option in statement.options or ()
        )
    )
    return View(name, columns, materialized, options, grants=())
