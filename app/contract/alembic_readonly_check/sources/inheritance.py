"""Give tables that inherit from others (`postgresql_inherits`) what they have from them."""

from dataclasses import replace

from sqlalchemy import MetaData
from sqlalchemy import Table as SqlTable

from alembic_readonly_check.facts import Table


def inherit(metadata: MetaData, tables: dict[str, Table], default_schema: str) -> None:
    """Put the columns and checks of mapped parents before a table's own, as Postgres does."""
    for table in metadata.tables.values():
        child = f"{table.schema or default_schema}.{table.name}"
        for parent in _parents(table):
            held = tables.get(parent if "." in parent else f"{default_schema}.{parent}")
            if held is None or child not in tables:
                continue
            own = tables[child]
            named = {check.name for check in own.checks}
            tables[child] = replace(
                own,
                columns=(*(c for c in held.columns if own.column(c.name) is None), *own.columns),
                checks=(
                    *own.checks,
                    *(c for c in held.checks if c.inherited and c.name not in named),
                ),
            )


def _parents(table: SqlTable) -> tuple[str, ...]:
    stated = table.dialect_options["postgresql"].get("inherits") or ()
    return tuple(map(str, stated)) if isinstance(stated, tuple | list) else (str(stated),)
