"""Split a migration into statements, as the Supabase CLI does: without a grammar.

A migration that works here works there, oddities of the split included.
"""

import re

import asyncpg

# What can hide or delimit a statement's end. The lone `end` closes BEGIN ATOMIC wherever it stands.
_TOKEN = re.compile(
    r"""
      --[^\n]*\n?
    | (?P<block>/\*)
    | '(?:[^']|'')*(?:'|\Z)
    | "(?:[^"]|"")*(?:"|\Z)
    | (?P<tag>\$\w*\$)
    | \\.?
    | (?P<atomic>(?<![\w$])begin\s+atomic)
    | (?P<mark>[();]|end)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")


def split(sql: str) -> list[str]:
    """Split a file into the statements that the Supabase CLI sends, comments kept with them."""
    statements: list[str] = []
    open_until: list[str] = []  # ")" for a parenthesis, "end" for a body of BEGIN ATOMIC
    start = position = 0
    while token := _TOKEN.search(sql, position):
        position = token.end()
        if token["block"]:
            position = _end_of_block(sql, position)
        elif token["tag"]:
            closing = sql.find(token["tag"], position)
            position = len(sql) if closing < 0 else closing + len(token["tag"])
        elif token["atomic"]:
            open_until.append("end")
        elif token["mark"] == "(":
            open_until.append(")")
        elif token["mark"] == ";" and not open_until:
            statements.append(sql[start:position])
            start = position
        elif token["mark"]:
            # One `)` closes all the parentheses that are open; the CLI does so.
            while open_until and open_until[-1] == token["mark"].lower():
                open_until.pop()
    trimmed = (statement.rstrip(";").strip() for statement in [*statements, sql[start:]])
    return [statement for statement in trimmed if statement]


def _end_of_block(sql: str, position: int) -> int:
    depth = 1
    while depth and (edge := _BLOCK_EDGE.search(sql, position)):
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return len(sql) if depth else position


def failure(where: str, statements: list[str], number: int, error: asyncpg.PostgresError) -> str:
    """Say where a file failed: in a statement, counted from 1, or (0) not before the commit."""
    if number:
        # Postgres counts characters from 1, or gives none.
        before = statements[number - 1][: max(int(error.position or 0) - 1, 0)]
        where += f", statement {number}, its line {before.count(chr(10)) + 1}"
    detail = f" ({error.detail})" if error.detail else ""
    return f"{where}: {error.args[0]}{detail}"
