"""Aliases of a query, which are its author's choice and no part of its meaning."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from pglast import ast

_MARK = "\0"


def renamed(query: Any) -> Any:
    """Name what the queries below a node read by its place; a query that was renamed stays."""
    _rename(query, {}, count())
    return query


def _rename(node: Any, names: dict[str, str], numbers: Iterator[int]) -> None:
    match node:
        case tuple() | list():
            for item in node:
                _rename(item, names, numbers)
            return
        case ast.ColumnRef(fields=[first, _, *_]):
            first.sval = names.get(first.sval, first.sval)
            return
        case ast.SelectStmt():
            names = dict(names)
            for source in _sources(node.fromClause):
                own = source.alias.aliasname if source.alias else getattr(source, "relname", None)
                if own is None or own.startswith(_MARK):
                    continue
                names[own] = f"{_MARK}{next(numbers)}"
                columns = source.alias.colnames if source.alias else None
                source.alias = ast.Alias(aliasname=names[own], colnames=columns)
    if isinstance(node, ast.Node):
        for slot in node:
            _rename(getattr(node, slot), names, numbers)


def _sources(nodes: Any) -> Iterator[Any]:
    """List what a FROM reads, joined or not."""
    for node in nodes or ():
        if isinstance(node, ast.JoinExpr):
            yield from _sources((node.larg, node.rarg))
        elif hasattr(node, "alias"):
            yield node
