import contextlib
from functools import partial
from typing import Annotated, Any

from litestar import Controller, Request, get, post
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Response

from app.auth.dependencies import Access, Caller, authenticate, look_up, may, refresh
from app.errors import NotFound, Problem, RateLimited, Unauthorized, Unavailable, describe
from app.filters import Filter, Topics, Types, Where
from app.principals import Principal
from app.realtime.hub import Hub
from app.realtime.replay import as_principal
from app.realtime.responses import HEADERS, EventStream
from app.realtime.streams import Stream, asking, busy, refused
from app.schemas import stream as s

PERMISSION = "events:read"

LastEventId = Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=200)]
LastEventIdQuery = Annotated[str | None, QueryParameter(name="last_event_id", max_length=200)]
Ticket = Annotated[str | None, QueryParameter(name="ticket", max_length=4000)]


class StreamController(Controller):
    tags = ("stream",)

    @get(
        "/workspaces/{ws:str}/stream",
        operation_id="streamEvents",
        opt=may(PERMISSION, authenticates=True, response_media_types=["text/event-stream"]),
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
        state = request.app.state
        hub: Hub = state.hub
        if not hub.admit():
            return at_once(busy())
        ending = request.scope["state"]["ending"]
        ending.append(hub.release)
        authorized_at = hub.head
        try:
            # A cursor that we wrote shows that its bearer has read before.
            has_read = last_event_id is not None and hub.cursors.read(last_event_id)
            async with asking(hub):
                principal = await identify(request, ticket, is_reconnect=bool(has_read))
                state.limiter.take(principal.name, request.scope["state"])
                access = await authorize(request, principal, ws)
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
            state.tail,
            access.id,
            wanted,
            principal=principal.name,
            sees_audit="events:audit" in access.permissions,
            last_event_id=last_event_id or first_event_id,
            ends_at=principal.expires_at,
            authorized_at=authorized_at,
            authorize=partial(sees_audit, request, principal, str(access.id)),
            replay=as_principal(state.database.api, hub, principal),
            describe=partial(describe, request=request),
        )
        ending.append(stream.close)
        return EventStream(stream)

    @post("/stream/tickets", operation_id="createStreamTicket", opt=may("any"))
    async def create_stream_ticket(
        self,
        request: Request[Any, Any, Any],
        principal: Caller,
        data: JSONBody[s.StreamTicketCreate],
    ) -> s.StreamTicket:
        """Make a ticket with which an EventSource opens a stream."""
        parts = data.path.split("/")
        if parts[:4] != ["", "api", "v1", "workspaces"] or parts[5:] != ["stream"]:
            raise NotFound("There is no stream at this path.")
        await authorize(request, principal, parts[4])
        ticket: s.StreamTicket = request.app.state.tickets.issue(principal, data.path)
        return ticket


def at_once(content: bytes) -> Response[Any]:
    """Answer with a stream that is over as soon as it has begun."""
    return Response(content, media_type="text/event-stream", headers=HEADERS)


async def identify(
    request: Request[Any, Any, Any], ticket: str | None, *, is_reconnect: bool
) -> Principal:
    """Return the reader, by a valid bearer credential, else by their ticket."""
    if ticket is None:
        return await authenticate(request)
    if "authorization" in request.headers:
        with contextlib.suppress(Unauthorized):
            return await authenticate(request)
    principal = request.app.state.tickets.read(
        ticket, request.scope["path"], is_reconnect=is_reconnect
    )
    return await refresh(request, principal)


async def authorize(request: Request[Any, Any, Any], principal: Principal, ws: str) -> Access:
    """Look up what a principal may do in a workspace."""
    return await look_up(request.app.state.database.api, principal, ws, PERMISSION)


async def sees_audit(request: Request[Any, Any, Any], principal: Principal, ws: str) -> bool:
    """Look a reader's rights up again; says whether audit events are among them."""
    access = await authorize(request, await refresh(request, principal), ws)
    return "events:audit" in access.permissions
