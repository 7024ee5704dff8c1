"""Ask Alembic's own comparison for a second opinion on the migrated scratch database.

The facts are compared by `compare`, which sees more; what Alembic sees beyond that, perhaps through
a type of the project that compares itself, is reported too. It runs without its comparator of
defaults, which executes them, and never on a live database: its reflection is not a frozen query.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, UniqueConstraint
from sqlalchemy import Table as SqlTable

from alembic_readonly_check.codes import finding
from alembic_readonly_check.db.catalog import Scope
from alembic_readonly_check.db.guard import Reader
from alembic_readonly_check.facts import Schema
from alembic_readonly_check.findings import Finding

PLUGINS = ("alembic.autogenerate.*", "~alembic.autogenerate.defaults")

_CODES = {
    "table": "DB201",
    "column": "DB202",
    "type": "DB203",
    "nullable": "DB204",
    "fk": "DB207",
    "constraint": "DB208",
    "index": "DB210",
    "comment": "DB212",
}


def findings(
    reader: Reader,
    metadata: MetaData,
    scope: Scope,
    held: Schema,
    default_schema: str,
    reported: Iterable[Finding],
) -> Iterator[Finding]:
    """Give what Alembic sees on subjects that nothing else was reported on."""
    nameless = any(not table.schema for table in metadata.tables.values())
    # A schema that all tables name is one of several to Alembic, the default one or not.
    home = default_schema if nameless else "pg_catalog"
    # Alembic finds tables without a schema by the search path, and takes that for the default.
    reader.ask("path", path=home)
    reader.connection.dialect.default_schema_name = home
    known = {found.subject for found in reported}
    for code, subject, told in _differences(reader.connection, metadata, scope, held, home):
        if subject not in known and subject.rpartition(".")[0] not in known:
            yield replace(
                finding(code, subject, f"Alembic sees a difference: {told}", actual=told),
                severity="info",
            )


def _differences(
    connection: Connection, metadata: MetaData, scope: Scope, held: Schema, default_schema: str
) -> Iterator[tuple[str, str, str]]:
    def schema_of(table: SqlTable) -> str:
        return table.schema or default_schema

    def include_name(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return (name or default_schema) in scope.schemas
        if kind != "table":
            return True
        full = f"{parents['schema_name'] or default_schema}.{name}"
        return full not in held.partitions and not scope.excludes(full)

    def include_object(item: Any, _: Any, kind: str, __: bool, ___: Any) -> bool:
        return kind != "table" or schema_of(item) in scope.schemas

    context = MigrationContext.configure(
        connection,
        opts={
            "include_schemas": True,
            "include_name": include_name,
            "include_object": include_object,
            "compare_type": True,
            "compare_server_default": False,
            "autogenerate_plugins": PLUGINS,
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It says which indexes it cannot compare; we can.
        entries = compare_metadata(context, metadata)
    for entry in entries:
        for difference in entry if isinstance(entry, list) else [entry]:
            if not _is_alembics(difference, held, schema_of):
                continue
            yield from _told(difference, schema_of, default_schema)


def _is_alembics(difference: Any, held: Schema, schema_of: Any) -> bool:
    """Tell whether Alembic may know better: of types only one that compares itself is more exact.

    What no fact of the database holds is an extension's, or the copy of a key that leads to a
    partitioned table.
    """
    verb, what = difference[0], difference[1]
    if verb == "modify_type":
        return hasattr(difference[6], "compare_against_backend")
    if verb == "remove_table":
        return f"{schema_of(what)}.{what.name}" in held.tables
    if verb == "remove_fk":
        table = held.tables.get(f"{schema_of(what.table)}.{what.table.name}")
        return table is not None and any(key.name == what.name for key in table.foreign_keys)
    return True


def _told(difference: Any, schema_of: Any, default_schema: str) -> Iterator[tuple[str, str, str]]:
    """Name the code and the subject of one of Alembic's tuples."""
    verb, _, what = difference[0].partition("_")
    if what.endswith("comment") and verb != "add" and difference[-1] is None:
        return  # Models that state no comment ask for none.
    if what == "table_comment" or what == "table":
        table = difference[1]
        if verb != "remove" or what == "table":
            yield _CODES[what.rpartition("_")[2]], f"{schema_of(table)}.{table.name}", difference[0]
    elif what in ("column", "type", "nullable", "comment"):
        schema, table, column = difference[1:4]
        name = column if isinstance(column, str) else column.name
        told = " ".join([difference[0], *(str(value) for value in difference[5:])])
        yield _CODES[what], f"{schema or default_schema}.{table}.{name}", told
    elif what in ("fk", "constraint", "index"):
        item = difference[1]
        code = _CODES[what]
        if what == "constraint" and not isinstance(item, UniqueConstraint):
            code = "DB209"
        yield code, f"{schema_of(item.table)}.{item.table.name}.{item.name}", difference[0]
