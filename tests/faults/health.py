"""That a server is, after a fault, as it was before."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from unittest.mock import patch

from tests.conftest import Running
from tests.realtime.reader import calling, follow, lent, new_tenant, number, until


@contextlib.asynccontextmanager
async def healthy(server: Running, seconds: float = 15) -> AsyncIterator[None]:
    """Hold that a server keeps nothing of what happens inside, and that a new event still flows.

    Nothing kept: no channel, place, waiting reader, task, pending future or pool's connection.
    """
    state = server.app.runtime
    # What a server opens at its start, and keeps, is not what a fault left behind.
    await until(lambda: lent(state.database.worker) == len(state.tail.tasks()), seconds)
    await until(lambda: bool(state.tail.is_following), seconds)
    tasks, futures = asyncio.all_tasks(), 0
    for _ in range(5):
        # One that was just set, and whose task is yet to run, is missing for a moment.
        futures = max(futures, count_pending())
        await asyncio.sleep(0.02)
    yield
    await until(lambda: bool(state.tail.is_following), seconds)
    async with calling(server) as callers:
        tenant = await new_tenant(callers)
        async with follow(tenant.owner.client, f"{tenant.path}/stream", types="test.*") as reader:
            assert (await reader.message()).event == "cursor"
            await number(tenant, "fresh")
            assert await reader.names(1) == ["fresh"]
    # A channel stays a minute for readers that come back; these do not.
    with patch("app.realtime.hub.LINGER_SECONDS", 0.0):
        await until(lambda: not state.hub.channels, seconds)
    assert state.hub.counts.connections == 0
    assert not state.hub.waiting()
    await until(lambda: lent(state.database.api) == 0, seconds)
    try:
        await until(lambda: len(asyncio.all_tasks()) <= len(tasks), seconds)
        await until(lambda: count_pending() <= futures, seconds)
    except TimeoutError:
        left = asyncio.all_tasks() - tasks
        raise AssertionError(f"tasks {left}, futures {count_pending() - futures}") from None


def count_pending() -> int:
    """Count the futures that nobody has set, tasks among them."""
    gc.collect()
    return sum(isinstance(o, asyncio.Future) and not o.done() for o in gc.get_objects())
