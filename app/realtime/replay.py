"""The past of a workspace's log, read as the stream's principal under row level security."""

from functools import partial
from uuid import UUID

from sqlalchemy import bindparam, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

import db_models as m
from app.database.work import Compiled, transaction
from app.principals import Principal
from app.realtime.hub import MAX_CHUNK, Frame, Hub, as_event
from app.realtime.streams import Expired, Replay

ROWS = 500
FIRST_ROWS, MORE_ROWS = 8, 100
"""Read at once; of events as large as they may be, 8 are 1 MiB."""

# Compared as pairs, which only the index of a workspace's entries has: planned for any parameters,
# the range of positions alone looks narrow, and a quiet workspace would read everybody's.
place = tuple_(m.LogEntry.workspace_id, m.LogEntry.pos)
entries = (
    m.LogEntry.visible_to(bindparam("workspace_id"))  # type: ignore[arg-type]
    .with_only_columns(m.LogEntry.pos, *m.Event.__table__.columns)
    .join(m.Event, m.Event.id == m.LogEntry.event_id)
    .where(
        place > tuple_(bindparam("workspace_id"), bindparam("after")),
        place <= tuple_(bindparam("workspace_id"), bindparam("until")),
    )
    .order_by(m.LogEntry.pos)
    .limit(bindparam("rows"))
    .subquery()
)
retention = select(
    select(m.Retention.retained_from)
    .where(m.Retention.workspace_id == bindparam("workspace_id"))
    .scalar_subquery()
    .label("retained_from")
).subquery()
# Both in one statement, and so in one snapshot: events expire in the transaction that says so.
frames = Compiled(
    select(retention, entries)
    .select_from(retention.outerjoin(entries, true()))
    .order_by(entries.c.pos)
)


async def read_frames(
    engine: AsyncEngine,
    hub: Hub,
    principal: Principal,
    workspace_id: UUID,
    after: int,
    until: int,
) -> list[Frame]:
    """Read frames of up to 64 KiB, one write, after a position, at most up to and with another.

    Raises `Expired` when retention has passed the position.
    """
    values = {"workspace_id": workspace_id, "after": after, "until": until, "rows": ROWS}
    page, size = list[Frame](), 0
    async with transaction(engine, principal) as session:
        # In two steps: how many more to read shows in what the first are as large as.
        cursor = await frames.open(session, **values)
        rows = await cursor.fetch(FIRST_ROWS)
        # A row without an event, where there is none.
        if after < (rows[0]["retained_from"] or 1) - 1:
            raise Expired
        while rows and rows[0]["pos"] is not None:
            for row in rows:
                frame = hub.frame(row["pos"], as_event(row))
                size += len(frame.bytes)
                if page and size > MAX_CHUNK:
                    return page
                page.append(frame)
            left = (MAX_CHUNK - size) * len(page) // size
            rows = await cursor.fetch(min(max(1, left), MORE_ROWS))
    return page


def as_principal(engine: AsyncEngine, hub: Hub, principal: Principal) -> Replay:
    """Bind a replay to who reads."""
    return partial(read_frames, engine, hub, principal)
