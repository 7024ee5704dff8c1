"""A tail that was away for too long, or was moved, says so; it never skips in silence."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from app.realtime.tail import Tail
from tests.conftest import Running, TestDatabase, running
from tests.realtime.reader import calling, follow, new_tenant, number, until


@pytest.fixture
async def live(own_database: TestDatabase) -> AsyncIterator[Running]:
    """A server whose log a test may spoil."""
    async with running(own_database) as made:
        yield made


@contextlib.asynccontextmanager
async def asleep(tail: Tail) -> AsyncIterator[None]:
    """Let a tail do nothing for a while."""
    async with tail.read_finished:
        yield


async def run(database: TestDatabase, *statements: str) -> None:
    """Do what only time or a mistake does."""
    async with database.connect("postgres") as admin:
        for statement in statements:
            await admin.execute(statement)


async def give_positions(database: TestDatabase) -> None:
    """Do what another process' tail would do meanwhile."""
    async with database.connect("annex_worker") as worker:
        await worker.execute("select from annex.tail(0)")


async def test_a_gap_is_counted_and_every_reader_is_reset_behind_it(live: Running) -> None:
    tail, hub = live.app.runtime.tail, live.app.runtime.hub
    async with calling(live) as callers:
        tenant = await new_tenant(callers)
        path = f"{tenant.path}/stream"
        async with follow(tenant.owner.client, path) as reader:
            before = (await reader.message()).id
            start = hub.head
            async with asleep(tail):
                await number(tenant, *map(str, range(10)))
                await give_positions(live.database)
                lost = f"pos - {start} in (3, 4, 7)"
                await run(live.database, f"delete from annex.log where {lost}")
            assert await reader.names(2) == ["0", "1"]
            assert (await reader.message()).event == "reset"
            assert (tail.gaps, hub.head) == (1, start + 10)
            await number(tenant, "next")
            assert await reader.names(1) == ["next"]
        async with follow(tenant.owner.client, path, before) as reader:
            assert (await reader.message()).event == "reset"
        async with follow(tenant.owner.client, path, reader.cursor) as reader:
            await number(tenant, "on")
            assert await reader.names(1) == ["on"]


async def test_a_log_that_begins_after_what_was_read_is_a_gap(live: Running) -> None:
    tail, hub = live.app.runtime.tail, live.app.runtime.hub
    async with calling(live) as callers:
        tenant = await new_tenant(callers)
        async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
            await reader.message()
            async with asleep(tail):
                await number(tenant, "1", "2")
                await give_positions(live.database)
                await run(
                    live.database,
                    "delete from annex.log",
                    "update annex.log_state set retained_from = head + 1",
                )
                tail.reopen_at = 0
            assert (await reader.message()).event == "reset"
            await number(tenant, "3")
            assert await reader.names(1) == ["3"]
    assert (tail.gaps, hub.retained_from) == (1, hub.head)


async def test_whats_no_longer_kept_is_learnt_while_following(live: Running) -> None:
    tail, hub = live.app.runtime.tail, live.app.runtime.hub
    async with calling(live) as callers:
        tenant = await new_tenant(callers)
        async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
            cursor = (await reader.message()).id
            await number(tenant, "1", "2")
            await reader.names(2)
        await run(
            live.database,
            f"delete from annex.log where pos < {hub.head}",
            f"update annex.log_state set retained_from = {hub.head}",
        )
        tail.reopen_at = 0
        await until(lambda: hub.retained_from == hub.head)
        async with follow(tenant.owner.client, f"{tenant.path}/stream", cursor) as reader:
            assert (await reader.message()).event == "reset"
    assert tail.gaps == 0


async def test_another_epoch_behind_the_same_connection_is_noticed(live: Running) -> None:
    tail, hub = live.app.runtime.tail, live.app.runtime.hub
    async with calling(live) as callers:
        tenant = await new_tenant(callers)
        async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
            await reader.message()
            # As a server does that was restored: it is not the one that gave the positions.
            epoch = hub.epoch
            await run(live.database, "update annex.log_state set system_identifier = 1")
            tail.reopen_at = 0
            assert (await reader.message()).event == "reset"
            await number(tenant, "after")
            assert await reader.names(1) == ["after"]
    assert (hub.epoch, tail.gaps) == (epoch + 1, 0)
