"""The operations as a FastAPI developer writes them: dependencies, Pydantic models, ORM entities.

The same rows under the same row level security, and the same JSON. What a page says beside its rows
(the form of cursors) is Annex's own, so that the answers can be compared to the letter.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import jwt
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, bindparam, cast, func, literal, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.types import Text, Uuid

import db_models as m
from app.auth.tickets import derive_key
from app.database.reads import decode_cursor, encode_cursor
from app.realtime.cursors import Cursors
from app.settings import Settings, database_url


class Event(BaseModel):
    """What happened."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    workspace_id: UUID
    type: str
    source: str
    key: str | None
    subject: str | None
    topics: list[str]
    actor: str
    principal: str
    permission: str | None
    data: Any
    context: dict[str, Any]
    occurred_at: datetime
    recorded_at: datetime


class Member(BaseModel):
    """A user in a workspace."""

    user_id: UUID
    email: str | None
    display_name: str
    avatar_url: str | None
    role: str
    status: str
    metadata: dict[str, Any]
    joined_at: datetime
    updated_at: datetime
    version: int


class Workspace(BaseModel):
    """A tenant."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    slug: str
    name: str
    external_id: str | None
    metadata: dict[str, Any] = Field(validation_alias="metadata_")
    require_aal2: bool
    event_retention_days: int | None
    member_limit: int | None
    allowed_email_domains: list[str] | None
    strict_event_types: bool
    created_by: UUID | None
    created_at: datetime
    updated_at: datetime
    version: int
    role: str | None = None
    permissions: list[str] = []


class EventCreate(BaseModel):
    """An event to publish."""

    type: str = Field(max_length=200, pattern=r"^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*$")
    data: Any = Field(default_factory=dict)
    source: str = Field("api", min_length=1, max_length=500)
    subject: str | None = Field(None, min_length=1, max_length=500)
    topics: list[str] = Field(default_factory=list, max_length=20)


class Published(BaseModel):
    """The id of an event that was sent."""

    id: UUID
    is_duplicate: bool


class PublishedEvents(BaseModel):
    """One for each event sent."""

    data: list[Published]


class Page(BaseModel):
    """Where a list goes on."""

    next: str | None


class EventPage(BaseModel):
    """A page of events."""

    data: list[Event]
    page: Page
    stream_cursor: str


class MemberPage(BaseModel):
    """A page of members."""

    data: list[Member]
    page: Page


class WorkspacePage(BaseModel):
    """A page of workspaces."""

    data: list[Workspace]
    page: Page


class Notification(BaseModel):
    """An item of an inbox."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    workspace_id: UUID
    event_id: UUID
    type: str
    subject: str | None
    actor: str
    permission: str
    category: str
    is_critical: bool
    reason: str
    topic: str | None
    title: str
    body: str
    url: str | None
    group_key: str | None
    group_count: int
    arrived_at: datetime
    seen_at: datetime | None
    read_at: datetime | None
    archived_at: datetime | None
    snoozed_until: datetime | None
    version: int


class InboxCounts(BaseModel):
    """How many items there are."""

    active: int
    unseen: int
    unread: int
    snoozed: int
    archived: int


class Inbox(InboxCounts):
    """The counts of one permission in one workspace."""

    model_config = ConfigDict(from_attributes=True)

    workspace_id: UUID
    permission: str
    version: int


class NotificationPage(BaseModel):
    """A page of notifications, with counts."""

    data: list[Notification]
    page: Page
    counts: InboxCounts
    inboxes: list[Inbox]
    stream_cursor: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool, and learn where the log stands."""
    settings: Settings = app.state.settings
    url = database_url("DATABASE_URL", settings.database_url)
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"), pool_size=settings.pool_size, max_overflow=0
    )
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    worker = await asyncpg.connect(settings.worker_database_url)
    [(epoch, head, _)] = await worker.fetch("select * from annex.open_log(0, 0)")
    await worker.close()
    cursors = Cursors(derive_key(settings.secret_key, "cursor"))
    app.state.stand = lambda workspace_id: cursors.write(workspace_id, epoch, head)
    yield
    await engine.dispose()


bearer = HTTPBearer()


async def verified_claims(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]
) -> dict[str, Any]:
    """Verify the access token."""
    settings: Settings = request.app.state.settings
    try:
        claims: dict[str, Any] = jwt.decode(
            credentials.credentials,
            settings.jwt_secret or "",
            algorithms=["HS256"],
            audience="authenticated",
            issuer=settings.issuer,
            leeway=30,
            options={"require": ["exp", "sub", "aud"]},
        )
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "The token is not accepted.") from error
    return claims


async def open_session(
    request: Request, claims: Annotated[dict[str, Any], Depends(verified_claims)]
) -> AsyncIterator[AsyncSession]:
    """Open the request's one transaction, with the caller's claims."""
    async with request.app.state.sessions.begin() as session:
        setting = func.set_config("request.jwt.claims", json.dumps(claims), True)
        await session.execute(select(setting))
        yield session


Session = Annotated[AsyncSession, Depends(open_session)]


def allowed(permission: str) -> Any:
    """Depend on the path's workspace, and on a permission in it."""

    async def resolve(ws: str, session: Session) -> UUID:
        found = await session.execute(text("select * from annex.access(:ws)"), {"ws": ws})
        access = found.one_or_none()
        if access is None:
            raise HTTPException(404, "There is no such workspace.")
        if permission not in access.permissions or access.needs_aal2:
            raise HTTPException(403, "You may not do this in this workspace.")
        workspace_id: UUID = access.workspace_id
        return workspace_id

    return Depends(resolve)


Cursor = Annotated[str | None, Query(max_length=500)]
Limit = Annotated[int, Query(ge=1, le=100)]
router = APIRouter(prefix="/api/v1/workspaces")


async def with_rights(
    session: AsyncSession, statement: Select[Any], only_id: UUID | None
) -> list[Workspace]:
    """Find workspaces, and what the caller holds in each."""
    held = func.annex.held(literal(only_id, Uuid)).table_valued(
        "workspace_id", "role", "permissions"
    )
    statement = statement.join(held, held.c.workspace_id == m.Workspace.id)
    rows = await session.execute(statement.add_columns(held.c.role, held.c.permissions))
    return [
        Workspace.model_validate(workspace).model_copy(update={"role": role, "permissions": rights})
        for workspace, role, rights in rows
    ]


@router.get("")
async def list_workspaces(session: Session, limit: Limit = 50) -> WorkspacePage:
    """List the caller's workspaces, newest first."""
    statement = m.Workspace.visible().order_by(m.Workspace.id.desc()).limit(limit + 1)
    data = await with_rights(session, statement, None)
    following = encode_cursor([data[limit - 1].id]) if len(data) > limit else None
    return WorkspacePage(data=data[:limit], page=Page(next=following))


@router.get("/{ws}")
async def get_workspace(
    session: Session, workspace_id: Annotated[UUID, allowed("workspace:read")]
) -> Workspace:
    """Show a workspace."""
    statement = m.Workspace.visible().where(m.Workspace.id == workspace_id)
    [workspace] = await with_rights(session, statement, workspace_id)
    return workspace


@router.get("/{ws}/members")
async def list_members(
    session: Session, workspace_id: Annotated[UUID, allowed("members:read")], limit: Limit = 50
) -> MemberPage:
    """List a workspace's members, latest joined first."""
    statement = (
        select(m.Member, m.Profile)
        .join(m.Profile, m.Profile.id == m.Member.user_id)
        .where(m.Member.workspace_id == workspace_id)
        .order_by(m.Member.joined_at.desc(), m.Member.user_id.desc())
        .limit(limit + 1)
    )
    found = (await session.execute(statement)).all()
    data = [
        Member(
            user_id=member.user_id,
            email=profile.email,
            display_name=profile.display_name,
            avatar_url=profile.avatar_url,
            role=member.role,
            status=member.status,
            metadata=member.metadata_,
            joined_at=member.joined_at,
            updated_at=member.updated_at,
            version=member.version,
        )
        for member, profile in found[:limit]
    ]
    is_more = len(found) > limit
    following = encode_cursor([data[-1].joined_at, data[-1].user_id]) if is_more else None
    return MemberPage(data=data, page=Page(next=following))


@router.get("/{ws}/events")
async def list_events(
    request: Request,
    session: Session,
    workspace_id: Annotated[UUID, allowed("events:read")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> EventPage:
    """List a workspace's events, newest first."""
    order = [m.Event.workspace_id, m.Event.id]
    # As Annex selects, so that Postgres reads from the same index.
    statement = m.Event.of(literal(workspace_id)).order_by(*(o.desc() for o in order))
    if cursor is not None:
        statement = statement.where(tuple_(*order) < tuple(decode_cursor(cursor, order)))
    events = (await session.scalars(statement.limit(limit + 1))).all()
    following = None
    if len(events) > limit:
        following = encode_cursor([workspace_id, events[limit - 1].id])
    return EventPage(
        data=[Event.model_validate(event) for event in events[:limit]],
        page=Page(next=following),
        stream_cursor=request.app.state.stand(workspace_id),
    )


@router.get("/{ws}/events/{event_id}")
async def get_event(
    session: Session, workspace_id: Annotated[UUID, allowed("events:read")], event_id: UUID
) -> Event:
    """Show an event."""
    found = await session.scalars(m.Event.of(literal(workspace_id)).where(m.Event.id == event_id))
    return Event.model_validate(found.one())


@router.post("/{ws}/events", status_code=201)
async def publish_event(
    session: Session, workspace_id: Annotated[UUID, allowed("events:publish")], new: EventCreate
) -> Published:
    """Publish an event, with the function that Annex calls."""
    event = func.annex.publish(
        workspace_id,
        new.type,
        cast(new.data, JSONB),
        cast(new.topics, ARRAY(Text)),
        new.subject,
        new.source,
    )
    found = await session.scalars(select(event))
    return Published(id=found.one(), is_duplicate=False)


@router.post("/{ws}/events/batch", status_code=201)
async def publish_events(
    session: Session,
    workspace_id: Annotated[UUID, allowed("events:publish")],
    new: list[EventCreate],
) -> PublishedEvents:
    """Publish a batch, with the function that Annex calls."""
    rows = await session.execute(
        text("select * from annex.publish_events(:ws, :batch) order by ordinal").bindparams(
            bindparam("batch", type_=JSONB)
        ),
        {"ws": workspace_id, "batch": [event.model_dump() for event in new]},
    )
    return PublishedEvents(
        data=[Published(id=row.event_id, is_duplicate=row.is_duplicate) for row in rows]
    )


me = APIRouter(prefix="/api/v1/me")


@me.get("/notifications")
async def list_my_notifications(
    request: Request,
    session: Session,
    claims: Annotated[dict[str, Any], Depends(verified_claims)],
    limit: Limit = 50,
) -> NotificationPage:
    """List the calling user's active notifications, newest arrival first."""
    n, i = m.Notification, m.Inbox
    statement = n.own().where(n.archived_at.is_(None), n.snoozed_until.is_(None))
    statement = statement.order_by(n.arrived_at.desc(), n.id.desc()).limit(limit + 1)
    items = (await session.scalars(statement)).all()
    found = (await session.scalars(i.own().order_by(i.workspace_id, i.permission))).all()
    inboxes = [Inbox.model_validate(inbox) for inbox in found]
    is_more = len(items) > limit
    last = items[limit - 1] if is_more else None
    return NotificationPage(
        data=[Notification.model_validate(item) for item in items[:limit]],
        page=Page(next=encode_cursor([last.arrived_at, last.id]) if last else None),
        counts=InboxCounts(
            **{name: sum(getattr(x, name) for x in inboxes) for name in InboxCounts.model_fields}
        ),
        inboxes=inboxes,
        stream_cursor=request.app.state.stand(UUID(claims["sub"])),
    )


def create_peer(settings: Settings) -> FastAPI:
    """Put the application together."""
    app = FastAPI(lifespan=lifespan)
    app.state.settings = settings
    app.include_router(router)
    app.include_router(me)
    return app
