from typing import Any
from uuid import UUID

from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath
from sqlalchemy import bindparam

import db_models as m
from app.auth.dependencies import Caller, InWorkspace, may
from app.database.paging import Cursor, DriverPage, Limit, one, page
from app.database.work import Session
from app.errors import NotFound
from app.filters import Filter, Topics, Types, Where
from app.http.idempotency import IdempotencyKey, once
from app.schemas import events as s
from app.services import events, publishing

# The hottest list: what every client loads before it opens its stream.
latest_events = DriverPage(
    m.Event.visible_to(bindparam("workspace_id")),  # type: ignore[arg-type]
    s.EventPage,
    [m.Event.id],
)


class EventController(Controller):
    path = "/workspaces/{ws:str}/events"
    tags = ("events",)

    @get(operation_id="listEvents", opt=may("events:read"))
    async def list_events(
        self,
        request: Request[Any, Any, Any],
        session: Session,
        workspace: InWorkspace,
        types: Types = None,
        topics: Topics = None,
        where: Where = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> s.EventPage:
        """List a workspace's events, newest first."""
        wanted = Filter.read(types, topics, where)
        # Taken before the page is read: an event between the two comes twice, never not at all.
        stream = request.app.state.hub.cursor()
        if wanted == Filter():
            mine = {"workspace_id": workspace.id}
            found: s.EventPage = await latest_events(
                session, mine, cursor, limit, stream_cursor=stream
            )
            return found
        visible = m.Event.visible_to(workspace.id).where(*wanted.conditions())
        order = [m.Event.id]
        return await page(session, visible, s.EventPage, cursor, limit, order, stream_cursor=stream)

    @post(
        operation_id="publishEvent",
        opt=may(
            "events:publish",
            request_media_types=["application/json"],
            request_struct="app.schemas.events:EventCreate",
            statuses=[200, 201],
        ),
    )
    async def publish_event(
        self,
        request: Request[Any, Any, Any],
        session: Session,
        principal: Caller,
        workspace: InWorkspace,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[s.PublishedEvent]:
        """Publish an event."""

        async def answer() -> Response[s.PublishedEvent]:
            batch = publishing.one_event(await request.body())
            published = await events.publish(session, principal, workspace.id, batch)
            is_new = not all(e.is_duplicate for e in published.data)
            return Response(published.data[0], status_code=201 if is_new else 200)

        return await once(request, session, principal, idempotency_key, answer)

    @post(
        "/batch",
        operation_id="publishEvents",
        opt=may(
            "events:publish",
            request_media_types=["application/json"],
            request_struct="app.services.publishing:EVENTS",
            statuses=[200, 201],
        ),
    )
    async def publish_events(
        self,
        request: Request[Any, Any, Any],
        session: Session,
        principal: Caller,
        workspace: InWorkspace,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[s.PublishedEvents]:
        """Publish a batch of up to 500 events."""

        async def answer() -> Response[s.PublishedEvents]:
            batch = publishing.many_events(await request.body())
            published = await events.publish(session, principal, workspace.id, batch)
            is_new = not all(e.is_duplicate for e in published.data)
            return Response(published, status_code=201 if is_new else 200)

        return await once(request, session, principal, idempotency_key, answer)

    @post(
        "/cloudevents",
        operation_id="publishCloudEvent",
        opt=may(
            "events:publish",
            request_media_types=["application/cloudevents+json"],
            request_struct="app.schemas.events:CloudEvent",
            statuses=[200, 201],
        ),
    )
    async def publish_cloud_event(
        self,
        request: Request[Any, Any, Any],
        session: Session,
        principal: Caller,
        workspace: InWorkspace,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[s.PublishedEvent]:
        """Publish a CloudEvent."""

        async def answer() -> Response[s.PublishedEvent]:
            batch = publishing.one_cloud_event(await request.body())
            published = await events.publish(session, principal, workspace.id, batch)
            is_new = not all(e.is_duplicate for e in published.data)
            return Response(published.data[0], status_code=201 if is_new else 200)

        return await once(request, session, principal, idempotency_key, answer)

    @post(
        "/cloudevents/batch",
        operation_id="publishCloudEvents",
        opt=may(
            "events:publish",
            request_media_types=["application/cloudevents-batch+json"],
            request_struct="app.services.publishing:CLOUD_EVENT_BATCH",
            statuses=[200, 201],
        ),
    )
    async def publish_cloud_events(
        self,
        request: Request[Any, Any, Any],
        session: Session,
        principal: Caller,
        workspace: InWorkspace,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[s.PublishedEvents]:
        """Publish a batch of up to 500 CloudEvents."""

        async def answer() -> Response[s.PublishedEvents]:
            batch = publishing.many_cloud_events(await request.body())
            published = await events.publish(session, principal, workspace.id, batch)
            is_new = not all(e.is_duplicate for e in published.data)
            return Response(published, status_code=201 if is_new else 200)

        return await once(request, session, principal, idempotency_key, answer)

    @get("/{event_id:uuid}", operation_id="getEvent", opt=may("events:read"))
    async def get_event(
        self, session: Session, workspace: InWorkspace, event_id: FromPath[UUID]
    ) -> s.Event:
        """Show an event."""
        visible = m.Event.visible_to(workspace.id).where(m.Event.id == event_id)
        found = await one(session, visible, s.Event)
        if found is None:
            raise NotFound("There is no such event in this workspace, or it is not yours to see.")
        return found
