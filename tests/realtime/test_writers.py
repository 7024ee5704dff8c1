"""Writers that commit out of order, and readers that come and go: nothing lost, nothing twice."""

import asyncio

from tests.conftest import TestDatabase, running
from tests.realtime.reader import calling, cursor_at_head, new_tenant
from tests.realtime.writers import Follower, Load

SEED = 20261123


async def test_each_reader_gets_what_the_writers_committed_once_and_in_order(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        load = Load(own_database, tenant.id, SEED)
        start, path = cursor_at_head(server, tenant), f"{tenant.path}/stream"
        readers = [Follower([tenant.owner.client], path, start, SEED + n) for n in range(2)]
        reading = [asyncio.create_task(r.read(load)) for r in readers]
        async with load.writing():
            await load.more(400)
        await asyncio.gather(*reading)
    load.check(readers)
    assert load.rolled_back
    assert not load.unknown
