"""A TCP proxy on loopback that fails as networks do, and sockets of clients that do."""

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.conftest import Running, TestDatabase, running

Opening = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
SO_ATTACH_FILTER = 26
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A classic BPF program of one instruction: return 0, keep nothing of any packet."""


class Link:
    """One connection through the proxy; the near end is the client's."""

    def __init__(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.near_reader, self.near = near
        self.far_reader, self.far = far
        self.asked = b""
        """The last of what the client sent, to tell connections apart."""
        self.swallows_requests = False
        self.swallows_answers = False
        self.delay_seconds = 0.0

    async def run(self) -> None:
        """Pass on what comes until one side ends; a side that is swallowed is never told."""
        await asyncio.gather(self.pass_requests(), self.pass_answers())

    async def pass_requests(self) -> None:
        while data := await read_some(self.near_reader):
            self.asked = (self.asked + data)[-4096:]
            await asyncio.sleep(self.delay_seconds)
            if not self.swallows_requests:
                await write(self.far, data)
        if not self.swallows_requests:
            self.far.close()

    async def pass_answers(self) -> None:
        while data := await read_some(self.far_reader):
            await asyncio.sleep(self.delay_seconds)
            if not self.swallows_answers:
                await write(self.near, data)
        if not self.swallows_answers:
            self.near.close()

    def go_dark(self) -> None:
        """Pass nothing more, either way, and close nothing: neither side is told."""
        self.swallows_requests = self.swallows_answers = True

    def reset(self) -> None:
        """End both sides with a RST."""
        for writer in (self.near, self.far):
            if not writer.is_closing():
                reset(writer.get_extra_info("socket"))
                writer.transport.abort()


class Proxy:
    """Passes connections on to a server; what happens to them is the test's choice."""

    def __init__(self, open_far: Opening) -> None:
        self.open_far = open_far
        self.links: list[Link] = []
        self.port = 0
        self.is_dark = False
        """New connections are taken and get no answer, either."""
        self.swallows_answers = False
        """Of connections to come."""

    async def serve(self, *near: asyncio.StreamReader | asyncio.StreamWriter) -> None:
        reader, writer = near
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        far = None
        try:
            far = await self.open_far()
            link = Link((reader, writer), far)
            link.swallows_answers = self.swallows_answers
            if self.is_dark:
                link.go_dark()
            self.links.append(link)
            await link.run()
        except OSError:
            pass
        finally:
            for end in (writer, far[1] if far else writer):
                end.transport.abort()

    def go_dark(self) -> None:
        """Pass nothing on any connection, nor on those to come, until `lighten`."""
        self.is_dark = True
        for link in self.links:
            link.go_dark()

    def lighten(self) -> None:
        """Pass new connections again; those that went dark stay so, as behind a NAT that forgot."""
        self.is_dark = False

    def forget(self) -> None:
        """Let go of the connections that went dark."""
        for link in self.links:
            if link.swallows_requests:
                link.reset()


async def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write unless the other side was reset meanwhile, as uvloop raises no OSError for that."""
    if not writer.is_closing():
        writer.write(data)
        await writer.drain()


async def read_some(reader: asyncio.StreamReader) -> bytes:
    """Read what there is; nothing at the end, however it came."""
    try:
        return await reader.read(65536)
    except OSError:
        return b""


@contextlib.asynccontextmanager
async def proxying(open_far: Opening) -> AsyncIterator[Proxy]:
    """Run a proxy on a port of its own."""
    proxy = Proxy(open_far)
    tasks = set[asyncio.Task[None]]()

    def accept(*near: asyncio.StreamReader | asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(*near))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def to_database(url: str) -> Opening:
    """Say how to reach the Postgres of a libpq URL, on its Unix socket or over TCP."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.hostname:
        return lambda: asyncio.open_connection(parts.hostname, parts.port)
    path = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
    return lambda: asyncio.open_unix_connection(path)


def through(proxy: Proxy, url: str) -> str:
    """Return the libpq URL that leads through a proxy."""
    parts = urlsplit(url)
    return f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}?sslmode=disable"


@contextlib.asynccontextmanager
async def behind_proxy(
    database: TestDatabase, role: str = "annex_worker"
) -> AsyncIterator[tuple[Running, Proxy]]:
    """Serve with a proxy between the database and the tail, or requests, which are annex_api."""
    url = database.url(role)
    async with proxying(to_database(url)) as proxy:
        setting = "database_url" if role == "annex_api" else "worker_database_url"
        settings: dict[str, Any] = {setting: through(proxy, url)}
        async with running(database, **settings) as server:
            yield server, proxy


def to_server(url: str) -> Opening:
    """Say how to reach a server of ours."""
    parts = urlsplit(url)
    return lambda: asyncio.open_connection(parts.hostname, parts.port)


def reset(client: socket.socket) -> None:
    """Let the next close of a socket send a RST, and no goodbye."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def go_dark(client: socket.socket) -> None:
    """Drop every packet that comes for a socket, so that its peer gets no ACK: a pulled cable."""
    program = ctypes.create_string_buffer(DROP_ALL)
    client.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program))
    )
