"""The same operations as Litestar's fastest users write them: SQL by hand, one statement a request.

Claims, access and page are one round trip on asyncpg; rows become msgspec structs. No SQLAlchemy,
no rate limit, request id, metrics or problems: what this stack can do at most.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import jwt
import msgspec
from litestar import Controller, Litestar, Request, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath

import db_models as m
from app.auth.tickets import derive_key
from app.database.drivers import let_json_through
from app.database.reads import decode_cursor, encode_cursor
from app.realtime.cursors import Cursors
from app.schemas import events as e
from app.schemas import members as u
from app.schemas import notifications as n
from app.schemas import workspaces as w
from app.schemas.pages import Page
from app.settings import Settings

CLAIMS = "with c as materialized (select set_config('request.jwt.claims', $1, true) as claims)"
ACCESS = f"""{CLAIMS},
a as materialized (select x.* from c, annex.access(case when c.claims is not null then $2 end) x)
select a.workspace_id, a.permissions, p.* from a left join lateral ("""
EVENT = """select true as found, e.event_id, e.workspace_id, e.type, e.source, e.key, e.subject,
  e.topics, e.actor, e.principal, e.permission, e.data, e.context, e.occurred_at, e.recorded_at
  from annex.events e where e.user_id is null and $3 = any (a.permissions)"""
# A range and not an equality, so that the page is read from the index that begins with it.
OURS = "e.workspace_id >= a.workspace_id and e.workspace_id <= a.workspace_id"
NEWEST = "order by e.workspace_id desc, e.event_id desc limit $4) p on true"
EVENTS = f"{ACCESS}{EVENT} and {OURS} {NEWEST}"
EVENTS_AFTER = f"{ACCESS}{EVENT} and {OURS} and (e.workspace_id, e.event_id) < ($5, $6) {NEWEST}"
ONE_EVENT = f"{ACCESS}{EVENT} and e.workspace_id = a.workspace_id and e.event_id = $4) p on true"
MEMBERS = f"""{ACCESS}select true as found, m.user_id, p.email, p.display_name, p.avatar_url,
  m.role, m.status, m.metadata, m.joined_at, m.updated_at, m.version
  from annex.members m join annex.profiles p on p.user_id = m.user_id
  where m.workspace_id = a.workspace_id and $3 = any (a.permissions)
  order by m.joined_at desc, m.user_id desc limit $4) p on true"""
WORKSPACE = """w.id, w.slug, w.name, w.external_id, w.metadata, w.require_aal2,
  w.event_retention_days, w.member_limit, w.allowed_email_domains, w.strict_event_types,
  w.created_by, w.created_at, w.updated_at, w.version, h.role, h.permissions"""
WORKSPACES = f"""{CLAIMS} select p.* from c, lateral (select {WORKSPACE} from annex.workspaces w
  join annex.held(case when c.claims is null then null::uuid end) h on h.workspace_id = w.id
  where w.deleted_at is null order by w.id desc limit $2) p"""
ONE_WORKSPACE = f"""{ACCESS}select true as found, {WORKSPACE} from annex.workspaces w
  join annex.held(a.workspace_id) h on h.workspace_id = w.id
  where w.id = a.workspace_id and w.deleted_at is null and $3 = any (a.permissions)) p on true"""
# The functions look rights up themselves, so that a workspace's id needs no annex.access.
NAMED = "case when c.claims is not null then $2::text::uuid end"
PUBLISH = f"""{CLAIMS} select null, array[$3::text], true as found, p.* from c, lateral (
  select annex.publish({NAMED}, $4, $5, topics => $6, subject => $7, source => $8) as id,
    false as known) p"""
PUBLISH_ALL = f"""{CLAIMS} select null, array[$3::text], true as found, p.* from c, lateral (
  select b.event_id, b.is_duplicate from annex.publish_events({NAMED}, $4) b
  order by b.ordinal) p"""
INBOX = (
    "i.workspace_id, i.permission, i.active, i.unseen, i.unread, i.snoozed, i.archived, i.version"
)
NOTIFICATION = """n.id, n.workspace_id, n.event_id, n.type, n.subject, n.actor, n.permission,
  n.category, n.is_critical, n.reason, n.topic, n.title, n.body, n.url, n.group_key, n.group_count,
  n.arrived_at, n.seen_at, n.read_at, n.archived_at, n.snoozed_until, n.version"""
NOTIFICATIONS = f"""{CLAIMS}, b as materialized (
  select (select json_agg(x order by x.workspace_id, x.permission)::text from (
    select {INBOX} from annex.inboxes i where i.user_id = (select annex.user_id())) x) as inboxes
  from c where c.claims is not null
)
select b.inboxes, p.* from b left join lateral (select {NOTIFICATION} from annex.notifications n
  where n.user_id = (select annex.user_id()) and n.archived_at is null and n.snoozed_until is null
  order by n.arrived_at desc, n.id desc limit $2) p on true"""
ORDER = [m.Event.workspace_id, m.Event.id]
Asked = Request[Any, Any, Any]


async def keep(_: "asyncpg.Connection[Any]") -> None:
    """Give a connection back as it is: a statement here leaves nothing behind."""


class Peer:
    """What the handlers share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cursors = Cursors(derive_key(settings.secret_key, "cursor"))
        self.verified = dict[str, str]()

    @asynccontextmanager
    async def lifespan(self, app: Litestar) -> AsyncIterator[None]:
        """Open the pool, and learn where the log stands."""
        worker = await asyncpg.connect(self.settings.worker_database_url)
        [(self.epoch, self.head, _)] = await worker.fetch("select * from annex.open_log(0, 0)")
        await worker.close()
        size = self.settings.pool_size
        async with asyncpg.create_pool(
            self.settings.database_url,
            min_size=size,
            max_size=size,
            init=let_json_through,
            reset=keep,
        ) as self.pool:
            yield

    def claims(self, request: Asked) -> str:
        """Verify a token once; returns the claims for row level security."""
        token = request.headers["authorization"][7:]
        claims = self.verified.get(token)
        if claims is None:
            decoded = jwt.decode(
                token,
                self.settings.jwt_secret or "",
                algorithms=["HS256"],
                audience="authenticated",
                issuer=self.settings.issuer,
            )
            claims = self.verified[token] = msgspec.json.encode(decoded).decode()
        return claims

    async def fetch(self, request: Asked, sql: str, permission: str, *arguments: Any) -> list[Any]:
        """Run a statement in the path's workspace; refuse like Annex does."""
        ws = request.path_params["ws"]
        rows = await self.pool.fetch(sql, self.claims(request), ws, permission, *arguments)
        if not rows:
            raise HTTPException(status_code=404)
        if permission not in rows[0][1]:
            raise HTTPException(status_code=403)
        return [row[3:] for row in rows if row[2]]


def paged(rows: list[Any], limit: int, item: Callable[..., Any], *keys: str) -> tuple[Any, Page]:
    """Make structs, and the cursor of the next page."""
    items = [item(*row) for row in rows[:limit]]
    if len(rows) <= limit:
        return items, Page(None)
    return items, Page(encode_cursor([getattr(items[-1], key) for key in keys]))


class Workspaces(Controller):
    """The operations that are compared."""

    path = "/api/v1/workspaces"

    @get()
    async def list_workspaces(self, request: Asked, limit: int = 50) -> w.WorkspacePage:
        peer: Peer = request.app.state.peer
        rows = await peer.pool.fetch(WORKSPACES, peer.claims(request), limit + 1)
        return w.WorkspacePage(*paged(rows, limit, w.Workspace, "id"))

    @get("/{ws:str}")
    async def get_workspace(self, request: Asked) -> w.Workspace:
        [row] = await request.app.state.peer.fetch(request, ONE_WORKSPACE, "workspace:read")
        return w.Workspace(*row)

    @get("/{ws:str}/members")
    async def list_members(self, request: Asked, limit: int = 50) -> u.MemberPage:
        rows = await request.app.state.peer.fetch(request, MEMBERS, "members:read", limit + 1)
        return u.MemberPage(*paged(rows, limit, u.Member, "joined_at", "user_id"))

    @get("/{ws:str}/events")
    async def list_events(
        self, request: Asked, limit: int = 50, cursor: str | None = None
    ) -> e.EventPage:
        peer: Peer = request.app.state.peer
        sql, after = EVENTS, list[Any]()
        if cursor is not None:
            sql, after = EVENTS_AFTER, decode_cursor(cursor, ORDER)
        rows = await peer.fetch(request, sql, "events:read", limit + 1, *after)
        items, page = paged(rows, limit, e.Event, "workspace_id", "id")
        stand = peer.cursors.write(items[0].workspace_id, peer.epoch, peer.head)
        return e.EventPage(items, page, stand)

    @get("/{ws:str}/events/{event_id:uuid}")
    async def get_event(self, request: Asked, event_id: FromPath[UUID]) -> e.Event:
        [row] = await request.app.state.peer.fetch(request, ONE_EVENT, "events:read", event_id)
        return e.Event(*row)

    @post("/{ws:str}/events")
    async def publish_event(self, request: Asked) -> e.PublishedEvent:
        peer: Peer = request.app.state.peer
        new = msgspec.json.decode(await request.body(), type=e.EventCreate)
        values = (new.type, new.data, new.topics, new.subject, new.source)
        [row] = await peer.fetch(request, PUBLISH, "events:publish", *values)
        return e.PublishedEvent(*row)

    @post("/{ws:str}/events/batch")
    async def publish_events(self, request: Asked) -> e.PublishedEvents:
        peer: Peer = request.app.state.peer
        batch = msgspec.json.decode(await request.body(), type=list[e.EventCreate])
        rows = await peer.fetch(request, PUBLISH_ALL, "events:publish", batch)
        return e.PublishedEvents([e.PublishedEvent(*row) for row in rows])


class Me(Controller):
    """What is a user's own."""

    path = "/api/v1/me"

    @get("/notifications")
    async def list_my_notifications(self, request: Asked, limit: int = 50) -> n.NotificationPage:
        peer: Peer = request.app.state.peer
        claims = peer.claims(request)
        rows = await peer.pool.fetch(NOTIFICATIONS, claims, limit + 1)
        inboxes = msgspec.json.decode(rows[0][0] or b"[]", type=list[n.Inbox])
        found = [row[1:] for row in rows if row[1] is not None]
        items, page = paged(found, limit, n.Notification, "arrived_at", "id")
        user_id = UUID(msgspec.json.decode(claims)["sub"])
        stand = peer.cursors.write(user_id, peer.epoch, peer.head)
        return n.NotificationPage(items, page, n.InboxCounts.of(inboxes), inboxes, stand)


def create_raw(settings: Settings) -> Litestar:
    """Put the application together."""
    peer = Peer(settings)
    app = Litestar([Workspaces, Me], lifespan=[peer.lifespan], openapi_config=None)
    app.state.peer = peer
    return app
