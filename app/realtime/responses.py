"""Litestar's answer for Server-Sent Events, for streams whose messages are framed already."""

import asyncio
from collections.abc import Callable
from typing import Any

from litestar.response import ServerSentEvent
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.realtime.streams import Stream, never
from app.request_state import state_of

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class EventStream(ServerSentEvent):
    """Sends a stream's messages as they are.

    Litestar's own would frame each once more for each reader, hop to a thread and back to begin,
    and hold a task group and two generators for as long as the stream lasts.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__((), headers=HEADERS)
        # Of the connection the server decides; HTTP/1.0 and HEAD would be told two things.
        self.headers.pop("Connection", None)
        self.stream = stream

    def to_asgi_response(self, *_: Any, **options: Any) -> ASGIStreamingResponse:
        """Prepare the headers as any other answer's."""
        return ASGIEventStream(
            self.stream,
            headers={**(options.get("headers") or {}), **self.headers},
            encoded_headers=options.get("encoded_headers"),
            is_head_response=options.get("is_head_response", False),
            media_type=self.media_type,
        )


class ASGIEventStream(ASGIStreamingResponse):
    """Sends until the stream ends or the client is gone."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream, **options: Any) -> None:
        super().__init__(iterator=(), **options)
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.start_response(send)
        # Middleware and hooks look at the start of an answer only; what follows passes them by.
        await self.send_body(state_of(scope).send, receive)

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Send until the stream ends or the client is gone.

        In a task of its own: each message would otherwise wake all that called us, a dozen deep.
        """
        self.stream.push = pusher(send)
        sending = asyncio.create_task(self.send_all(send))
        try:
            # A server says so, too, when the client has all of the answer.
            while (await receive())["type"] != "http.disconnect":
                pass
            self.stream.leave()
            await sending
        finally:
            sending.cancel()

    async def send_all(self, send: Send) -> None:
        """Send message after message; each `send` waits while the client takes nothing."""
        async for raw in self.stream:
            await send({"type": "http.response.body", "body": raw, "more_body": True})
            raw = b""  # a reader that waits does not keep what it got last
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def pusher(send: Send) -> Callable[[bytes], bool]:
    """Return what sends a chunk to a client at once, or says that it would have to wait.

    For thousands of readers that wait, waking their tasks costs as much as writing to them, and
    uvicorn would frame the same bytes for each anew. So this writes to its transport what its
    `send` would write once the answer has begun, and leaves to it all other servers and bodies.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.chunked_encoding:
        return never
    flow, write = cycle.flow, cycle.transport.write

    def push(chunk: bytes) -> bool:
        if flow.write_paused or cycle.disconnected:
            return False
        write(chunk)
        return True

    return push
