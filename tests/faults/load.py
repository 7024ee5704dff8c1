"""Writers and readers around a fault, and the comparison at the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from tests import conftest
from tests.conftest import Running, TestDatabase
from tests.faults.seed import SEED
from tests.realtime.reader import calling, elsewhere
from tests.realtime.writers import Follower, Load


@contextlib.asynccontextmanager
async def load_and_readers(
    database: TestDatabase, places: Sequence[Running], count: int = 4, pause_seconds: float = 0.02
) -> AsyncIterator[tuple[Load, list[Follower]]]:
    """Write and read meanwhile, on one server or several; then hold each reader to the record."""
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(calling(place)) for place in places]
        tenant = await conftest.new_tenant(callers[0])
        clients = [elsewhere(tenant, c).owner.client for c in callers]
        listed = await clients[0].get(f"{tenant.path}/events")
        start, path = listed.json()["stream_cursor"], f"{tenant.path}/stream"
        load = Load(database, tenant.id, SEED, pause_seconds)
        # Each has another server in the first place.
        readers = [
            Follower([*clients[n % len(clients) :], *clients[: n % len(clients)]], path, start, n)
            for n in range(count)
        ]
        reading = [asyncio.create_task(r.read(load)) for r in readers]
        try:
            async with load.writing():
                yield load, readers
            # One who comes when all is over reads the same from the database alone.
            readers.append(Follower(clients, path, start, SEED))
            await asyncio.gather(*reading, readers[-1].read(load))
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
        load.check(readers)
