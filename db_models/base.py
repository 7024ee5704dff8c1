"""The declarative base: maps docs/datamodel.md, and refuses to change or write it."""

from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import ColumnElement, MetaData, Table, and_, event, func, select
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session
from sqlalchemy.types import Text


class ReadOnlyMapping(Exception):
    """Something tried to change the schema or to flush rows through the mapping."""


class Base(DeclarativeBase):
    """Base of all models. Writes are explicit statements; relationships would be `lazy="raise"`."""

    metadata = MetaData(schema="annex")
    type_annotation_map = {  # noqa: RUF012
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB(),
        str: Text(),
    }


def within(column: InstrumentedAttribute[UUID], value: ColumnElement[UUID]) -> ColumnElement[bool]:
    """Compare a workspace's id so that a page is read from the index that begins with it.

    Equality would let the planner order by the rest alone: with few workspaces it would walk
    another index, through everybody's rows. Order by this column too.
    """
    return and_(column >= value, column <= value)


def is_caller(column: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """Compare a user's id with the caller's so that an index on it serves.

    The call by itself would be asked for each row of the table, after its policies.
    """
    return column == select(func.annex.user_id()).scalar_subquery()


def refuse_ddl(target: Any, *_: Any, **__: Any) -> NoReturn:
    """Refuse CREATE and DROP from the metadata: supabase/migrations is the only DDL."""
    raise ReadOnlyMapping(
        f"{target} is mapped read-only; write a migration in supabase/migrations."
    )


for moment in ("before_create", "before_drop"):
    event.listen(Base.metadata, moment, refuse_ddl)


@event.listens_for(Table, "after_parent_attach")
def guard_table(table: Table, parent: Any) -> None:
    """Refuse DDL of a single table as well, also of one that no class maps: Supabase's own."""
    if parent is Base.metadata:
        for moment in ("before_create", "before_drop"):
            event.listen(table, moment, refuse_ddl)


@event.listens_for(Session, "before_flush")
def refuse_flush(session: Session, *_: Any) -> None:
    """Refuse to write what was added to, changed in or deleted from a session."""
    if session.new or session.dirty or session.deleted:
        raise ReadOnlyMapping("Rows are written by explicit statements, never by a flush.")
