"""Writers that commit out of order, and readers that come and go: nothing lost, nothing twice."""

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from tests.conftest import Tenant, TestDatabase, running
from tests.realtime.reader import calling, follow, new_tenant

WRITERS, ROUNDS, ENTITIES = 20, 25, 6
SEED = 20261123


class Written(NamedTuple):
    """What a writer committed, by its own account."""

    entity: int
    counter: int
    key: str


class RolledBack(Exception):
    """A writer changed its mind."""


async def write(
    database: TestDatabase, workspace_id: UUID, name: int, committed: list[Written]
) -> None:
    """Change entities and publish each change in the same transaction; some are rolled back."""
    drawn = random.Random(SEED + name)
    async with database.connect("postgres") as connection:
        for round in range(ROUNDS):
            # In order of their ids, or two writers would wait for each other.
            entities = sorted(drawn.sample(range(ENTITIES), drawn.choice((1, 1, 2))))
            mine: list[Written] = []
            try:
                async with connection.transaction():
                    for entity in entities:
                        key = f"{name}-{round}-{entity}"
                        mine.append(await change(connection, workspace_id, entity, key))
                        await asyncio.sleep(drawn.random() * 0.004)
                    if drawn.random() < 0.1:
                        raise RolledBack
            except RolledBack:
                continue
            committed += mine
            await asyncio.sleep(drawn.random() * 0.02)


async def change(
    connection: "asyncpg.Connection[Any]", workspace_id: UUID, entity: int, key: str
) -> Written:
    """Count an entity up, which locks it, and publish that."""
    counter: int = await connection.fetchval(
        "update entities set counter = counter + 1 where id = $1 returning counter", entity
    )
    await connection.execute(
        "select annex.publish($1, 'entity.counted', jsonb_build_object('entity', $2::int,"
        " 'counter', $3::int), key => $4)",
        workspace_id,
        entity,
        counter,
        key,
    )
    return Written(entity, counter, key)


async def read(
    tenant: Tenant, seed: int, cursor: str, done: asyncio.Event, last: str
) -> list[Written]:
    """Follow the stream in many short connections, each from the last cursor, up to an event."""
    drawn, got = random.Random(seed), list[Written]()
    path = f"{tenant.path}/stream"
    while not got or got[-1].key != last:
        patience = drawn.randint(1, 25)
        async with follow(tenant.owner.client, path, cursor, types="entity.*") as reader:
            while patience > 0 or done.is_set():
                event = await reader.event()
                got.append(Written(**event["data"], key=event["key"]))
                cursor, patience = reader.cursor, patience - 1
                if got[-1].key == last:
                    break
        await asyncio.sleep(drawn.random() * 0.05)
    return got


async def test_each_reader_gets_what_the_writers_committed_once_and_in_order(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        committed: list[Written] = []
        async with own_database.connect("postgres") as admin:
            await admin.execute("create table entities (id int primary key, counter int not null)")
            await admin.execute(
                "insert into entities select n, 0 from generate_series(0, $1) n", ENTITIES
            )
            start = server.app.state.hub.cursor()
            done = asyncio.Event()
            readers = [
                asyncio.create_task(read(tenant, SEED + n, start, done, "last")) for n in (100, 200)
            ]
            workspace_id = UUID(tenant.id)
            await asyncio.gather(
                *(write(own_database, workspace_id, n, committed) for n in range(WRITERS))
            )
            committed.append(await change(admin, workspace_id, ENTITIES, "last"))
            done.set()
        got = await asyncio.gather(*readers)
    assert len(committed) > WRITERS * ROUNDS / 2
    for events in got:
        assert Counter(events) == Counter(committed)
        assert rising(events)
    assert got[0] == got[1]


def rising(events: list[Written]) -> bool:
    """Say whether each entity's counter only rises."""
    counters = defaultdict[int, list[int]](list)
    for event in events:
        counters[event.entity].append(event.counter)
    return all(found == sorted(set(found)) for found in counters.values())
