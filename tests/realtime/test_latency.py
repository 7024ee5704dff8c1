import asyncio
import statistics
import sys
import time

import pytest

from tests.conftest import Tenant, TestDatabase, running
from tests.realtime.reader import calling, follow, new_tenant, number


async def test_an_event_published_over_rest_is_on_the_stream_at_once(tenant: Tenant) -> None:
    sent, arrived = list[float](), list[float]()
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        await reader.message()

        async def receive() -> None:
            for _ in range(20):
                await reader.event()
                arrived.append(time.perf_counter())

        receiving = asyncio.create_task(receive())
        for n in range(20):
            sent.append(time.perf_counter())
            await number(tenant, str(n))
            # From a tail that polls every 5 ms, to one that has gone idle.
            await asyncio.sleep(0.01 * n)
        await receiving
    milliseconds = sorted((b - a) * 1000 for a, b in zip(sent, arrived, strict=True))
    median = statistics.median(milliseconds)
    sys.stdout.write(f"p50 {median:.1f} ms, max {milliseconds[-1]:.1f}\n")
    assert median < 500


async def test_a_tail_rests_by_what_it_read(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests, sleep = list[float](), asyncio.sleep

    async def spy(seconds: float) -> None:
        rests.append(seconds)
        await sleep(seconds)

    async with running(own_database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        # Of streams here, events, seconds.
        for streams, count, rest in ((0, 1, 0.02), (1, 1, 0.0002), (1, 100, 0.02), (0, 500, 0.05)):
            monkeypatch.setattr(server.app.runtime.hub.counts, "connections", streams)
            rests.clear()
            with monkeypatch.context() as patched:
                patched.setattr("app.realtime.tail.asyncio.sleep", spy)
                await number(tenant, *map(str, range(count)))
                await server.app.runtime.tail.catch_up()
                # A read begins only when the rest after the one before is over.
                await server.app.runtime.tail.catch_up()
            assert pytest.approx(rest) in rests
