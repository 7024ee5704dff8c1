import asyncio
import statistics
import sys
import time

from tests.conftest import Tenant
from tests.realtime.reader import follow, number


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
    sys.stdout.write(f"p50 {statistics.median(milliseconds):.1f} ms, max {milliseconds[-1]:.1f}\n")
    assert milliseconds[-1] < 500
