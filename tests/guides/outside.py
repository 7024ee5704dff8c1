"""What stands around a newcomer's page, on loopback: Supabase Auth, and a proxy that can fail."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

ALLOW_ALL = "\r\n".join(f"Access-Control-Allow-{h}: *" for h in ("Origin", "Headers", "Methods"))


class Auth:
    """Supabase Auth, as far as supabase-js needs it to sign a user in and refresh a session."""

    def __init__(self, mint: Callable[[int], str], seconds: int) -> None:
        self.mint = mint
        self.seconds = seconds
        self.count = 0
        self.url = ""

    def session(self) -> dict[str, Any]:
        """Make a session whose access token expires soon."""
        self.count += 1
        return {
            "access_token": self.mint(self.seconds),
            "token_type": "bearer",
            "expires_in": self.seconds,
            "expires_at": int(time.time()) + self.seconds,
            "refresh_token": f"refresh-{self.count}",
            "user": {"id": "me", "aud": "authenticated", "email": "owner@example.com"},
        }

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a preflight with leave, and any other request with a fresh session."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            line, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            length = [int(h.split(":")[1]) for h in headers if h.lower().startswith("content-le")]
            await reader.readexactly(sum(length))
            body = "" if line.startswith("OPTIONS") else json.dumps(self.session())
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{ALLOW_ALL}\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write((head + body).encode())
            await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Auth"]:
        """Serve on a free port."""
        async with await asyncio.start_server(self.answer, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self


class Proxy:
    """Passes connections on; while it is down, it cuts them and answers 502."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = ""
        self.is_down = False
        self.refused = 0
        self.open: set[asyncio.StreamWriter] = set()

    def fail(self) -> None:
        """Cut every connection, and answer 502 from now on."""
        self.is_down = True
        for writer in self.open:
            writer.transport.abort()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, until one side closes it."""
        if self.is_down:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                self.refused += 1
                page = b"<h1>502 Bad Gateway</h1>\n"
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n")
                writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(page) + page)
                await writer.drain()
            writer.close()
            return
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self.port)
        self.open |= {writer, to_upstream}
        ways = [
            asyncio.create_task(self.copy(reader, to_upstream)),
            asyncio.create_task(self.copy(upstream, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, to_upstream):
            self.open.discard(end)
            end.close()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy one direction to its end."""
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65_536):
                writer.write(part)
                await writer.drain()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Proxy"]:
        """Serve on a free port; connections that are open at the end are cut."""
        async with await asyncio.start_server(self.answer, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                for writer in self.open:
                    writer.transport.abort()
