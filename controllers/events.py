from typing import Any
from uuid import UUID

from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath

import db_models as m
from app import problems
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.errors import Forbidden, NotFound
from app.filters import EVERYTHING, Filter, Topics, Types, Where
from app.http.budgets import Share
from app.http.idempotency import Answer, Idempotent, Once
from app.permissions import Permission
from app.runtime import runtime_of
from app.schemas import events as s
from app.services import events, publishing

NEWEST_FIRST = [m.Event.workspace_id, m.Event.id]


def publishing_of(struct: str, media_type: str) -> dict[str, Any]:
    """Say who may publish, and what the handler reads itself from its body."""
    return may(
        Permission.EVENTS_PUBLISH,
        request_struct=struct,
        request_media_types=[media_type],
        statuses=[200, 201],
    )


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
            more=lambda workspace_id: {"stream_cursor": stand(workspace_id)},
        )

    @post(
        operation_id="publishEvent",
        opt=publishing_of("app.schemas.events:EventCreate", "application/json"),
    )
    async def publish_event(
        self, request: Request[Any, Any, Any], once: Idempotent
    ) -> Response[s.PublishedEvent]:
        """Publish an event."""
        batch = publishing.one_event(await request.body())
        return await publish(request, once, batch, events.answer_one)

    @post(
        "/batch",
        operation_id="publishEvents",
        opt=publishing_of("app.services.publishing:EVENTS", "application/json"),
    )
    async def publish_events(
        self, request: Request[Any, Any, Any], once: Idempotent
    ) -> Response[s.PublishedEvents]:
        """Publish a batch of up to 500 events."""
        batch = publishing.many_events(await request.body())
        return await publish(request, once, batch, events.answer)

    @post(
        "/cloudevents",
        operation_id="publishCloudEvent",
        opt=publishing_of("app.schemas.events:CloudEvent", "application/cloudevents+json"),
    )
    async def publish_cloud_event(
        self, request: Request[Any, Any, Any], once: Idempotent
    ) -> Response[s.PublishedEvent]:
        """Publish a CloudEvent."""
        batch = publishing.one_cloud_event(await request.body())
        return await publish(request, once, batch, events.answer_one)

    @post(
        "/cloudevents/batch",
        operation_id="publishCloudEvents",
        opt=publishing_of(
            "app.services.publishing:CLOUD_EVENT_BATCH", "application/cloudevents-batch+json"
        ),
    )
    async def publish_cloud_events(
        self, request: Request[Any, Any, Any], once: Idempotent
    ) -> Response[s.PublishedEvents]:
        """Publish a batch of up to 500 CloudEvents."""
        batch = publishing.many_cloud_events(await request.body())
        return await publish(request, once, batch, events.answer)

    @get("/{event_id:uuid}", operation_id="getEvent", opt=may(Permission.EVENTS_READ))
    async def get_event(self, read: Reading, event_id: FromPath[UUID]) -> s.Event:
        """Show an event."""
        return await read.one(m.Event.of, s.Event, id=event_id)


async def publish(
    request: Request[Any, Any, Any], once: Once, batch: list[s.EventCreate], answer: Answer
) -> Response[Any]:
    """Publish within the workspace's budget; raises `TooManyEvents`.

    A replay is not published again, and costs nothing of it.
    """
    budget, scope = runtime_of(request).publishing, once.write.scope
    assert scope.ws is not None
    name = (scope.principal.name, scope.ws)
    share = Share(budget, len(batch), len(await request.body()))
    try:
        if once.key is None:
            # A stranger must neither spend a budget nor learn of it. A caller that may no longer
            # publish learns of a debt until it is over, because a refusal asks no database.
            if (found := budget.find(*name)) is None:
                found = await once.write.reach()
                budget.learn(*name, found)
            share.take(found)
        call = events.publication(batch, is_list=answer is not events.answer_one)
        response = await once.respond(*call, answer, begin=share.take)
    except Exception as error:
        share.give_back()
        if isinstance(problems.read(error), NotFound | Forbidden):
            budget.forget(*name)
        raise
    if workspace_id := once.write.workspace_id:
        share.settle(workspace_id)
        budget.learn(*name, workspace_id)
    return response
