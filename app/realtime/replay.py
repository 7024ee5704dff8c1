"""The past of a workspace's log, read as the stream's principal under row level security."""

from functools import partial
from uuid import UUID

from sqlalchemy import bindparam
from sqlalchemy.ext.asyncio import AsyncEngine

import db_models as m
from app.auth.principals import Principal
from app.database import Compiled, transaction
from app.realtime.hub import Frame, Hub, as_event
from app.realtime.streams import Replay

ROWS = 500
MAX_PAGE = 1024 * 1024
"""Bytes that a slow reader may keep waiting for it."""

frames = Compiled(
    m.LogEntry.visible_to(bindparam("workspace_id"))  # type: ignore[arg-type]
    .with_only_columns(m.LogEntry.pos, *m.Event.__table__.columns)
    .join(m.Event, m.Event.id == m.LogEntry.event_id)
    .where(m.LogEntry.pos > bindparam("after"), m.LogEntry.pos <= bindparam("until"))
    .order_by(m.LogEntry.pos)
    .limit(bindparam("rows"))
)


async def read_frames(
    engine: AsyncEngine,
    hub: Hub,
    principal: Principal,
    workspace_id: UUID,
    after: int,
    until: int,
) -> list[Frame]:
    """Read at most 500 frames, or about 1 MiB, after a position, up to and with another."""
    async with transaction(engine, principal) as session:
        rows = await frames.fetch(
            session, workspace_id=workspace_id, after=after, until=until, rows=ROWS
        )
    page, size = list[Frame](), 0
    for row in rows:
        page.append(hub.frame(row["pos"], as_event(row)))
        size += len(page[-1].bytes)
        if size >= MAX_PAGE:
            break
    return page


def as_principal(engine: AsyncEngine, hub: Hub, principal: Principal) -> Replay:
    """Bind a replay to who reads."""
    return partial(read_frames, engine, hub, principal)
