"""The past of a feed and what its reader may see, in one statement under row level security."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    bindparam,
    column,
    func,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Text, Uuid

import db_models as m
from app.database.pools import Pool
from app.database.statements import HELD, Scope, run
from app.errors import UserRequired
from app.realtime.channels import MAX_CHUNK, Frame, as_event
from app.realtime.feeds import Feed, Sight
from app.realtime.hub import Hub
from app.realtime.streams import Expired

FIRST_ROWS, MORE_ROWS = 8, 100
"""Read at once; of events as large as they may be, 8 are 1 MiB."""


class Source:
    """Where a stream's reader gets its rights and its past from; remembers how large events are."""

    def __init__(self, pool: Pool, hub: Hub, scope: Scope) -> None:
        self.pool = pool
        self.scope = scope
        self.hub = hub
        self.rows = FIRST_ROWS

    async def sight(self) -> tuple[Feed, Sight]:
        """Look up the feed and what its reader may see of it; raises a Problem without rights."""
        if self.scope.ws is None:
            if self.scope.principal.kind != "user":
                raise UserRequired("Only a signed-in user has a feed; send a user's access token.")
            _, [(grants,)] = await run(self.pool, self.scope, grants_alone, {})
            return self.of_user(grants)
        workspace_id, [(held,)] = await run(self.pool, self.scope, held_alone, {})
        return of_workspace(workspace_id, held)

    async def has_changed(self, after: int) -> bool:
        """Say whether what the calling user sees may have changed after a position."""
        values = {"after": after}
        _, [(has_changed,)] = await run(self.pool, self.scope, change_of_sight, values)
        return bool(has_changed)

    def of_user(self, grants: Sequence[str] | None) -> tuple[Feed, Sight]:
        """Read what a user holds in each workspace."""
        found: dict[UUID, set[str]] = {}
        for grant in grants or ():
            workspace_id, _, permission = grant.partition(" ")
            found.setdefault(UUID(workspace_id), set()).add(permission)
        feed = Feed("user", UUID(self.scope.principal.id))
        return feed, Sight({k: frozenset(v) for k, v in found.items()})

    async def page(self, after: int, until: int) -> tuple[Sight, list[Frame]]:
        """Read frames of up to 64 KiB, one write, after a position, at most up to another.

        Returns the reader's sight as well, of the same snapshot. Raises a Problem without rights,
        `Expired` when retention has passed the position.
        """
        values: dict[str, Any] = {"after": after, "until": until, "rows_": self.rows}
        if self.scope.ws is None:
            values["user_id"] = UUID(self.scope.principal.id)
            _, rows = await run(self.pool, self.scope, past_of_user, values)
            feed, sight = self.of_user(rows[0][0])
        else:
            workspace_id, rows = await run(self.pool, self.scope, past_of_workspace, values)
            feed, sight = of_workspace(workspace_id, rows[0][0])
        rows = [row[1:] for row in rows]
        if after < (rows[0][0] or 1) - 1:
            raise Expired
        page, size = list[Frame](), 0
        # A row without an event, where there is none.
        for row in (row for row in rows if row[1] is not None):
            event = dict(zip(EVENT_COLUMNS, row[2:], strict=True))
            frame = self.hub.frame(feed.id, row[1], as_event(event))
            if page and size + len(frame.bytes) > MAX_CHUNK:
                break
            size += len(frame.bytes)
            page.append(frame)
        if page:
            self.rows = min(max(1, MAX_CHUNK * len(page) // size), MORE_ROWS)
        return sight, page


def of_workspace(workspace_id: UUID | None, held: Sequence[str]) -> tuple[Feed, Sight]:
    """Read what a caller holds in one workspace."""
    assert workspace_id is not None
    return Feed("workspace", workspace_id), Sight({workspace_id: frozenset(held)})


EVENT_COLUMNS = [c.name for c in m.Event.__table__.columns]


def grants_alone(_: ColumnElement[UUID]) -> Select[Any]:
    """Select what the calling user holds everywhere."""
    return select(granted().label("grants"))


def held_alone(_: ColumnElement[UUID]) -> Select[Any]:
    """Select what the caller holds in the path's workspace."""
    return select(HELD.label("held"))


def change_of_sight(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.sight_changed."""
    return select(func.annex.sight_changed(bindparam("after", type_=BigInteger)).label("changed"))


def granted() -> Any:
    """Gather annex.granted as texts: a workspace's id, a space, a permission."""
    rows = func.annex.granted().table_valued(
        column("workspace_id", Uuid), column("permission", Text), name="g"
    )
    pair = rows.c.workspace_id.cast(Text).concat(" ").concat(rows.c.permission)
    return select(func.array_agg(pair, type_=ARRAY(Text))).select_from(rows).scalar_subquery()


def past_of_workspace(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Select a workspace's events between two positions, with what the caller holds there."""
    log = m.LogEntry
    found = past(log.workspace_id, workspace_id, log.user_id.is_(None))
    return found.with_only_columns(HELD.label("held"), *found.selected_columns)


def past_of_user(_: ColumnElement[UUID]) -> Select[Any]:
    """Select the calling user's events between two positions, with what they hold everywhere."""
    log = m.LogEntry
    found = past(log.user_id, bindparam("user_id", type_=Uuid), log.user_id.is_not(None))
    return found.with_only_columns(granted().label("grants"), *found.selected_columns)


def past(owner: Any, feed_id: ColumnElement[UUID], condition: ColumnElement[bool]) -> Select[Any]:
    """Select the events of a feed after a position, up to another, and how far they have expired.

    Compared as pairs, which only the index of the feed's entries has: planned for any parameters,
    the range of positions alone looks narrow, and a quiet feed would read everybody's.
    """
    log, event = m.LogEntry, m.Event.__table__.columns
    after, until = (bindparam(name, type_=BigInteger) for name in ("after", "until"))
    entries = (
        select(log.pos, *event)
        .join(m.Event, m.Event.id == log.event_id)
        .where(
            tuple_(owner, log.pos) > tuple_(feed_id, after),
            tuple_(owner, log.pos) <= tuple_(feed_id, until),
            condition,
        )
        .order_by(owner, log.pos)
        .limit(bindparam("rows_", type_=Integer))
        .lateral("entries")
    )
    # In the same statement, and so in one snapshot: events expire in the transaction that says so.
    retained = (
        select(m.Retention.retained_from)
        .where(m.Retention.feed_id == feed_id)
        .scalar_subquery()
        .label("retained_from")
    )
    one_row = select(retained).subquery("retention")
    joined = one_row.outerjoin(entries, true())
    return select(one_row.c.retained_from, *entries.c).select_from(joined)
