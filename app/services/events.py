from uuid import UUID

import msgspec
from sqlalchemy import cast, column, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Boolean, Integer, Text, Uuid

from app.errors import Forbidden
from app.principals import Principal
from app.schemas import events as s


async def publish(
    session: AsyncSession, principal: Principal, workspace_id: UUID, events: list[s.EventCreate]
) -> s.PublishedEvents:
    """Publish events in the request's transaction; all or none.

    Raises `Forbidden` when a user names an `actor`, since the audit trail must say who it really
    was.
    """
    if principal.kind == "user" and any(e.actor is not None for e in events):
        raise Forbidden(
            "A user publishes as themselves; only keys and operators may name an actor."
        )
    batch = cast(literal(msgspec.json.encode(events).decode(), Text), JSONB)
    published = func.annex.publish_events(workspace_id, batch).table_valued(
        column("ordinal", Integer),
        column("event_id", Uuid),
        column("is_duplicate", Boolean),
        name="p",
    )
    rows = await session.execute(
        select(published.c.event_id, published.c.is_duplicate).order_by(published.c.ordinal)
    )
    return s.PublishedEvents(data=[s.PublishedEvent(*row) for row in rows])
