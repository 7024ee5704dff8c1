"""One request and its answer, as the server's protocol runs it."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

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

    async def receive(self) -> Any:
        """Receive as ASGI says; raises the problem of a body that is not waited for."""
        message = await super().receive()
        if self.problem is not None and not self.response_started:
            raise self.problem
        return message

    async def send(self, message: Any) -> None:
        """Send as ASGI says; HTTP/1.0 knows no chunks, so its bodies end with the connection."""
        if self.scope["http_version"] == "1.0":
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message.get("headers", ())}
                self.is_until_close = b"content-length" not in names
                if self.is_until_close:
                    self.chunked_encoding = False
            elif self.is_until_close and self.scope["method"] != "HEAD":
                self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
