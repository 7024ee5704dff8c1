import re
import time
from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, get, post
from litestar.datastructures import Cookie
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Response

from app.auth.dependencies import Caller, identify, may, refresh
from app.auth.tickets import COOKIE
from app.database.statements import Scope
from app.errors import NotFound, Problem, RateLimited, Unavailable
from app.filters import EVERYTHING, Filter, Topics, Types, Where
from app.permissions import Permission
from app.principals import Principal
from app.problems import describe
from app.realtime.feeds import Sight
from app.realtime.replay import Source
from app.realtime.responses import HEADERS, EventStream
from app.realtime.streams import Stream, asking, busy, refused
from app.request_state import state_of
from app.runtime import runtime_of
from app.schemas import stream as s

# Their length has no limit, because a 400 would end an EventSource for good; `reset` does not.
LastEventId = Annotated[str | None, HeaderParameter(name="Last-Event-ID")]
LastEventIdQuery = Annotated[str | None, QueryParameter(name="last_event_id")]
Ticket = Annotated[str | None, QueryParameter(name="ticket", max_length=4000)]
# Litestar would read all cookies, of which a stranger may send thousands.
TICKET_COOKIE = re.compile(rf'(?:^|;)[ \t]*{COOKIE}="?([^;"]*)')
PERSONAL = "/api/v1/stream/notifications"


class StreamController(Controller):
    tags = ("stream",)

    @get(
        "/workspaces/{ws:str}/stream",
        operation_id="streamEvents",
        opt=may(
            Permission.EVENTS_READ,
            authenticates=True,
            response_media_types=["text/event-stream"],
        ),
    )
    async def stream_events(
        self,
        request: Request[Any, Any, Any],
        ws: FromPath[str],
        types: Types = None,
        topics: Topics = None,
        where: Where = None,
        last_event_id: LastEventId = None,
        first_event_id: LastEventIdQuery = None,
        ticket: Ticket = None,
    ) -> Response[Any]:
        """Follow a workspace's events live."""
        wanted = Filter.read(types, topics, where)
        return await follow(request, ws, wanted, last_event_id, first_event_id, ticket)

    @get(
        "/stream/notifications",
        operation_id="streamNotifications",
        opt=may("user", authenticates=True, response_media_types=["text/event-stream"]),
    )
    async def stream_notifications(
        self,
        request: Request[Any, Any, Any],
        last_event_id: LastEventId = None,
        first_event_id: LastEventIdQuery = None,
        ticket: Ticket = None,
    ) -> Response[Any]:
        """Follow the calling user's notifications live."""
        return await follow(request, None, EVERYTHING, last_event_id, first_event_id, ticket)

    @post("/stream/tickets", operation_id="createStreamTicket", opt=may("any"))
    async def create_stream_ticket(
        self,
        request: Request[Any, Any, Any],
        principal: Caller,
        data: JSONBody[s.StreamTicketCreate],
    ) -> Response[s.StreamTicket]:
        """Make a ticket with which an EventSource opens a stream."""
        parts = data.path.split("/")
        ws = None
        if parts[:4] == ["", "api", "v1", "workspaces"] and parts[5:] == ["stream"]:
            ws = parts[4]
        elif data.path != PERSONAL:
            raise NotFound("There is no stream at this path.")
        runtime = runtime_of(request)
        epoch, pos = runtime.hub.epoch, runtime.hub.head
        await source_of(request, principal, ws).sight()
        made = runtime.tickets.issue(principal, data.path, epoch, pos)
        return Response(made, cookies=[cookie_of(made, data.path)])


async def follow(
    request: Request[Any, Any, Any],
    ws: str | None,
    wanted: Filter,
    last_event_id: str | None,
    first_event_id: str | None,
    ticket: str | None,
) -> Response[Any]:
    """Open a stream: of a workspace's feed, or, without `ws`, of the calling user's own.

    `first_event_id` is the query's cursor; Last-Event-ID wins over it. A ticket may be a cookie.
    """
    if ticket is None and "authorization" not in request.headers:
        found = TICKET_COOKIE.search(request.headers.get("cookie", ""))
        ticket = found and found[1].strip()
    runtime = runtime_of(request)
    hub = runtime.hub
    if not hub.admit():
        return at_once(busy())
    state = state_of(request.scope)
    ending = state.ending
    ending.append(hub.release)
    authorized_at = hub.head
    address = runtime.connections.addresses.of(request.scope)
    try:
        principal, used = await identify(
            request,
            ticket,
            partial(asking, hub, address),
            is_reconnect=last_event_id is not None,
        )
        state.verified = principal
        runtime.limiter.take(principal, state)
        source = source_of(request, principal, ws)
        async with asking(hub, principal.turn):
            feed, sight = await source.sight()
        if ticket is not None and used is not None and last_event_id is not None:
            # Only a cursor of this feed that is no older than the ticket, because its stream has
            # given no other. Somebody who finds a ticket later learns nothing of the past.
            cursor = hub.cursors.read(feed.id, last_event_id)
            is_its_own = cursor is not None and (
                cursor.epoch != used.epoch or cursor.pos >= used.pos
            )
            runtime.tickets.read(ticket, request.scope["path"], is_reconnect=is_its_own)
        leave = runtime.streams.enter(
            principal=principal.name,
            workspace=str(feed),
            address=address,
            filtered=wanted,
        )
        ending.append(leave)
    except (RateLimited, Unavailable):
        if ticket is None:
            raise
        return at_once(busy())
    except Problem as problem:
        if ticket is None:
            raise
        return at_once(refused(describe(problem, request)))
    stream = Stream(
        hub,
        runtime.tail,
        feed,
        wanted,
        principal=principal.name,
        turn=principal.turn,
        sight=sight,
        last_event_id=last_event_id or first_event_id,
        ends_at=principal.expires_at,
        authorized_at=authorized_at,
        authorize=partial(look_again, request, source),
        replay=source.page,
        has_changed=None if ws is not None else source.has_changed,
        describe=partial(describe, request=request),
    )
    ending.append(stream.close)
    return EventStream(stream)


def at_once(content: bytes) -> Response[Any]:
    """Answer with a stream of this content that ends at once."""
    return Response(content, media_type="text/event-stream", headers=HEADERS)


def cookie_of(made: s.StreamTicket, path: str) -> Cookie:
    """Make the cookie that stands for a ticket in the URL; a browser sends it to its stream alone.

    Scripts, other sites and plain HTTP do not get it (RFC 6265bis, section 5.7).
    """
    return Cookie(
        COOKIE,
        value=made.ticket,
        path=path,
        max_age=max(0, int(made.expires_at.timestamp() - time.time())),
        secure=True,
        httponly=True,
        samesite="strict",
    )


def source_of(request: Request[Any, Any, Any], principal: Principal, ws: str | None) -> Source:
    """Say where a reader gets its rights and its past from."""
    runtime = runtime_of(request)
    return Source(runtime.database.api, runtime.hub, Scope(principal, ws, Permission.EVENTS_READ))


async def look_again(request: Request[Any, Any, Any], source: Source) -> tuple[Sight, float | None]:
    """Look a reader's rights up again, its credential's first; returns when that expires, too."""
    scope, reader = source.scope, source.scope.principal
    # For each stream, because a key may be allowed from one address and not from another.
    principal = await refresh(request, reader, partial(asking, source.hub, reader.turn))
    source.scope = msgspec.structs.replace(scope, principal=principal)
    return await source.sight_again(), principal.expires_at
