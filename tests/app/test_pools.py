"""The pool: how many connections there are, which one is lent, and what becomes of it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from app.database.drivers import Driver
from app.database.pools import Pool
from app.errors import InternalError, Unavailable
from app.problems import read
from app.supervision import Supervised, using
from tests.conftest import TestDatabase
from tests.realtime.reader import until


@pytest.fixture
async def pool(database: TestDatabase) -> AsyncIterator[Pool]:
    made = Pool("DATABASE_URL", database.url("annex_api"), 2)
    yield made
    made.close()


async def test_the_connection_that_was_used_last_is_lent_first(pool: Pool) -> None:
    async with pool.lend() as first, pool.lend() as second:
        assert first is not second
    async with pool.lend() as driver:
        assert driver is first
    assert len(pool.open) == 2


async def test_no_more_connections_are_open_than_its_size(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.pools.ACQUIRE_SECONDS", 0.01)
    async with pool.lend(), pool.lend():
        with pytest.raises(Unavailable, match="busy"):
            async with pool.lend():
                pass
        assert (len(pool.open), pool.lent) == (2, 2)
    async with pool.lend() as driver:
        assert await driver.fetchval("select 1") == 1


async def test_who_waits_gets_the_connection_that_comes_back(pool: Pool) -> None:
    async def ask() -> int:
        async with pool.lend() as driver:
            found: int = await driver.fetchval("select pg_backend_pid()")
            return found

    assert len(set(await asyncio.gather(*(ask() for _ in range(20))))) == 2
    assert (len(pool.open), len(pool.idle), pool.lent) == (2, 2, 0)


async def test_a_connection_that_nobody_uses_is_closed(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.pools.IDLE_SECONDS", 0.05)
    async with pool.lend() as first, pool.lend() as second:
        pass
    await until(first.is_closed)
    await until(second.is_closed)
    assert (pool.open, pool.idle, pool.timer) == (set(), {}, None)


async def test_an_idle_connection_that_the_server_ended_is_not_lent(
    pool: Pool, database: TestDatabase
) -> None:
    async with pool.lend() as driver:
        pid = driver.get_server_pid()
    async with database.connect("postgres") as admin:
        await admin.execute("select pg_terminate_backend($1)", pid)
    await until(driver.is_closed)
    async with pool.lend() as other:
        assert await other.fetchval("select 1") == 1
    assert pool.open == {other}


async def test_a_connection_with_an_open_transaction_is_closed(pool: Pool) -> None:
    async with pool.lend() as driver:
        await driver.execute("begin")
    assert driver.is_closed()
    assert pool.open == set()


async def wrong_count(driver: Driver) -> None:
    await driver.fetchval("select $1::int", 1, 2)


async def two_at_once(driver: Driver) -> None:
    await asyncio.gather(driver.fetchval("select pg_sleep(1)"), driver.fetchval("select 1"))


@pytest.mark.parametrize("misuse", [wrong_count, two_at_once])
async def test_a_call_that_we_made_wrong_is_no_outage(
    misuse: Callable[[Driver], Awaitable[None]], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(asyncpg.InterfaceError) as raised:
        async with pool.lend() as driver:
            await misuse(driver)
    assert isinstance(read(raised.value), InternalError)
    # Nor is it of a background task, whose connection is closed in any case.
    task = Supervised("wrong", using(pool, misuse))
    told = list[Any]()
    monkeypatch.setattr(
        "app.supervision.log.warning", lambda *_, **named: told.append(named), raising=False
    )
    keeping = asyncio.create_task(task.keep())
    await until(lambda: task.restarts > 0)
    keeping.cancel()
    await asyncio.wait({keeping})
    assert isinstance(told[0]["exc_info"], asyncpg.InterfaceError)
    async with pool.lend() as another:
        assert another is not driver
        assert await another.fetchval("select 1") == 1


async def test_a_call_on_a_connection_that_was_lost_is_an_outage(pool: Pool) -> None:
    async def ask() -> None:
        async with pool.lend() as driver:
            driver.terminate()
            await driver.fetchval("select 1")

    with pytest.raises(Unavailable, match="cannot be reached"):
        await ask()


async def test_a_cancelled_wait_gives_its_place_back(pool: Pool) -> None:
    async def ask() -> None:
        async with pool.lend():
            pass

    async with pool.lend(), pool.lend():
        waiting = asyncio.create_task(ask())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    await ask()
    assert (pool.lent, len(pool.idle)) == (0, 2)


async def test_what_opens_while_the_pool_is_closed_is_closed_as_well(pool: Pool) -> None:
    async def ask() -> None:
        async with pool.lend():
            raise AssertionError("lent by a closed pool")

    opening = asyncio.create_task(ask())
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(Unavailable):
        await opening
    assert pool.open == set()


async def test_a_migration_makes_one_statement_fail_and_not_one_of_each_connection(
    own_database: TestDatabase,
) -> None:
    pool = Pool("DATABASE_URL", own_database.url("postgres"), 3)
    async with pool.lend() as one, pool.lend() as two, pool.lend() as three:
        await one.execute("create table moved (n integer)")
        for driver in (one, two, three):
            await driver.fetch("select * from moved")
        await one.execute("alter table moved add other integer")
        await one.execute("begin")
        with pytest.raises(asyncpg.InvalidCachedStatementError) as failed:
            await one.fetch("select * from moved")
        await one.execute("rollback")
        for driver in (one, two, three):
            await driver.execute("begin")
            assert await driver.fetch("select * from moved") == []
            await driver.execute("commit")
    pool.close()
    # And who met it may come again.
    assert isinstance(read(failed.value), Unavailable)


async def test_a_server_that_is_silent_is_not_a_pool_that_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.database.pools.CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        pool = Pool("DATABASE_URL", f"postgresql://annex_api@127.0.0.1:{port}/annex", 1)
        with pytest.raises(Unavailable, match="cannot be reached"):
            async with pool.lend():
                pass
    assert (pool.refused, pool.lent, pool.places.locked()) == ({}, 0, False)
    pool.close()
