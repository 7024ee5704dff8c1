"""A server with a projector beside it, as `annex dev` runs them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from app.database.pools import Database
from app.worker.projector import Projector
from app.worker.runner import Runner
from tests.conftest import Caller, Callers, Running, Tenant, TestDatabase, running, settings_for

LIST = "/api/v1/me/notifications"
STREAM = "/api/v1/stream/notifications"


@contextlib.asynccontextmanager
async def projected(database: TestDatabase) -> AsyncIterator[None]:
    """Run the projector and its jobs."""
    async with Database(settings_for(database)) as pools:
        projector = Projector()
        task = asyncio.create_task(Runner(pools, [projector], projector.jobs()).run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
async def projector(database: TestDatabase) -> AsyncIterator[None]:
    """The projector of the shared database, in which other modules fan out by hand."""
    async with projected(database):
        yield


@pytest.fixture(autouse=True)
async def with_projector(projector: None) -> None:
    """Fan out what tests publish."""


async def publish(tenant: Tenant, caller: Caller | None = None, **event: Any) -> str:
    """Publish an event as the owner, or as somebody else; returns its id."""
    client = (caller or tenant.owner).client
    response = await client.post(f"{tenant.path}/events", json={"type": "test.made", **event})
    assert response.status_code in (200, 201), response.text
    return str(response.json()["id"])


async def follow_topic(tenant: Tenant, user: Caller, topic: str, **wanted: Any) -> Any:
    """Follow a topic as a user."""
    path = f"/api/v1/me/subscriptions/{topic}"
    response = await user.client.put(path, params={"workspace": tenant.id}, json=wanted)
    assert response.status_code in (200, 201), response.text
    return response.json()


async def listed(user: Caller, **params: Any) -> Any:
    """Return a user's first page of notifications."""
    response = await user.client.get(LIST, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def settled(database: TestDatabase, seconds: float = 30) -> None:
    """Wait until everything that was committed has been fanned out and has its position."""
    async with database.admin() as admin, asyncio.timeout(seconds):
        while await admin.fetchval(
            "select exists (select from annex.pending) or exists (select from annex.fanouts)"
            " or not exists (select from annex.readers r, annex.log_state s"
            " where r.name = 'projector' and r.pos >= s.head)"
        ):
            await asyncio.sleep(0.01)


async def events_of(user: Caller, database: TestDatabase, event_id: str) -> list[Any]:
    """Return the notifications that a user has of an event, whatever their state."""
    await settled(database)
    async with database.admin() as admin:
        return list(
            await admin.fetch(
                "select * from annex.notifications where user_id = $1 and event_id = $2",
                user.user_id,
                UUID(event_id),
            )
        )


__all__ = ["Callers", "Running", "running"]
