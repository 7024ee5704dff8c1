"""Many light readers in one loop."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import cast

import httptools
import httpx
import msgspec

from tests.conftest import Running
from tests.faults import proxy

AT_ONCE = 200
"""Connections that are opened at the same time."""


class Numbered(msgspec.Struct):
    """Of an event's data, what tells it apart."""

    n: str


class Event(msgspec.Struct):
    """Of an event, what a light reader looks at."""

    data: Numbered


class Light(asyncio.Protocol):
    """A reader's connection: httptools reads HTTP, and what the server sends as SSE is split here.

    Knows only messages with one line each of `id`, `event` and `data`, as this server writes them.
    """

    def __init__(self, reader: "LightReader", request: bytes) -> None:
        self.reader = reader
        self.request = request
        self.parser = httptools.HttpResponseParser(self)
        self.buffer = b""
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        *messages, self.buffer = (self.buffer + body).split(b"\n\n")
        for message in messages:
            lines = dict(line.split(b": ", 1) for line in message.split(b"\n"))
            self.reader.take(lines)
        if messages:
            self.began.set()

    def on_message_complete(self) -> None:
        self.reader.clean_ends += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.reader.status = self.parser.get_status_code()
        self.began.set()
        self.ended.set()


class LightReader:
    """Remembers the last cursor, and the `n` of each event."""

    def __init__(self, headers: httpx.Headers) -> None:
        self.credential = headers["authorization"]
        self.cursor = b""
        self.got: list[str] = []
        self.at: list[float] = []
        """When each came."""
        self.others: list[bytes] = []
        """The names of messages that were no events."""
        self.clean_ends = 0
        self.status = 0
        self.link: Light | None = None

    def take(self, lines: dict[bytes, bytes]) -> None:
        self.cursor = lines.get(b"id", self.cursor)
        if b"event" in lines:
            self.others.append(lines[b"event"])
        else:
            event = msgspec.json.decode(lines[b"data"], type=Event)
            self.got.append(event.data.n)
            self.at.append(time.monotonic())

    def request(self, path: str) -> bytes:
        """Write the request for a stream from the last cursor."""
        resume = f"Last-Event-ID: {self.cursor.decode()}\r\n" if self.cursor else ""
        return (
            f"GET {path}?types=test.* HTTP/1.1\r\nHost: annex\r\n"
            f"Authorization: {self.credential}\r\n{resume}\r\n"
        ).encode()

    async def connect(self, server: Running, path: str, receive_buffer: int | None = None) -> None:
        """Open the stream; a reader without a cursor has one when this returns."""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop, port = asyncio.get_running_loop(), int(server.url.rpartition(":")[2])
        await loop.sock_connect(self.socket, ("127.0.0.1", port))
        _, self.link = await loop.create_connection(
            lambda: Light(self, self.request(path)), sock=self.socket
        )
        if not self.cursor:
            await self.link.began.wait()
            assert self.others == [b"cursor"], (self.others, self.status)

    async def ended(self) -> None:
        """Wait for the connection's end."""
        assert self.link is not None
        await self.link.ended.wait()

    def stall(self) -> None:
        """Read no more."""
        assert self.link is not None
        self.link.transport.pause_reading()

    def leave(self) -> None:
        """Close the connection."""
        assert self.link is not None
        self.link.transport.abort()

    def reset(self) -> None:
        """End the connection with a RST."""
        assert self.link is not None
        proxy.reset(self.socket)
        self.link.transport.abort()

    def go_dark(self) -> None:
        """Answer nothing any more, not even with an ACK."""
        proxy.go_dark(self.socket)


async def connect_all(
    readers: Sequence[LightReader], server: Running, path: str, receive_buffer: int | None = None
) -> None:
    """Open every reader's stream."""
    places = asyncio.Semaphore(AT_ONCE)

    async def connect(reader: LightReader) -> None:
        async with places:
            await reader.connect(server, path, receive_buffer)

    await asyncio.gather(*(connect(reader) for reader in readers))


@contextlib.asynccontextmanager
async def crowd(headers: httpx.Headers, count: int) -> AsyncIterator[list[LightReader]]:
    """Make readers, and close what they opened."""
    readers = [LightReader(headers) for _ in range(count)]
    try:
        yield readers
    finally:
        links = [reader.link for reader in readers if reader.link is not None]
        for link in links:
            link.transport.abort()
        await asyncio.gather(*(link.ended.wait() for link in links))
