"""What others would put in Annex' place, as their own documentation has it.

Each takes a broadcast at `POST /publish` and sends it to every stream at `/stream`; no
authentication, no database. A first comment tells a client that it is among the readers.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from fastapi import FastAPI, Request, Response
from litestar import Litestar, get, post
from litestar import Request as LitestarRequest
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage
from sse_starlette import EventSourceResponse
from sse_starlette import ServerSentEvent as StarletteEvent
from starlette.responses import StreamingResponse

FIRST = b": ok\n\n"


class Broadcast:
    """A queue for each subscriber."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[Any]] = set()
        self.numbers = itertools.count(1)

    def publish(self, message: Any) -> None:
        """Give every subscriber the same object."""
        for queue in self.queues:
            queue.put_nowait(message)

    async def subscribe(self, first: Any) -> AsyncIterator[Any]:
        """Yield a first message, and then what is published."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues.add(queue)
        try:
            yield first
            while True:
                yield await queue.get()
        finally:
            self.queues.discard(queue)


def fastapi() -> Any:
    """FastAPI's StreamingResponse; the bytes of an event are made once for all."""
    app, broadcast = FastAPI(), Broadcast()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(broadcast.subscribe(FIRST), media_type="text/event-stream")

    @app.post("/publish", status_code=204)
    async def publish(request: Request) -> Response:
        data = await request.body()
        broadcast.publish(b"id: %d\ndata: %b\n\n" % (next(broadcast.numbers), data))
        return Response(status_code=204)

    return app


def sse_starlette() -> Any:
    """FastAPI with the EventSourceResponse of sse-starlette, which makes the bytes itself."""
    app, broadcast = FastAPI(), Broadcast()

    @app.get("/stream")
    async def stream() -> EventSourceResponse:
        return EventSourceResponse(broadcast.subscribe(StarletteEvent(comment="ok")))

    @app.post("/publish", status_code=204)
    async def publish(request: Request) -> Response:
        data = (await request.body()).decode()
        broadcast.publish(StarletteEvent(data, id=str(next(broadcast.numbers))))
        return Response(status_code=204)

    return app


def litestar() -> Any:
    """Litestar's channels in memory and its ServerSentEvent."""

    @get("/stream")
    async def stream(channels: ChannelsPlugin) -> ServerSentEvent:
        async def messages() -> AsyncIterator[Any]:
            async with channels.start_subscription("events") as subscriber:
                yield ServerSentEventMessage(comment="ok")
                async for data in subscriber.iter_events():
                    yield data

        return ServerSentEvent(messages())

    @post("/publish", status_code=204)
    async def publish(request: LitestarRequest[Any, Any, Any], channels: ChannelsPlugin) -> None:
        channels.publish((await request.body()).decode(), "events")

    plugin = ChannelsPlugin(MemoryChannelsBackend(), channels=["events"])
    return Litestar([stream, publish], plugins=[plugin], openapi_config=None, logging_config=None)


class Bare(asyncio.Protocol):
    """No framework at all: the frame is written to every transport, as fast as a loop can.

    Shows what the load generator can take.
    """

    def __init__(self, transports: set[Any]) -> None:
        self.transports = transports
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self.take():
            pass

    def take(self) -> bool:
        """Answer one whole request; says whether there was one."""
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return False
        if head.startswith(b"GET"):
            self.received = body
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n" + chunk(FIRST)
            )
            self.transports.add(self.transport)
            return True
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        self.received = body[length:]
        self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        frame = chunk(b"data: %b\n\n" % body[:length])
        for transport in self.transports:
            transport.write(frame)
        return True

    def connection_lost(self, _: Exception | None) -> None:
        self.transports.discard(self.transport)


def chunk(data: bytes) -> bytes:
    """Frame data as HTTP/1.1 does (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve_bare(listener: Any) -> None:
    """Serve until ended."""
    transports: set[Any] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bare(transports), sock=listener, backlog=4096)
    await server.serve_forever()


def bare(listener: Any) -> None:
    """Run the server without a framework."""
    uvloop.run(serve_bare(listener))


PEERS = {"fastapi": fastapi, "sse-starlette": sse_starlette, "litestar": litestar}
