"""What runs beside requests, on a connection of its own."""

import asyncio

import pytest

from app.database.drivers import Driver
from app.database.pools import Pool
from app.supervision import Supervised, using
from tests.conftest import TestDatabase, settings_for


@pytest.mark.parametrize("has_failed", [False, True])
async def test_a_cancelled_task_ends_and_its_connection_is_closed(
    database: TestDatabase, has_failed: bool
) -> None:
    settings = settings_for(database)
    pool = Pool("WORKER_DATABASE_URL", settings.worker_database_url, 1)
    begun, pids = asyncio.Queue[None](), list[int]()

    async def use(driver: Driver) -> None:
        pids.append(await driver.fetchval("select pg_backend_pid()"))
        begun.put_nowait(None)
        if has_failed and len(pids) == 1:
            raise ValueError("once")
        await asyncio.Event().wait()

    task = asyncio.create_task(Supervised("test", using(pool, use)).keep())
    try:
        for _ in range(1 + has_failed):
            await begun.get()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=10)
        assert done == {task}
        assert task.cancelled()
        assert len(set(pids)) == 1 + has_failed
        async with pool.lend() as driver:
            assert await driver.fetchval("select pg_backend_pid()") not in pids
    finally:
        task.cancel()
        pool.close()
