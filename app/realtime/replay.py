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
    case,
    column,
    func,
    literal_column,
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
from app.filters import EVERYTHING, Filter
from app.realtime.channels import MAX_CHUNK
from app.realtime.feeds import Feed, SharedSight, Sight
from app.realtime.frames import Frame, as_event
from app.realtime.hub import Hub
from app.realtime.streams import Expired, asking, in_time

FIRST_ROWS, MORE_ROWS = 8, 100
"""Read at once; of events as large as they may be, 8 are 1 MiB."""
MAX_PATCHED = 100
"""Workspaces that are looked up one by one; where more have changed, all are looked up."""


class Source:
    """Where a stream's reader gets its rights and its past from; remembers how large events are."""

    def __init__(self, pool: Pool, hub: Hub, scope: Scope) -> None:
        self.pool = pool
        self.scope = scope
        self.hub = hub
        self.rows = FIRST_ROWS
        self.shared: SharedSight
        """What `sight` found, which is asked first."""

    async def sight(self) -> tuple[Feed, Sight]:
        """Look up the feed and what its reader may see of it; raises a Problem without rights."""
        epoch, pos = self.hub.epoch, self.hub.head
        if self.scope.ws is None:
            feed, sight = self.own_feed, Sight(await self.held_in(None))
        else:
            feed, sight = await self.of_workspace()
            # By id from now on: the path's slug may come to lead to another workspace.
            self.scope = self.scope.within(str(feed.id), self.scope.permission)
        self.shared = self.hub.shared_sight(feed, self.scope.principal.claims_json)
        self.shared.keep(sight, epoch, pos)
        return feed, self.shared.sight

    async def sight_again(self) -> Sight:
        """Return what the reader sees by now, looked up once for all of the caller's streams.

        Reads only the workspaces in which the log says that something changed. Waits and lasts
        10 s in all; raises `Unavailable`, and a Problem without rights.
        """
        hub, shared = self.hub, self.shared
        async with in_time(hub), shared.lock:
            if hub.changed_since(shared) != set():
                async with asking(hub, self.scope.principal.turn):
                    # More may have changed while it waited for its turn.
                    epoch, pos = hub.epoch, hub.head
                    shared.keep(await self.renewed(shared), epoch, pos)
            return shared.sight

    async def renewed(self, shared: SharedSight) -> Sight:
        """Look up what may be out of date in a sight."""
        if shared.feed.kind == "workspace":
            return (await self.of_workspace())[1]
        changed, sight = self.hub.changed_since(shared), shared.sight
        if changed is None or len(changed) > MAX_PATCHED:
            return Sight(await self.held_in(None))
        return sight.patched(changed, await self.held_in(*changed))

    @property
    def own_feed(self) -> Feed:
        """The caller's own; raises `UserRequired`."""
        principal = self.scope.principal
        if principal.kind != "user":
            raise UserRequired("Only a signed-in user has a feed; send a user's access token.")
        return Feed("user", UUID(principal.id))

    async def held_in(self, *workspaces: UUID | None) -> dict[UUID, frozenset[str]]:
        """Look up what the calling user holds in some workspaces, or in all for a None."""
        values = {"workspaces": workspaces}
        _, [(grants,)] = await run(self.pool, self.scope, grants_alone, values)
        return read_grants(grants)

    async def of_workspace(self) -> tuple[Feed, Sight]:
        """Look up what the caller holds in the path's workspace."""
        workspace_id, [(held,)] = await run(self.pool, self.scope, held_alone, {})
        return as_read(workspace_id, held)

    async def has_changed(self, after: int) -> bool:
        """Say whether what the calling user sees may have changed after a position."""
        values = {"after": after}
        _, [(has_changed,)] = await run(self.pool, self.scope, change_of_sight, values)
        return bool(has_changed)

    async def page(
        self, after: int, until: int, wanted: Filter = EVERYTHING
    ) -> tuple[Sight, list[Frame]]:
        """Read frames after a position, at most up to another; up to 64 KiB of them are wanted.

        The others are passed over, and not encoded. If nothing of a long past matches, its readers
        would take the loop's time from everybody. Returns the reader's sight as
        well, of the same snapshot. Raises a Problem without rights, `Expired` when retention has
        passed the position.
        """
        values: dict[str, Any] = {"after": after, "until": until, "rows_": self.rows}
        if self.scope.ws is None:
            feed = self.own_feed
            values |= {"user_id": feed.id, "workspaces": [None]}
            _, rows = await run(self.pool, self.scope, past_of_user, values)
            sight = Sight(read_grants(rows[0][0]))
        else:
            workspace_id, rows = await run(self.pool, self.scope, past_of_workspace, values)
            feed, sight = as_read(workspace_id, rows[0][0])
        rows = [row[1:] for row in rows]
        if after < (rows[0][0] or 1) - 1:
            raise Expired
        page, size, read = list[Frame](), 0, 1
        # A row without an event, where there is none.
        for row in (row for row in rows if row[1] is not None):
            event = dict(zip(EVENT_COLUMNS, row[2:], strict=True))
            frame = self.hub.frame(feed.id, row[1], as_event(event))
            frame.is_wanted = frame.passes(wanted, sight)
            if frame.is_wanted:
                if size and size + len(frame.bytes) > MAX_CHUNK:
                    break
                size += len(frame.bytes)
                read += len(frame.bytes)
            else:
                read += len(event["data"]) + len(event["context"])
            page.append(frame)
            # A `where` has to decode each event, of up to 64 KiB.
            if self.hub.pace.is_spent:
                await self.hub.pace.turn(feed.id)
        if page:
            self.rows = min(max(1, MAX_CHUNK * len(page) // read), MORE_ROWS)
        return sight, page


def as_read(workspace_id: UUID | None, held: Sequence[str]) -> tuple[Feed, Sight]:
    """Make a workspace's feed, and what a caller holds there."""
    assert workspace_id is not None
    return Feed("workspace", workspace_id), Sight({workspace_id: frozenset(held)})


def read_grants(grants: Sequence[str] | None) -> dict[UUID, frozenset[str]]:
    """Read what `granted` gathers; workspaces with the same permissions share their set."""
    sets, found = dict[str, frozenset[str]](), dict[UUID, frozenset[str]]()
    for grant in grants or ():
        workspace_id, _, permissions = grant.partition(" ")
        if permissions not in sets:
            sets[permissions] = frozenset(permissions.split())
        found[UUID(workspace_id)] = sets[permissions]
    return found


EVENT_COLUMNS = [c.name for c in m.Event.__table__.columns]


def grants_alone(_: ColumnElement[UUID]) -> Select[Any]:
    """Select what the calling user holds in some workspaces, or everywhere."""
    return select(granted().label("grants"))


def held_alone(_: ColumnElement[UUID]) -> Select[Any]:
    """Select what the caller holds in the path's workspace."""
    return select(HELD.label("held"))


def change_of_sight(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.sight_changed."""
    return select(func.annex.sight_changed(bindparam("after", type_=BigInteger)).label("changed"))


def granted() -> Any:
    """Gather annex.held of some workspaces, or of all for a null, as a text each.

    The workspace's id and the permissions, with spaces between them.
    """
    # The argument hangs on the claims, or the function could be called before they are set.
    ids = case(
        (
            literal_column("c.claims", Text).is_not(None),
            bindparam("workspaces", type_=ARRAY(Uuid)),
        )
    )
    only = func.unnest(ids).table_valued(column("id", Uuid), name="o").render_derived()
    held = func.annex.held(only.c.id).table_valued(
        column("workspace_id", Uuid), column("permissions", ARRAY(Text)), name="h"
    )
    text = func.concat_ws(" ", held.c.workspace_id, func.array_to_string(held.c.permissions, " "))
    found = select(func.array_agg(text, type_=ARRAY(Text)))
    return found.select_from(only.join(held, true())).scalar_subquery()


def past_of_workspace(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Select a workspace's events between two positions, with what the caller holds there."""
    log = m.LogEntry
    found = past(log.workspace_id, workspace_id, log.user_id.is_(None))
    return found.with_only_columns(HELD.label("held"), *found.selected_columns)


def past_of_user(_: ColumnElement[UUID]) -> Select[Any]:
    """Select the calling user's events between two positions, with what they hold everywhere."""
    log = m.LogEntry
    found = past(log.user_id, bindparam("user_id", type_=Uuid), log.user_id.is_not(None))
    # With the first row alone: of a thousand workspaces, each row more would repeat 200 KiB.
    grants = case((func.row_number().over() == 1, granted())).label("grants")
    return found.with_only_columns(grants, *found.selected_columns)


def past(owner: Any, feed_id: ColumnElement[UUID], condition: ColumnElement[bool]) -> Select[Any]:
    """Select the events of a feed after a position, up to another, and how far they have expired.

    Only the index of the feed's entries has the pairs that are compared. A plan for any parameters
    takes a range of positions for narrow, and would read everybody's entries for a quiet feed.
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
