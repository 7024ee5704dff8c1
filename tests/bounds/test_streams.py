"""Streams are budgeted where they open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.conftest import Tenant, TestDatabase, new_tenant, running
from tests.realtime.reader import calling


@asynccontextmanager
async def opened(tenant: Tenant, query: str = "") -> AsyncIterator[httpx.Response]:
    """Open a stream and leave it open."""
    path = f"{tenant.path}/stream{query}"
    async with tenant.owner.client.stream("GET", path) as response:
        yield response


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("max_streams_per_principal", "too_many_streams"),
        ("max_streams_per_workspace", "too_many_streams"),
        ("max_streams_per_address", "too_many_streams"),
        ("max_filters_per_workspace", "too_many_filters"),
    ],
)
async def test_a_stream_beyond_a_budget_is_refused_and_counted(
    database: TestDatabase, limit: str, code: str
) -> None:
    async with running(database, **{limit: 1}) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        async with opened(tenant) as first:
            assert first.status_code == 200
            refused = await tenant.owner.client.get(f"{tenant.path}/stream?types=other")
            assert (refused.status_code, refused.json()["code"]) == (429, code)
            assert int(refused.headers["retry-after"]) > 0
            made = await tenant.owner.client.post(
                "/api/v1/stream/tickets", json={"path": f"{tenant.path}/stream"}
            )
            ticket = made.json()["ticket"]
            async with httpx.AsyncClient(base_url=server.url) as browser:
                told = await browser.get(
                    f"{tenant.path}/stream", params={"ticket": ticket, "types": "other"}
                )
            assert told.status_code == 200
            assert "retry: " in told.text
        metrics = await callers.operator().client.get("/metrics")
        assert f'annex_refused_total{{code="{code}"}} 2.0' in metrics.text


async def test_a_stream_that_gets_no_turn_at_the_database_is_told_to_come_back(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        queries = server.app.runtime.hub.queries
        monkeypatch.setattr("app.realtime.streams.ANSWER_SECONDS", 0.2)
        others = [f"another {n}" for n in range(queries.free)]
        for whose in others:
            await queries.take(whose)
        async with asyncio.timeout(5):
            answer = await tenant.owner.client.get(f"{tenant.path}/stream")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        for whose in others:
            queries.give(whose)
        metrics = await callers.operator().client.get("/metrics")
        assert 'annex_refused_total{code="no_stream_turn"} 1.0' in metrics.text
        async with opened(tenant) as response:
            assert response.status_code == 200


async def test_a_stream_that_ended_gives_its_place_back(database: TestDatabase) -> None:
    settings = {"max_streams_per_principal": 1}
    async with running(database, **settings) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        runtime = server.app.runtime
        for _ in range(3):
            async with opened(tenant) as response:
                assert response.status_code == 200
                assert runtime.streams.open.total() == 3
            while runtime.streams.open:
                await asyncio.sleep(0.01)  # until the server has seen the client leave
