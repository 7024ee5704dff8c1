"""The HTTP protocol of the server: uvicorn's, with limits on what a client may send and hold.

It refuses what is too large or too slow before the application knows of it, and closes what stays
silent. The limits are settings; docs/operations.md explains them.
"""

import asyncio
from typing import Any, ClassVar
from urllib.parse import unquote
from uuid import uuid4

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.errors import HeadersTooLarge, InvalidRequest, Problem, RequestTimeout, TooManyConnections
from app.http.bodies import SMALL_BYTES, Body
from app.http.connections import Connections
from app.http.cycles import Cycle
from app.http.unread import Pace
from app.problems import describe_at

PIECE_BYTES = 16 * 1024
"""What the parser is given at once; a limit in bytes holds to within this."""
MAX_HEADERS = 128
MAX_PIPELINED = 16
GRACE_SECONDS = 5.0
"""A body may be slower than its rate at first, and the rate is checked as often after that."""
LINGER_SECONDS = 1.0
"""A refused connection stays half open this long, as a reset could overtake the answer."""
OVERHEAD = 8
"""Bytes on the wire for a byte of a chunked body; more only serves to keep a server busy."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    limits: ClassVar[Connections]
    cycle: Cycle
    has_begun = False
    """Whether there is a cycle."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request; one connection too many of an address is refused."""
        super().connection_made(transport)
        self.address = self.limits.addresses.of_peer(self.client[0] if self.client else None)
        self.is_in_head, self.is_lingering = True, False
        self.head_bytes = self.exact_bytes = self.body_bytes = self.wire_bytes = 0
        self.body_began_at = self.body_checked_at = 0.0
        self.fault: Problem | None = None
        self.unread_by: str | None = None
        self.pace = Pace(self, self.limits.answer_rate, self.cut_off)
        self.timer: asyncio.TimerHandle | None = None
        if self.limits.enter(self.address):
            self.watch(self.limits.header_seconds)
            return
        self.refuse(
            TooManyConnections(
                f"This address has {self.limits.per_address} connections open; close some.",
                headers={"Retry-After": "10"},
            )
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what the connection held."""
        self.limits.leave(self.address)
        self.unwatch()
        self.pace.stop()
        self.limits.let_go(self, self.unread_by)
        for cycle, _ in self.pipeline:  # these do not begin any more
            assert isinstance(cycle, Cycle)
            cycle.let_go()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse piece by piece, so that limits hold within one read of the socket, too."""
        if self.is_lingering:
            return
        # An idle connection is one whose next request has not begun.
        is_new = self.timeout_keep_alive_task is not None
        self._unset_keepalive_if_required()
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            self.head_bytes += len(piece)
            self.wire_bytes += len(piece)
            super().data_received(piece)
            if self.transport.is_closing() or self.is_lingering:
                return
            self.check_sizes()
            if self.fault is not None:
                self.refuse(self.fault)
                return
        if self.is_in_head:
            if is_new and self.head_bytes:
                self.watch(self.limits.header_seconds)
        elif self.timer is None and not self.cycle.response_complete:
            self.watch(min(GRACE_SECONDS, self.limits.body_seconds))

    def check_sizes(self) -> None:
        """Note a head, or the framing of a body, that is larger than it may be."""
        limit = self.limits.header_bytes
        if self.is_in_head:
            if max(self.head_bytes, self.exact_bytes) > limit:
                self.fault = self.fault or self.too_large()
        elif self.wire_bytes > limit + OVERHEAD * self.body_bytes:
            self.fault = InvalidRequest("The body's framing is larger than the body.")

    def too_large(self) -> Problem:
        return HeadersTooLarge(
            f"Send at most {self.limits.header_bytes} bytes and {MAX_HEADERS} lines of headers."
        )

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        self.is_in_head = True
        self.head_bytes, self.exact_bytes = 1, 0  # not 0, which says that nothing has begun

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.exact_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is counted and dropped."""
        self.exact_bytes += len(name) + len(value) + 4
        if not self.is_in_head:
            return
        if len(self.headers) >= MAX_HEADERS or self.exact_bytes > self.limits.header_bytes:
            self.fault = self.fault or self.too_large()
            return
        name = name.lower()
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self.fault = self.fault or InvalidRequest("The only Transfer-Encoding here is chunked.")
            return
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the application on a request, as uvicorn does, with a cycle of ours."""
        self.unwatch()
        self.is_in_head = False
        self.body_bytes = self.wire_bytes = 0
        version = self.parser.get_http_version()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        if self.fault is None and len(self.pipeline) >= MAX_PIPELINED:
            self.fault = InvalidRequest("Too many requests are pipelined; wait for their answers.")
        if self.fault is not None:
            return
        target = httptools.parse_url(self.url)
        self.scope["raw_path"] = target.path
        self.scope["path"] = unquote(target.path.decode("ascii"))
        self.scope["query_string"] = target.query or b""
        is_busy = self.has_begun and not self.cycle.response_complete
        self.has_begun = True
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            # After a refused upgrade the parser does not know what follows.
            keep_alive=version == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade(),
            on_response=self.on_response_complete,
        )
        self.cycle.on_wanted = self.excuse
        self.body_began_at = self.body_checked_at = self.loop.time()
        if is_busy:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self.body_bytes += len(body)
        if self.fault is not None or self.cycle.problem is not None:
            return
        was_paused = self.flow.read_paused
        super().on_body(body)
        if self.flow.read_paused and not was_paused:
            self.body_checked_at = self.loop.time()
        if self.body_bytes > SMALL_BYTES and not self.cycle.response_complete:
            self.hold_body()

    def hold_body(self) -> None:
        """Count what the request holds of a body that is no small one."""
        cycle, bodies = self.cycle, self.limits.bodies
        if cycle.body_held is None:
            # A trusted proxy's connection counts for the client whose request it forwards.
            cycle.bodies = bodies
            cycle.body_held = Body(self.limits.addresses.of(cycle.scope), self.refuse_body)
        bodies.grow(cycle.body_held, self.body_bytes)

    def refuse_body(self, problem: Problem) -> None:
        """Give up a body for which there is no room."""
        self.limits.refused["bodies"] += 1
        self.give_up(problem)

    def on_message_complete(self) -> None:
        """End a request that has arrived whole."""
        self.unwatch()
        self.is_in_head = True
        self.head_bytes = self.exact_bytes = 0
        if self.has_begun and self.cycle.body_held is not None:
            self.cycle.body_held.is_whole = True
        if self.fault is None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request; the rest of a body that nobody reads is not waited for."""
        super().on_response_complete()
        if not self.is_in_head and self.cycle.response_complete:
            self.linger()

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that wait for the client."""
        size: int = self.transport.get_write_buffer_size()
        return size

    def pause_writing(self) -> None:
        """Wait until the client takes what was written, within what one client may hold."""
        super().pause_writing()
        # A trusted proxy's connection counts for the client whose request it forwarded.
        scope = self.cycle.scope if self.has_begun else None
        self.unread_by = self.address if scope is None else self.limits.addresses.of(scope)
        self.pace.start()
        self.limits.hold(self, self.unread_by)

    def resume_writing(self) -> None:
        """Go on: the client took it."""
        super().resume_writing()
        self.pace.stop()
        self.limits.let_go(self, self.unread_by)

    def cut_off(self) -> None:
        """End an answer that the client takes too slowly."""
        self.limits.refused["unread"] += 1
        self.transport.abort()

    def watch(self, seconds: float) -> None:
        """Check in so many seconds what has arrived by then."""
        self.unwatch()
        self.timer = self.loop.call_later(seconds, self.on_time)

    def unwatch(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def on_time(self) -> None:
        """Refuse a head that is late, and a body that is late or slow and was not given up."""
        self.timer = None
        if self.transport.is_closing() or (not self.is_in_head and self.cycle.problem is not None):
            return
        if self.is_in_head:
            if self.head_bytes == 0 and not self.has_begun:
                # A client that sent nothing waits for nothing.
                self.limits.refused["silence"] += 1
                self.transport.close()
            else:
                seconds = self.limits.header_seconds
                self.refuse(RequestTimeout(f"Send the headers within {seconds} s."))
            return
        self.excuse(self.cycle)
        seconds, rate = self.loop.time() - self.body_began_at, self.limits.body_rate
        if seconds >= self.limits.body_seconds:
            self.be_late(f"Send the body within {self.limits.body_seconds} s.")
        elif seconds >= GRACE_SECONDS and self.body_bytes < rate * seconds:
            self.be_late(f"Send the body at {rate} bytes a second or more.")
        else:
            pause = GRACE_SECONDS - seconds if seconds < GRACE_SECONDS else GRACE_SECONDS
            self.watch(max(0.01, min(pause, self.limits.body_seconds - seconds)))

    def excuse(self, cycle: Cycle) -> None:
        """Take what the server did not read from the time that the client took for the body."""
        if cycle is not self.cycle:
            return
        now = self.loop.time()
        if cycle.is_blocked:
            self.body_began_at += now - self.body_checked_at
        self.body_checked_at = now

    def be_late(self, detail: str) -> None:
        """Give up a body that does not come in time."""
        self.limits.refused[RequestTimeout.code] += 1
        self.give_up(RequestTimeout(detail))

    def give_up(self, problem: Problem) -> None:
        """Wait for no more of a body; the application answers if it still can."""
        if self.cycle.response_started or self.pipeline:
            self.transport.close()
            return
        self.cycle.problem = problem
        self.cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self.refuse(self.fault or InvalidRequest("This is not a valid HTTP request."))

    def _unsupported_upgrade_warning(self) -> None:
        """Serve the request without the upgrade that it offers (RFC 9110, section 7.8)."""

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem, if no other answer is under way, and close."""
        self.limits.refused[problem.code] += 1
        if self.has_begun and not self.cycle.response_complete:
            self.transport.close()
            return
        request_id = uuid4().hex
        body = msgspec.json.encode(describe_at(problem, "/", request_id))
        lines = {
            "content-type": "application/problem+json",
            "content-length": str(len(body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "x-request-id": request_id,
            "connection": "close",
            **problem.headers,
        }
        head = "".join(f"{name.lower()}: {value}\r\n" for name, value in lines.items())
        self.transport.write(STATUS_LINE[problem.status] + head.encode("latin-1") + b"\r\n" + body)
        self.linger()

    def linger(self) -> None:
        """Send no more, drop what still comes, and close when the client does or soon."""
        self.is_lingering = True
        self.unwatch()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self.address and self.limits.open[self.address] > 2 * self.limits.per_address:
            self.transport.close()
            return
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)


def protocol_with(limits: Connections) -> type[Protocol]:
    """Make the protocol of a server with these limits."""
    return type("LimitedProtocol", (Protocol,), {"limits": limits})
