"""The allow-list of statements: frozen queries to the letter, and `EXPLAIN` of one expression.

Postgres' own parser has to agree that it is one.
"""

from collections.abc import Iterator
from typing import Any

import pglast
from pglast import ast

from alembic_readonly_check.db import queries

SETTINGS = (
    "select set_config('search_path', '', true),"
    " set_config('statement_timeout', :timeout, true), set_config('lock_timeout', '1000', true)"
)

PATH = "select set_config('search_path', :path, true)"

STATE = (
    "select json_build_object('read_only', current_setting('transaction_read_only'),"
    " 'isolation', current_setting('transaction_isolation'), 'role', current_user,"
    " 'database', current_database(), 'port', current_setting('port'),"
    " 'started', pg_postmaster_start_time(),"
    " 'creates', (select rolcreatedb or rolsuper from pg_roles where rolname = current_user),"
    " 'version', current_setting('server_version_num')::int)::text"
)

WRITABLE = (
    "select coalesce(json_agg(n.nspname || '.' || c.relname order by 1), '[]')::text"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    " where c.relkind in ('r', 'p') and n.nspname = any(string_to_array(:schemas, ','))"
    " and (pg_has_role(current_user, c.relowner, 'USAGE')"
    " or has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')"
    " or has_any_column_privilege(c.oid, 'INSERT, UPDATE'))"
)

# Asked of the catalog: a role without USAGE on the schema may not even name the table.
HISTORY_EXISTS = (
    "select coalesce((select case when has_schema_privilege(n.oid, 'USAGE')"
    " and has_table_privilege(c.oid, 'SELECT') then 'true' else 'forbidden' end"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = 'supabase_migrations' and c.relname = 'schema_migrations'), 'false')"
)

HISTORY = (
    "select coalesce(json_agg(x order by x.version), '[]')::text"
    " from (select m.version, to_jsonb(m) ->> 'name' as name, to_jsonb(m) -> 'statements'"
    " as statements from supabase_migrations.schema_migrations m) x"
)


# An expression that the server refuses would end the transaction; going back here does not.
SAVEPOINT = "SAVEPOINT plan"
BACK = "ROLLBACK TO SAVEPOINT plan"

FROZEN: dict[str, str] = {
    **queries.QUERIES,
    "settings": SETTINGS,
    "path": PATH,
    "state": STATE,
    "writable": WRITABLE,
    "history exists": HISTORY_EXISTS,
    "history": HISTORY,
    "savepoint": SAVEPOINT,
    "back": BACK,
}

EXPLAIN = "EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT "


_WRITING = (
    ast.InsertStmt,
    ast.UpdateStmt,
    ast.DeleteStmt,
    ast.MergeStmt,
    ast.IntoClause,
    ast.LockingClause,
)


def is_template(statement: str) -> bool:
    """Tell whether a statement is `EXPLAIN` of one expression over a row of typed nulls.

    ANALYZE, a second statement, INTO, a lock or a table in FROM make it something else.
    """
    explain = _only(statement) if statement.startswith(EXPLAIN) else None
    if not isinstance(explain, ast.ExplainStmt):
        return False
    select: Any = explain.query
    options = {option.defname for option in explain.options or ()}
    return (
        options == {"verbose", "costs", "format"}
        and isinstance(select, ast.SelectStmt)
        and len(select.targetList or ()) == 1
        and select.withClause is None
        and all(isinstance(source, ast.RangeSubselect) for source in select.fromClause or ())
        and not any(isinstance(node, _WRITING) for node in _nodes(select))
    )


def is_reflection(statement: str) -> bool:
    """Tell whether a statement is one SELECT that reads nothing but pg_catalog.

    Only a scratch database is read by anything but the frozen queries.
    """
    select = _only(statement)
    return isinstance(select, ast.SelectStmt) and not any(
        isinstance(node, _WRITING) or (isinstance(node, ast.RangeVar) and not _is_catalog(node))
        for node in _nodes(select)
    )


def _is_catalog(relation: ast.RangeVar) -> bool:
    # Postgres looks into pg_catalog first, so a bare pg_class is no table of a user's.
    name, schema = relation.relname or "", relation.schemaname
    return schema == "pg_catalog" or (not schema and name.startswith("pg_"))


def _only(statement: str) -> ast.Node | None:
    """Parse a statement; None if it is none, or several."""
    try:
        statements = pglast.parse_sql(statement)
    except pglast.parser.ParseError:
        return None
    return statements[0].stmt if len(statements) == 1 else None


def _nodes(node: Any) -> Iterator[ast.Node]:
    """Walk a tree of the parser."""
    if isinstance(node, tuple):
        for item in node:
            yield from _nodes(item)
    elif isinstance(node, ast.Node):
        yield node
        for slot in node:
            yield from _nodes(getattr(node, slot))
