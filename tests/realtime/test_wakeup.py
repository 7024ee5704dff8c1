"""Processes that wake each other, as far as nothing depends on it."""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from tests.conftest import Running, Tenant, TestDatabase, running
from tests.realtime.reader import calling, elsewhere, follow, new_tenant, number, until

LISTENING = """
select pid from pg_stat_activity
where datname = current_database() and usename = 'annex_worker'
and (query ilike 'listen%' or query like 'notify%')
"""


class Two(NamedTuple):
    """Two servers of one database, whose processes are strangers but for that."""

    one: Running
    other: Running
    tenant: Tenant
    client: httpx.AsyncClient
    """The tenant's owner, on the other server."""


@contextlib.asynccontextmanager
async def two_servers(database: TestDatabase) -> AsyncIterator[Two]:
    """Start both, and wait until they listen."""
    async with (
        running(database) as one,
        calling(one) as callers,
        running(database) as other,
        calling(other) as others,
    ):
        tenant = await new_tenant(callers)
        await listening(database)
        # The tenant's own events, or streams there would begin with them.
        await other.app.runtime.tail.catch_up()
        yield Two(one, other, tenant, elsewhere(tenant, others).owner.client)


async def listening(database: TestDatabase, gone: tuple[int, ...] = ()) -> list[int]:
    """Wait until two processes listen that are not of those that are gone; returns their pids."""
    async with asyncio.timeout(20), database.connect("postgres") as admin:
        while True:
            pids = [row["pid"] for row in await admin.fetch(LISTENING) if row["pid"] not in gone]
            if len(pids) == 2:
                return pids
            await asyncio.sleep(0.02)


ASLEEP = (0.005, 60.0, 60.0)
"""Waits of tails that sleep until they are woken, some twenty reads after the last time.

Those are needed: who is woken while another process gives the positions finds none yet.
"""
FALL_ASLEEP_SECONDS = 0.5


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the tails only what wakes them."""
    monkeypatch.setattr("app.realtime.tail.WAITS", ASLEEP)


@pytest.mark.usefixtures("no_polling")
async def test_a_commit_in_one_process_wakes_the_tails_of_others(
    own_database: TestDatabase,
) -> None:
    async with two_servers(own_database) as two:
        async with follow(two.client, f"{two.tenant.path}/stream") as reader:
            await reader.message()
            for n in range(5):
                await asyncio.sleep(FALL_ASLEEP_SECONDS)
                await number(two.tenant, str(n))
                assert await reader.names(1) == [str(n)]


async def test_a_lost_listener_loses_nothing_and_comes_back(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_servers(own_database) as two:
        gone = await listening(own_database)
        async with follow(two.client, f"{two.tenant.path}/stream") as reader:
            await reader.message()
            async with own_database.connect("postgres") as admin:
                for pid in gone:
                    await admin.execute("select pg_terminate_backend($1)", pid)
                await number(two.tenant, "polled")
                assert await reader.names(1) == ["polled"]
            await listening(own_database, tuple(gone))
            monkeypatch.setattr("app.realtime.tail.WAITS", ASLEEP)
            for tail in (two.one.app.runtime.tail, two.other.app.runtime.tail):
                await tail.catch_up()  # so that none still waits as long as before
            await asyncio.sleep(FALL_ASLEEP_SECONDS)
            await number(two.tenant, "notified")
            assert await reader.names(1) == ["notified"]


async def test_many_commits_are_told_once_and_empty(own_database: TestDatabase) -> None:
    told: list[object] = []
    async with two_servers(own_database) as two, own_database.connect("postgres") as admin:
        await admin.add_listener("annex_log", lambda *args: told.append(args[3]))
        for _ in range(100):
            two.one.app.runtime.tail.wake()
        await until(lambda: bool(told))
        # Notifications come in the order of their commits.
        await admin.execute("select pg_notify('annex_log', 'end')")
        await until(lambda: told[-1] == "end")
    assert told == ["", "end"]


async def test_from_one_process_to_a_reader_of_another(own_database: TestDatabase) -> None:
    """Print how long it takes, with wake-ups and without; a time limit would test the machine."""
    async with two_servers(own_database) as two:
        for name, others in (("woken", two.one.app.runtime.tail.others), ("polling", None)):
            two.one.app.runtime.tail.others = others
            found = list[float]()
            async with follow(two.client, f"{two.tenant.path}/stream") as reader:
                await reader.message()
                for n in range(3):
                    # Into a tail that has been idle for about as long as it takes to poll rarely.
                    await asyncio.sleep(0.8)
                    began = time.perf_counter()
                    published = asyncio.create_task(number(two.tenant, str(n)))
                    assert await reader.names(1) == [str(n)]
                    found.append((time.perf_counter() - began) * 1000)
                    await published
            median, most = statistics.median(found), max(found)
            sys.stdout.write(f"{name}: POST to reader p50 {median:.1f} ms, max {most:.1f} ms\n")
