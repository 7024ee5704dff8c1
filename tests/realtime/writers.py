"""Writers that commit out of order and keep their own record, and readers that come and go."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx
from httpx_sse import SSEError

from app.database.pools import NOT_OPENED
from tests.conftest import TestDatabase
from tests.realtime.reader import follow, until

WRITERS, ENTITIES = 20, 6
LAST = "last"
# What a writer sees of a server that goes down, and a reader of one.
CUT_OFF = (*NOT_OPENED, asyncpg.OperatorInterventionError)
GONE = (httpx.TransportError, SSEError, StopAsyncIteration)


class Written(NamedTuple):
    """What a writer committed, by its own account."""

    entity: int
    counter: int
    key: str


class Load:
    """Writers who count entities up and publish each count in the same transaction.

    Some change two at once, some are rolled back. `committed` is what got the answer to its COMMIT,
    `unknown` what was cut off while it waited for that.
    """

    def __init__(
        self, database: TestDatabase, workspace_id: str, seed: int, pause_seconds: float = 0.02
    ) -> None:
        self.database = database
        self.workspace_id = UUID(workspace_id)
        self.seed = seed
        self.pause_seconds = pause_seconds
        self.committed: list[Written] = []
        self.unknown: list[Written] = []
        self.rolled_back = 0
        self.is_over = False

    @contextlib.asynccontextmanager
    async def writing(self, writers: int = WRITERS) -> AsyncIterator[None]:
        """Let the writers write meanwhile, then publish the last event of all."""
        async with self.database.connect("postgres") as admin:
            await admin.execute("create table entities (id int primary key, counter int not null)")
            await admin.execute(
                "insert into entities select n, 0 from generate_series(0, $1) n", ENTITIES
            )
        tasks = [asyncio.create_task(self.write(n)) for n in range(writers)]
        try:
            yield
            self.is_over = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with self.database.connect("postgres") as admin:
            self.committed.append(await self.change(admin, ENTITIES, LAST))

    async def more(self, count: int, seconds: float = 40) -> None:
        """Wait until so many more events were committed."""
        wanted = len(self.committed) + count
        await until(lambda: len(self.committed) >= wanted, seconds)

    async def write(self, name: int) -> None:
        """Write turn after turn; begin again with a new connection when the server went away."""
        drawn, turns = random.Random(f"{self.seed} {name}"), itertools.count()
        while not self.is_over:
            try:
                async with self.database.connect("postgres") as connection:
                    while not self.is_over:
                        await self.take_turn(connection, drawn, f"{name}-{next(turns)}")
            except CUT_OFF:
                await asyncio.sleep(0.05)

    async def take_turn(
        self, connection: "asyncpg.Connection[Any]", drawn: random.Random, name: str
    ) -> None:
        """Change one entity or two in a transaction, and publish that."""
        # In order of their ids, or two writers would wait for each other.
        entities = sorted(drawn.sample(range(ENTITIES), drawn.choice((1, 1, 2))))
        mine: list[Written] = []
        transaction = connection.transaction()
        await transaction.start()
        for entity in entities:
            mine.append(await self.change(connection, entity, f"{name}-{entity}"))
            await asyncio.sleep(drawn.random() * 0.004)
        if drawn.random() < 0.1:
            await transaction.rollback()
            self.rolled_back += 1
            return
        try:
            await transaction.commit()
        except BaseException:
            self.unknown += mine
            raise
        self.committed += mine
        await asyncio.sleep(drawn.random() * self.pause_seconds)

    async def change(self, connection: "asyncpg.Connection[Any]", entity: int, key: str) -> Written:
        """Count an entity up, which locks it, and publish that."""
        counter: int = await connection.fetchval(
            "update entities set counter = counter + 1 where id = $1 returning counter", entity
        )
        await connection.execute(
            "select annex.publish($1, 'entity.counted', jsonb_build_object('entity', $2::int,"
            " 'counter', $3::int), key => $4)",
            self.workspace_id,
            entity,
            counter,
            key,
        )
        return Written(entity, counter, key)

    def check(self, readers: Sequence["Follower"]) -> None:
        """Hold what each reader got against the record: nothing missing, nothing twice, in order.

        What was cut off in its COMMIT may be there or not, but for all readers alike.
        """
        for reader in readers:
            twice = [event for event, times in Counter(reader.got).items() if times > 1]
            assert not twice, f"twice: {twice[:10]}"
            missing = set(self.committed).difference(reader.got)
            assert not missing, f"missing: {sorted(missing)[:10]}"
            foreign = set(reader.got).difference(self.committed, self.unknown)
            assert not foreign, f"never committed: {sorted(foreign)[:10]}"
            assert rising(reader.got)
            assert reader.got == readers[0].got


def rising(events: Sequence[Written]) -> bool:
    """Say whether each entity's counter only rises."""
    counters = defaultdict[int, list[int]](list)
    for event in events:
        counters[event.entity].append(event.counter)
    return all(found == sorted(set(found)) for found in counters.values())


class Follower:
    """Reads a stream in many connections, each from the last cursor, from whichever server answers.

    `places` are clients of one server or of several, in the order in which it tries them.
    """

    def __init__(
        self, places: Sequence[httpx.AsyncClient], path: str, cursor: str, seed: int
    ) -> None:
        self.places = places
        self.path = path
        self.cursor = cursor
        self.drawn = random.Random(seed)
        self.got: list[Written] = []
        self.connections = 0

    async def read(self, load: Load, seconds: float = 20) -> None:
        """Read up to the last event; TimeoutError when none comes for so many seconds."""
        place = 0
        while not self.got or self.got[-1].key != LAST:
            patience = self.drawn.randint(1, 60)
            try:
                await self.connect(load, self.places[place % len(self.places)], patience, seconds)
            except GONE:
                place += 1
                await asyncio.sleep(0.05)
            await asyncio.sleep(self.drawn.random() * 0.05)

    async def connect(
        self, load: Load, client: httpx.AsyncClient, patience: int, seconds: float
    ) -> None:
        """Read some events of one connection, or, when the writers are done, the rest."""
        async with follow(client, self.path, self.cursor, types="entity.*") as reader:
            self.connections += 1
            while patience > 0 or load.is_over:
                message = await reader.message(seconds)
                self.cursor = reader.cursor
                if message.event == "cursor":
                    continue
                assert message.event == "message", message
                event = message.json()
                self.got.append(Written(**event["data"], key=event["key"]))
                if self.got[-1].key == LAST:
                    return
                patience -= 1
