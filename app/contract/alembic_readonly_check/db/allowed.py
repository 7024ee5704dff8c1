"""The allow-list of statements: frozen queries by their hash, and `EXPLAIN` of one expression.

Postgres' own parser has to agree that it is one.
"""

import hashlib
from typing import Any

import pglast
from pglast import ast
from pglast.visitors import Visitor

from alembic_readonly_check.db import queries

SETTINGS = (
    "select set_config('search_path', '', true),"
    " set_config('statement_timeout', :timeout, true), set_config('lock_timeout', '1000', true)"
)

PATH = "select set_config('search_path', :path, true)"

STATE = (
    "select json_build_object('read_only', current_setting('transaction_read_only'),"
    " 'isolation', current_setting('transaction_isolation'), 'role', current_user,"
    " 'database', current_database(), 'address', host(inet_server_addr()),"
    " 'port', current_setting('port'), 'started', pg_postmaster_start_time(),"
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

HISTORY_EXISTS = "select (to_regclass('supabase_migrations.schema_migrations') is not null)::text"

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


def statement_hash(statement: str) -> str:
    """Fingerprint a statement as the driver gets it."""
    return hashlib.sha256(statement.encode()).hexdigest()


def is_template(statement: str) -> bool:
    """Tell whether a statement is `EXPLAIN` of one expression over a row of typed nulls.

    ANALYZE, a second statement, INTO, a lock or a table in FROM make it something else.
    """
    if not statement.startswith(EXPLAIN):
        return False
    try:
        statements = pglast.parse_sql(statement)
    except pglast.parser.ParseError:
        return False
    explain = statements[0].stmt
    if len(statements) != 1 or not isinstance(explain, ast.ExplainStmt):
        return False
    select: Any = explain.query
    options = {option.defname for option in explain.options or ()}
    return (
        options == {"verbose", "costs", "format"}
        and isinstance(select, ast.SelectStmt)
        and len(select.targetList or ()) == 1
        and select.intoClause is None
        and not select.lockingClause
        and select.withClause is None
        and all(isinstance(source, ast.RangeSubselect) for source in select.fromClause or ())
        and not _Writes.inside(select)
    )


def is_reflection(statement: str) -> bool:
    """Tell whether a statement is one SELECT that reads nothing but pg_catalog.

    Only a scratch database is read by anything but the frozen queries.
    """
    try:
        statements = pglast.parse_sql(statement)
    except pglast.parser.ParseError:
        return False
    select = statements[0].stmt
    return (
        len(statements) == 1
        and isinstance(select, ast.SelectStmt)
        and not _Writes.inside(select)
        and not _Reads.outside(select)
    )


class _Reads(Visitor):
    """Looks for a relation in a query that is not of pg_catalog."""

    def __init__(self) -> None:
        self.found = False

    @classmethod
    def outside(cls, node: ast.Node) -> bool:
        visitor = cls()
        visitor(node)
        return visitor.found

    def visit_RangeVar(self, _: Any, node: ast.RangeVar) -> None:
        # Postgres looks into pg_catalog first, so a bare pg_class is no table of a user's.
        name = node.relname or ""
        if node.schemaname != "pg_catalog" and (node.schemaname or not name.startswith("pg_")):
            self.found = True


class _Writes(Visitor):
    """Looks for anything in a query that could do more than read."""

    def __init__(self) -> None:
        self.found = False

    @classmethod
    def inside(cls, node: ast.Node) -> bool:
        visitor = cls()
        visitor(node)
        return visitor.found

    def visit(self, _: Any, node: ast.Node) -> None:
        if isinstance(
            node,
            ast.InsertStmt
            | ast.UpdateStmt
            | ast.DeleteStmt
            | ast.MergeStmt
            | ast.IntoClause
            | ast.LockingClause,
        ):
            self.found = True
