"""Postgres' own grammar: what every reader of SQL here begins with."""

import re
from typing import Any

import pglast
from pglast import ast
from pglast.keywords import COL_NAME_KEYWORDS, RESERVED_KEYWORDS, TYPE_FUNC_NAME_KEYWORDS
from pglast.stream import RawStream


class Unparsable(ValueError):
    """Say why a fragment is not the SQL it should be; the text is Postgres' own message."""


def value_of(value: Any) -> str:
    for attribute in ("sval", "fval", "bsval", "boolval"):
        if hasattr(value, attribute):
            return str(getattr(value, attribute))
    return str(getattr(value, "ival", 0) or 0)


def why(error: Exception) -> str:
    """Take Postgres' sentence out of a parse error."""
    return str(error.args[0]) if error.args else str(error)


def parse_one(sql: str, kind: type[ast.Node], otherwise: str) -> Any:
    """Parse one statement of a kind; what else it may be is not this."""
    try:
        statements = pglast.parse_sql(sql)
    except pglast.parser.ParseError as error:
        raise Unparsable(why(error)) from None
    if len(statements) != 1 or not isinstance(statements[0].stmt, kind):
        raise Unparsable(otherwise)
    return statements[0].stmt


def text_of(node: Any) -> str:
    """Write a parsed expression out again."""
    return RawStream()(node)


def names_of(nodes: Any) -> tuple[str, ...]:
    return tuple(node.sval for node in nodes or ())


_WORDS = RESERVED_KEYWORDS | COL_NAME_KEYWORDS | TYPE_FUNC_NAME_KEYWORDS


def identifier(name: str) -> str:
    """Write a name as it must stand in SQL: in quotes only if it needs them."""
    if re.fullmatch("[a-z_][a-z0-9_]*", name) and name not in _WORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def quoted(name: str) -> str:
    """Quote a dotted name part by part."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
