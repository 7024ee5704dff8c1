"""A background task that holds a connection: what ends it is told, and it ends when it shall."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.database.drivers import Driver
from app.database.pools import Pool
from app.errors import Unavailable
from app.supervision import Supervised, using
from tests.conftest import TestDatabase
from tests.realtime.reader import lent, until


@pytest.fixture
async def pool(database: TestDatabase) -> AsyncIterator[Pool]:
    made = Pool("WORKER_DATABASE_URL", database.url("annex_worker"), 2)
    yield made
    made.close()


async def asleep(driver: Driver) -> None:
    """Wait in Python, as a tail does between reads."""
    await driver.execute("select 1")
    await asyncio.Event().wait()


async def in_a_statement(driver: Driver) -> None:
    """Wait for the server."""
    await driver.execute("select pg_sleep(600)", timeout=600)


@pytest.mark.parametrize("use", [asleep, in_a_statement])
async def test_a_cancelled_task_ends_and_its_connection_is_closed(
    pool: Pool, use: Callable[[Driver], Awaitable[None]]
) -> None:
    task = Supervised("task", using(pool, use))
    keeping = asyncio.create_task(task.keep())
    await until(lambda: lent(pool) == 1)
    await asyncio.sleep(0.05)
    keeping.cancel()
    await asyncio.wait({keeping}, timeout=10)
    assert keeping.cancelled()
    assert (task.restarts, pool.open) == (0, set())


async def test_an_error_of_the_task_is_the_one_that_is_told(pool: Pool) -> None:
    async def fail(_: Driver) -> None:
        raise ArithmeticError("this task is broken")

    with pytest.raises(ArithmeticError):
        await using(pool, fail)()
    assert pool.open == set()


async def test_a_connection_that_the_server_ended_is_unavailable_and_not_lent_again(
    pool: Pool, database: TestDatabase
) -> None:
    async def outlive(driver: Driver) -> None:
        async with database.connect("postgres") as admin:
            await admin.execute("select pg_terminate_backend($1)", driver.get_server_pid())
        while True:
            await driver.execute("select 1")

    with pytest.raises(Unavailable):
        await using(pool, outlive)()
    async with pool.lend() as driver:
        assert await driver.fetchval("select 1") == 1
