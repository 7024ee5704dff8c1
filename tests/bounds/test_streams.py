"""Streams are budgeted where they open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app.auth import keys
from app.principals import Principal
from app.realtime.feeds import Feed, Sight
from app.realtime.replay import Source
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
        assert 'annex_refused_total{code="no_stream_answer"} 1.0' in metrics.text
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


async def test_tokens_that_wait_for_a_host_that_hangs_hold_no_turn(database: TestDatabase) -> None:
    hangs, ends = asyncio.Event(), asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hangs.set()
        await ends.wait()
        writer.close()

    key = ec.generate_private_key(ec.SECP256R1())
    host = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = host.sockets[0].getsockname()[1]
    settings: dict[str, Any] = {"supabase_url": f"http://127.0.0.1:{port}"}
    async with running(database, **settings) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        queries = server.app.runtime.hub.queries
        size = queries.free
        forged = [
            asyncio.create_task(
                callers.client(jwt.encode({}, key, "ES256", {"kid": f"k{n}"})).get(
                    f"{tenant.path}/stream"
                )
            )
            for n in range(3 * size)
        ]
        await hangs.wait()
        await asyncio.sleep(0.3)
        assert queries.free == size
        reading = await callers.key(tenant.id, "events:read")
        for caller in (tenant.owner, reading):
            async with caller.client.stream("GET", f"{tenant.path}/stream") as answer:
                assert answer.status_code == 200
        for task in forged:
            task.cancel()
        await asyncio.gather(*forged, return_exceptions=True)
        ends.set()
    host.close()
    await host.wait_closed()


@pytest.mark.parametrize("kind", ["key", "ticket"])
async def test_the_look_up_of_a_streams_key_takes_a_turn(
    kind: str, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        key = await callers.key(tenant.id, "events:read")
        url, client = f"{tenant.path}/stream", key.client
        if kind == "ticket":
            body = {"path": url}
            made = await client.post("/api/v1/stream/tickets", json=body)
            url, client = made.json()["url"], callers.client()
        queries, look_up = server.app.runtime.hub.queries, keys.look_up
        seen = list[int]()

        async def watched(*arguments: Any) -> Principal:
            seen.append(queries.under_way.total())
            return await look_up(*arguments)

        monkeypatch.setattr(keys, "look_up", watched)
        async with client.stream("GET", url) as answer:
            assert answer.status_code == 200
        assert set(seen) == {1}  # perhaps again, as its rights may have changed meanwhile


async def test_what_a_reader_sees_is_looked_up_in_its_own_turn_and_not_its_addresss(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        queries, sight = server.app.runtime.hub.queries, Source.sight
        seen = list[str]()

        async def watched(source: Source) -> tuple[Feed, Sight]:
            seen.extend(queries.under_way)
            return await sight(source)

        monkeypatch.setattr(Source, "sight", watched)
        async with opened(tenant) as answer:
            assert answer.status_code == 200
        assert seen == [f"user:{tenant.owner.user_id}"]
