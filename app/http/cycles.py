"""One request and its answer, as the server's protocol runs it."""

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

from app.errors import Problem
from app.http.bodies import Bodies, Body


class Cycle(RequestResponseCycle):
    """A request and its answer; may be told that the rest of the body will not be waited for."""

    problem: Problem | None = None
    is_until_close = False
    body_held: Body | None = None
    """Its body, if that is no small one."""
    bodies: Bodies
    """Where that is counted."""
    on_wanted: "Callable[[Cycle], None]"
    """What is told before the application asks for more of the body."""

    async def run_asgi(self, app: Any) -> None:
        """Run the application; its end is the end of what it held of the body."""
        try:
            await super().run_asgi(app)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Hold no more of the body."""
        if self.body_held is not None:
            self.bodies.remove(self.body_held)

    @property
    def is_blocked(self) -> bool:
        """Whether the client may not send more at the moment."""
        return self.flow.read_paused or self.waiting_for_100_continue

    async def receive(self) -> Any:
        """Receive as ASGI says; raises the problem of a body that is not waited for."""
        if self.is_blocked:
            self.on_wanted(self)
        message = await super().receive()
        if self.problem is not None and not self.response_started:
            raise self.problem
        return message

    async def send(self, message: Any) -> None:
        """Send as ASGI says; HTTP/1.0 knows no chunks, so its bodies end with the connection."""
        if message["type"] == "http.response.start" and self.begin(message):
            return
        if self.scope["http_version"] == "1.0":
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message.get("headers", ())}
                self.is_until_close = b"content-length" not in names
                if self.is_until_close:
                    self.chunked_encoding = False
            elif self.is_until_close and self.scope["method"] != "HEAD":
                self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

    def begin(self, message: Any) -> bool:
        """Write the usual head at once; returns whether it was one.

        uvicorn writes the same, but searches and lowers each name and value by itself. What it has
        to decide, refuse, log or wait for is left to it.
        """
        headers = message.get("headers", ())
        given = dict(headers)
        names, values = b"".join(given), b"".join([value for _, value in headers])
        if (
            b"content-length" not in given
            or b"connection" in given
            or b"transfer-encoding" in given
            or self.scope["http_version"] != "1.1"
            or self.response_started
            or self.disconnected
            or self.flow.write_paused
            or self.access_log
            or not names.islower()
            or HEADER_RE.search(names)
            or HEADER_VALUE_RE.search(values)
        ):
            return False
        self.response_started, self.waiting_for_100_continue = True, False
        self.expected_content_length = int(given[b"content-length"])
        self.chunked_encoding = False
        lines = [STATUS_LINE[message["status"]]]
        for name, value in (*self.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self.transport.write(b"".join(lines))
        return True
