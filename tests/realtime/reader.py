"""A client of streams: a third party's parser, message by message."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from uuid import UUID

import httpx
from httpx_sse import EventSource, ServerSentEvent, aconnect_sse

from app.database.pools import Pool
from tests import conftest
from tests.conftest import Caller, Callers, Running, Tenant


class Reader:
    """Reads one connection's messages, and remembers the last cursor as a browser would."""

    def __init__(self, source: EventSource) -> None:
        self.response = source.response
        self.messages = source.aiter_sse()
        self.cursor = ""
        self.retry: int | None = None

    async def message(self, seconds: float = 5) -> ServerSentEvent:
        """Return the next message; raises StopAsyncIteration at the stream's end."""
        async with asyncio.timeout(seconds):
            found = await anext(self.messages)
        self.cursor = found.id or self.cursor
        self.retry = found.retry or self.retry
        return found

    async def event(self, seconds: float = 5) -> dict[str, Any]:
        """Return the next message that is no cursor; it has to be an event."""
        found = await self.message(seconds)
        while found.event == "cursor":
            found = await self.message(seconds)
        assert found.event == "message", found
        event: dict[str, Any] = found.json()
        return event

    async def rest(self, seconds: float = 5) -> list[ServerSentEvent]:
        """Return what comes until the server ends the stream."""
        found = []
        with contextlib.suppress(StopAsyncIteration):
            async with asyncio.timeout(seconds):
                while True:
                    found.append(await self.message(seconds))
        return found

    async def names(self, count: int) -> list[Any]:
        """Return the `n` of the next events' data."""
        return [(await self.event())["data"]["n"] for _ in range(count)]


@contextlib.asynccontextmanager
async def follow(
    client: httpx.AsyncClient, path: str, cursor: str | None = None, **params: Any
) -> AsyncIterator[Reader]:
    """Open a stream, from a cursor as a browser's second connection would send it."""
    headers: Mapping[str, str] = {"Last-Event-ID": cursor} if cursor else {}
    async with aconnect_sse(
        client, "GET", path, params=params or None, headers={**headers}, timeout=10
    ) as source:
        reader = Reader(source)
        try:
            yield reader
        finally:
            await reader.messages.aclose()


async def publish(caller: Caller, tenant: Tenant, *events: Mapping[str, Any]) -> list[str]:
    """Publish events over REST; returns their ids."""
    body = [{"type": "test.made", **e} for e in events]
    response = await caller.client.post(f"{tenant.path}/events/batch", json=body)
    assert response.status_code == 201, response.text
    return [e["id"] for e in response.json()["data"]]


async def number(tenant: Tenant, *names: str, **fields: Any) -> list[str]:
    """Publish events as the owner, told apart by the `n` of their data; returns their ids."""
    return await publish(tenant.owner, tenant, *({"data": {"n": n}, **fields} for n in names))


def problem_of(message: ServerSentEvent) -> str:
    """Return the code of the problem that an `unauthorized` message carries."""
    assert message.event == "unauthorized", message
    code: str = json.loads(message.data)["code"]
    return code


async def new_tenant(callers: Callers) -> Tenant:
    """Make a workspace, and wait until the log has the events of that."""
    tenant = await conftest.new_tenant(callers)
    await callers.server.app.runtime.tail.catch_up()
    return tenant


async def add_member(callers: Callers, tenant: Tenant, role: str) -> Caller:
    """Add a member, and wait until the log has the event of that."""
    member = await conftest.add_member(callers, tenant, role)
    await callers.server.app.runtime.tail.catch_up()
    return member


@contextlib.asynccontextmanager
async def calling(server: Running) -> AsyncIterator[Callers]:
    """Make callers of a server of the test's own."""
    callers = Callers(server)
    # They may outlive the server: what it sent last is read then.
    server.opened.remove(callers)
    try:
        yield callers
    finally:
        await callers.close()


def elsewhere(tenant: Tenant, callers: Callers) -> Tenant:
    """Return the same workspace and owner, as clients of another server."""
    credential = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
    return tenant._replace(owner=tenant.owner._replace(client=callers.client(credential)))


def cursor_at_head(server: Running, tenant: Tenant) -> str:
    """Write a cursor of a workspace's feed, for all that is not in the log yet."""
    cursor: str = server.app.runtime.hub.stand()(UUID(tenant.id))
    return cursor


def lent(pool: Pool) -> int:
    """Count the connections of a pool that somebody holds."""
    return len(pool.open) - len(pool.idle)


async def until(is_so: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until something is so; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    for _ in iter(is_so, True):
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.01)
