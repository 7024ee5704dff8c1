"""The event list as a FastAPI developer writes it: dependencies, Pydantic models, ORM entities.

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
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import db_models as m
from app.auth.tickets import derive_key
from app.database.paging import decode_cursor, encode_cursor
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
    visibility: str
    data: Any
    context: dict[str, Any]
    occurred_at: datetime
    recorded_at: datetime


class Page(BaseModel):
    """Where a list goes on."""

    next: str | None


class EventPage(BaseModel):
    """A page of events."""

    data: list[Event]
    page: Page
    stream_cursor: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool, and learn where the log stands."""
    settings: Settings = app.state.runtime.settings
    url = database_url("DATABASE_URL", settings.database_url)
    engine = create_async_engine(
        url,
        pool_size=settings.pool_size,
        max_overflow=0,
        connect_args={"server_settings": app.state.server_settings},
    )
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    worker = await asyncpg.connect(settings.worker_database_url)
    [(epoch, head, _)] = await worker.fetch("select * from annex.open_log(0, 0)")
    await worker.close()
    cursors = Cursors(derive_key(settings.secret_key, "cursor"))
    app.state.stream_cursor = cursors.write(epoch, head)
    yield
    await engine.dispose()


bearer = HTTPBearer()


async def verified_claims(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]
) -> dict[str, Any]:
    """Verify the access token."""
    settings: Settings = request.app.state.runtime.settings
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


async def readable_workspace(ws: str, session: Session) -> UUID:
    """Resolve the path's workspace, and ask for the permission to read its events."""
    found = await session.execute(text("select * from annex.access(:ws)"), {"ws": ws})
    access = found.one_or_none()
    if access is None:
        raise HTTPException(404, "There is no such workspace.")
    if "events:read" not in access.permissions or access.needs_aal2:
        raise HTTPException(403, "You may not read this workspace's events.")
    workspace_id: UUID = access.workspace_id
    return workspace_id


async def list_events(
    request: Request,
    session: Session,
    workspace_id: Annotated[UUID, Depends(readable_workspace)],
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> EventPage:
    """List a workspace's events, newest first."""
    statement = (
        select(m.Event)
        .where(m.Event.workspace_id == workspace_id, m.Event.user_id.is_(None))
        .order_by(m.Event.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        statement = statement.where(m.Event.id < decode_cursor(cursor, [m.Event.id])[0])
    events = (await session.scalars(statement)).all()
    following = encode_cursor([events[limit - 1].id]) if len(events) > limit else None
    return EventPage(
        data=[Event.model_validate(event) for event in events[:limit]],
        page=Page(next=following),
        stream_cursor=request.app.state.stream_cursor,
    )


def create_peer(settings: Settings, server_settings: dict[str, str]) -> FastAPI:
    """Put the application together; `server_settings` go to Postgres with each connection."""
    app = FastAPI(lifespan=lifespan)
    app.state.runtime.settings = settings
    app.state.server_settings = server_settings
    app.get("/api/v1/workspaces/{ws}/events")(list_events)
    return app
