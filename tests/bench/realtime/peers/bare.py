"""No framework at all: shows what the load generator can take."""

import asyncio
import socket
from typing import Any

import uvloop

COMMENT = b": ok\n\n"


class Bare(asyncio.Protocol):
    """Writes the frame to every transport, as fast as a loop can."""

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
                b"Transfer-Encoding: chunked\r\n\r\n" + chunk(COMMENT)
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


async def run(listener: socket.socket) -> None:
    """Serve until ended."""
    transports: set[Any] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bare(transports), sock=listener, backlog=4096)
    await server.serve_forever()


def serve(listener: socket.socket) -> None:
    """Serve until ended."""
    uvloop.run(run(listener))
