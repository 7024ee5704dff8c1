from typing import Any
from uuid import UUID

from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.filters import EVERYTHING, Filter, Topics, Types, Where
from app.http.idempotency import Idempotent
from app.http.media_types import media_type
from app.permissions import Permission
from app.runtime import runtime_of
from app.schemas import events as s
from app.services import events

NEWEST_FIRST = [m.Event.workspace_id, m.Event.id]


class EventController(Controller):
    path = "/workspaces/{ws:str}/events"
    tags = ("events",)

    @get(operation_id="listEvents", opt=may(Permission.EVENTS_READ))
    async def list_events(
        self,
        request: Request[Any, Any, Any],
        read: Reading,
        types: Types = None,
        topics: Topics = None,
        where: Where = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> s.EventPage:
        """List a workspace's events, newest first."""
        wanted = Filter.read(types, topics, where)
        # Taken before the page is read: an event may be in both; it is in one of them for sure.
        stand = runtime_of(request).hub.stand()
        return await read.page(
            m.Event.of,
            s.EventPage,
            cursor,
            limit,
            NEWEST_FIRST,
            where=None if wanted is EVERYTHING else wanted,
            more=lambda access: {"stream_cursor": stand(access.workspace_id)},
        )

    @post(
        operation_id="publishEvents",
        opt=may(
            Permission.EVENTS_PUBLISH,
            request_media_types=events.MEDIA_TYPES,
            request_struct="app.services.events:BODIES",
            statuses=[200, 201],
        ),
    )
    async def publish_events(
        self, request: Request[Any, Any, Any], write: Writing, once: Idempotent
    ) -> Response[s.PublishedEvents]:
        """Publish one event or a batch of up to 500."""
        batch = events.decode(media_type(request.headers), await request.body())
        return await once.respond(write, *events.publication(batch), events.answer)

    @get("/{event_id:uuid}", operation_id="getEvent", opt=may(Permission.EVENTS_READ))
    async def get_event(self, read: Reading, event_id: FromPath[UUID]) -> s.Event:
        """Show an event."""
        return await read.one(m.Event.of, s.Event, id=event_id)
