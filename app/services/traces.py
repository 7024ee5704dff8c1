from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, bindparam, column, func, select
from sqlalchemy.types import DateTime, Integer, Text, Uuid

import db_models as m
from app.database.reads import Read, decode_cursor
from app.schemas import traces as s

ORDER = (m.Notification.user_id,)
"""By which recipients come, as a cursor has it: their ids."""


def traced(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.trace_event."""
    found = func.annex.trace_event(
        workspace_id,
        bindparam("event_id", type_=Uuid),
        bindparam("after_id", type_=Uuid),
        bindparam("limit_", type_=Integer),
    ).table_valued(
        column("user_id", Uuid),
        column("outcome", Text),
        column("reason", Text),
        column("notification_id", Uuid),
        column("mail", Text),
        column("mail_reason", Text),
        column("at", DateTime(timezone=True)),
        column("state", Text),
        name="t",
    )
    return select(*found.c).order_by(found.c.user_id.nulls_first())


async def page(read: Read, event_id: UUID, cursor: str | None, limit: int) -> s.TracePage:
    """Return a page of an event's recipients; raises `NotFound`, `Forbidden`, `InvalidCursor`."""
    after = decode_cursor(cursor, ORDER)[0] if cursor is not None else None
    values = {"event_id": event_id, "after_id": after, "limit_": limit + 1}
    _, rows = await read.rows(traced, values)
    # The first row is nobody's: it says how far the fan-out is.
    state, found = rows[0][-1], [s.Trace(*row[:-1]) for row in rows[1:]]
    return s.TracePage(*read.fit(found, limit, ORDER), state)
