"""The application as a server calls it: what it does with every request and answer."""

import re
import time
from collections import Counter
from functools import cached_property
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import structlog
from litestar import Litestar, Request
from litestar.types import ASGIApp, Message

from app.errors import InvalidRequest, NotFound, UnsupportedMediaType, causes
from app.http.connections import Connections
from app.http.links import SLASH, routed_path
from app.http.media_types import JSON
from app.http.media_types import check as check_media_type
from app.problems import from_msgspec
from app.request_state import NAME, RequestState, logged
from app.runtime import Runtime, runtime_in
from app.schemas.problems import FieldError
from app.settings import SettingsError
from app.watchdog import Pace

log = structlog.get_logger()

ALWAYS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
LISTS = (b"if-match", b"if-none-match")
LAST = b"last-event-id"
JOINED = {*LISTS, LAST}
SINGLE = {"types", "topics", "cursor", "limit", "q", "role", "status", "workspace"}
SINGLE |= {"category", "token", "seen", "unread", "archived", "snoozed"}
"""Query parameters that are refused when they are repeated.

Not a stream's `last_event_id` and `ticket`: an EventSource would give up for good on a 400.
"""
MAX_PARAMETERS = 100
"""Of a query; to read thousands takes a long turn of everybody's loop."""
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


class Application(Litestar):
    """Litestar that gives every request an id, and answers HEAD (RFC 9110, section 9.3.2)."""

    connections: Connections
    """The limits of the server's connections."""
    pace: Pace
    """What all that is cut into steps has of a turn of the loop."""
    runtime: Runtime
    """What requests need, from the lifespan's begin on."""

    @cached_property
    def without_origin(self) -> ASGIApp:
        """What is within CORS, which has nothing to say to a request without an Origin."""
        middleware: Any = self.asgi_handler
        found: ASGIApp = middleware.app
        return found

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.live(scope, receive, send)
            return
        if self.pace.is_busy:
            # Hundreds that arrive at once would take one long turn of the loop.
            await self.pace.turn()
        # The last line of each name: what is not repeated, and whether a name is there at all.
        given = dict(scope["headers"])
        if not JOINED.isdisjoint(given):
            scope["headers"] = join_lists(scope["headers"])
        if SLASH.search(scope["raw_path"]):
            scope["path"] = routed_path(scope["raw_path"])
        if scope["method"] == "HEAD":
            scope, receive, send = as_get(scope, receive, send)
        state = RequestState(request_id(given), time.perf_counter(), send)
        scope.setdefault("state", {})[NAME] = state
        scope["app"] = scope["litestar_app"] = self
        handler = self.asgi_handler if b"origin" in given else self.without_origin

        async def send_finished(message: Any) -> None:
            if message["type"] == "http.response.start":
                finish_headers(message, scope, state)
            await send(message)

        try:
            await handler(scope, receive, send_finished)
        finally:
            if state.refused is not None:
                self.connections.refused[state.refused] += 1
            # The answer may have been cut off. Its stream gives back what it holds now, because
            # the collector may come late.
            for end in reversed(state.ending):
                end()

    async def live(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the lifespan; a start that settings forbid fails with a sentence, no traceback."""
        failures = []

        async def hold_failure(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                failures.append(message)
            else:
                await send(message)

        try:
            await super().__call__(scope, receive, hold_failure)
        except Exception as error:
            wrong = next((c for c in causes(error) if isinstance(c, SettingsError)), None)
            if wrong is not None:
                await send({"type": "lifespan.startup.failed", "message": f"annex: {wrong}"})
                return
            for message in failures:
                await send(message)
            raise


class StrictRequest(Request[Any, Any, Any]):
    """A request whose body has the JSON types that the contract says."""

    async def json(self) -> Any:
        """Decode the body into the handler's struct; Litestar alone would take "7" for 7."""
        body, field = await self.body(), self.route_handler.parsed_data_field
        if not body or field is None:
            return await super().json()
        try:
            return msgspec.json.decode(body, type=field.annotation)
        except (msgspec.ValidationError, RecursionError) as error:
            raise from_msgspec(error) from None
        except msgspec.DecodeError:
            return await super().json()


def join_lists(headers: Any) -> Any:
    """Join the lines of the lists that we read (RFC 9110, section 5.3); others stay as they are."""
    joined = [h for h in headers if h[0] not in LISTS]
    for name in LISTS:
        if lines := [value for given, value in headers if given == name]:
            joined.append((name, b", ".join(lines)))
    # Sent by a client that resumed more than once, or joined by a proxy: the last one counts.
    if lines := [value for given, value in joined if given == LAST]:
        joined = [h for h in joined if h[0] != LAST]
        joined.append((LAST, lines[-1].rpartition(b",")[2].strip()))
    return joined


def request_id(given: dict[bytes, bytes]) -> str:
    """Take the client's request id if it is sane, or make one."""
    text = given.get(b"x-request-id", b"").decode("latin-1")
    return text if SANE_ID.fullmatch(text) else token_hex(16)


def as_get(scope: Any, receive: Any, send: Any) -> tuple[Any, Any, Any]:
    """Turn a HEAD into a GET of which only the headers are sent."""
    is_over = False

    async def send_head(message: Message) -> None:
        nonlocal is_over
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            is_over = True

    async def receive_head() -> Any:
        # A stream must not go on for a client that only asked for its headers.
        return {"type": "http.disconnect"} if is_over else await receive()

    return {**scope, "method": "GET"}, receive_head, send_head


def methods(scope: Any) -> list[str]:
    """List the methods of a request's path; nothing for a path that is not served."""
    handler = scope.get("route_handler")
    for route in scope["litestar_app"].routes:
        if handler in getattr(route, "route_handlers", ()):
            return sorted({*route.methods, *(["HEAD"] if "GET" in route.methods else [])})
    return []


def with_head(allow: bytes) -> bytes:
    """Name HEAD among the methods of a path that has a GET."""
    named = {m.strip() for m in allow.split(b",")}
    return b", ".join(sorted(named | ({b"HEAD"} if b"GET" in named else set())))


def finish_headers(message: Any, scope: Any, state: RequestState) -> None:
    """Add what every answer carries, count the request and log it."""
    headers = message["headers"] = list(message["headers"])  # names are in lower case
    if scope.get("method") == "OPTIONS" and (named := methods(scope)):
        # Litestar's own names only the methods of the handler that was registered last.
        headers[:] = [h for h in headers if h[0] != b"allow"]
        headers.append((b"allow", ", ".join(named).encode("latin-1")))
    elif message["status"] == 405:
        # Litestar does not know that a HEAD is answered here.
        headers[:] = [(n, with_head(v) if n == b"allow" else v) for n, v in headers]
    given = dict(headers)
    headers += [h for h in ALWAYS if h[0] not in given]
    headers.append((b"x-request-id", state.request_id.encode("latin-1")))
    headers += [h for h in state.headers if h[0] not in given]
    seconds = time.perf_counter() - state.began_at
    handler = scope.get("route_handler")
    runtime = runtime_in(scope)
    runtime.metrics.observe(
        getattr(handler, "operation_id", None) or "none", message["status"], seconds
    )
    if runtime.settings.log_level not in ("debug", "info"):
        return  # spares the making of a line that nobody would see
    log.info(
        "request",
        method=scope.get("method"),
        status=message["status"],
        ms=round(seconds * 1000, 1),
        **logged(scope),
    )


def check_query(query: bytes) -> None:
    """Refuse too many parameters, and one that counts once and was given twice.

    Of the latter, one of its values would be lost.
    """
    if query.count(b"&") >= MAX_PARAMETERS:
        raise InvalidRequest(f"Send at most {MAX_PARAMETERS} parameters.")
    if query.count(b"=") < 2:
        return
    text = query.decode("latin-1")  # what is not UTF-8 once it is unquoted is replaced
    given = Counter(name for name, _ in parse_qsl(text, keep_blank_values=True))
    if repeated := sorted(name for name in SINGLE if given[name] > 1):
        raise InvalidRequest(
            "Give each parameter once; several types or topics are separated by commas.",
            errors=[FieldError(name, "given more than once") for name in repeated],
        )


def check_request(request: Request[Any, Any, Any]) -> None:
    """Refuse a path with a slash at its end and a body of a type that the handler does not take."""
    path = request.scope["raw_path"]
    if path != b"/" and path.endswith(b"/"):
        raise NotFound("There is nothing at this path; leave the slash at its end out.")
    check_query(request.scope["query_string"])
    if request.method not in ("POST", "PUT", "PATCH"):
        return
    headers, handler = request.headers, request.route_handler
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
    taken = handler.opt.get("request_media_types", JSON if handler.parsed_data_field else None)
    if taken:  # an operation without a body needs no Content-Type
        check_media_type(headers, taken)
