"""Indexes that models make under a condition (`ddl_if`), which Postgres may not meet."""

from sqlalchemy import Index
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql.compiler import DDLCompiler


def is_optional(index: Index, compiler: DDLCompiler) -> bool:
    """Tell whether SQLAlchemy leaves the index out on Postgres; Alembic makes it all the same."""
    condition = index._ddl_if
    if condition is None:
        return False
    try:
        return not condition._should_execute(
            CreateIndex(index), index, None, compiler=compiler, checkfirst=False
        )
    except Exception:  # It asks the connection, which a check of models has not.
        return True
