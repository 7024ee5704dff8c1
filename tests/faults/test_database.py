"""A Postgres that crashes, falls silent, is far away, or comes back as an earlier copy."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from app.dev.postgres import EmbeddedPostgres, chosen, programs
from tests.conftest import Running, TestDatabase, execute, running
from tests.faults.conftest import Crashable
from tests.faults.health import healthy
from tests.faults.load import load_and_readers
from tests.faults.proxy import Link, Proxy, proxying, through, to_database
from tests.faults.seed import SCALE, SEED
from tests.realtime.reader import calling, elsewhere, follow, new_tenant, number, until

EVENTS = 150 * SCALE
SILENCE_SECONDS = 1
"""How long a silent database is waited for, here; ten seconds else."""


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGKILL], ids=["immediate", "kill -9"])
async def test_what_was_committed_outlives_a_crash_of_postgres_for_every_reader(
    crashable: Crashable, number: signal.Signals
) -> None:
    drawn = random.Random(SEED)
    database = TestDatabase(crashable, "postgres")
    async with running(database) as server, healthy(server):
        async with load_and_readers(database, [server], pause_seconds=0.1) as (load, _):
            for _ in range(2 * SCALE):
                await load.more(EVENTS)
                await asyncio.sleep(drawn.random() * 0.05)
                crashable.crash(number)
                crashable.start()
            await load.more(EVENTS)


@contextlib.asynccontextmanager
async def behind_proxy(database: TestDatabase) -> AsyncIterator[tuple[Running, Proxy]]:
    """Serve with a proxy between the tail and the database."""
    url = database.url("annex_worker")
    async with (
        proxying(to_database(url)) as proxy,
        running(database, worker_database_url=through(proxy, url)) as server,
    ):
        yield server, proxy


async def test_a_database_that_falls_silent_is_left_and_nothing_is_lost(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.tail.ANSWER_SECONDS", SILENCE_SECONDS)
    async with behind_proxy(own_database) as (server, proxy), healthy(server):
        async with load_and_readers(own_database, [server], pause_seconds=0.1) as (load, readers):
            for _ in range(2 * SCALE):
                await load.more(EVENTS)
                dark = len(proxy.links)
                for link in proxy.links:
                    link.go_dark()
                await until(lambda: len(proxy.links) > dark, SILENCE_SECONDS + 10)  # noqa: B023
                got = len(readers[0].got)
                await until(lambda: len(readers[0].got) > got, 20)  # noqa: B023
        proxy.forget()


async def test_a_listener_that_alone_falls_silent_is_replaced_and_its_tail_polls_meanwhile(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.tail.ANSWER_SECONDS", SILENCE_SECONDS)
    monkeypatch.setattr("app.realtime.wakeup.LISTEN_AGAIN_SECONDS", SILENCE_SECONDS)
    monkeypatch.setattr("app.realtime.wakeup.ANSWER_SECONDS", SILENCE_SECONDS)
    async with (
        running(own_database) as writing,
        behind_proxy(own_database) as (server, proxy),
        healthy(server),
    ):

        def listeners() -> list[Link]:
            return [link for link in proxy.links if b"annex_log" in link.asked]

        await until(lambda: len(listeners()) == 1)
        [tail] = [link for link in proxy.links if link not in listeners()]
        async with load_and_readers(own_database, [server]) as (load, readers):
            for silenced in range(1, 2 * SCALE + 1):
                listeners()[-1].go_dark()
                got = len(readers[0].got)
                while len(listeners()) == silenced:
                    writing.app.runtime.tail.wake()  # what it would hear
                    if silenced % 2:
                        server.app.runtime.tail.wake()  # what it would say
                    await load.more(1)
                assert len(readers[0].got) > got
                await load.more(EVENTS)
            assert not tail.near.is_closing()
        proxy.forget()


async def test_a_network_that_is_down_for_a_while_is_waited_for(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.tail.ANSWER_SECONDS", SILENCE_SECONDS)
    async with behind_proxy(own_database) as (server, proxy), healthy(server):
        async with load_and_readers(own_database, [server], pause_seconds=0.1) as (load, _):
            await load.more(EVENTS)
            # Nothing is refused and nothing is answered, not even a new connection.
            proxy.go_dark()
            await until(lambda: not server.app.runtime.tail.is_following, SILENCE_SECONDS + 20)
            await load.more(EVENTS)
            proxy.lighten()
            await until(lambda: bool(server.app.runtime.tail.is_following), 30)
        proxy.forget()


async def test_connections_of_the_tail_that_are_reset_cost_nothing(
    own_database: TestDatabase,
) -> None:
    async with behind_proxy(own_database) as (server, proxy), healthy(server):
        async with load_and_readers(own_database, [server]) as (load, _):
            for _ in range(5 * SCALE):
                await load.more(EVENTS // 3)
                for link in proxy.links:
                    link.reset()


async def test_a_slow_network_delays_and_loses_nothing(own_database: TestDatabase) -> None:
    async with behind_proxy(own_database) as (server, proxy), healthy(server):
        for link in proxy.links:
            link.delay_seconds = 0.1
        async with load_and_readers(own_database, [server]) as (load, _):
            await load.more(EVENTS)


async def run(name: str, *arguments: str) -> None:
    """Run a program of the embedded Postgres."""
    process = await asyncio.create_subprocess_exec(programs(chosen()) / name, *arguments)
    assert await process.wait() == 0


async def test_cursors_from_before_a_dump_and_restore_are_reset(
    own_database: TestDatabase, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    dump, admin = tmp_path / "dump", own_database.url("postgres")
    restored = TestDatabase(postgres, f"{own_database.name}_restored")
    async with running(own_database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        path = f"{tenant.path}/stream"
        async with follow(tenant.owner.client, path, types="test.*") as reader:
            cursors = [(await reader.message()).id]
            await number(tenant, "kept 1", "kept 2")
            await reader.names(2)
            cursors.append(reader.cursor)
            await run("pg_dump", "-Fc", "-f", str(dump), admin)
            # What a reader has seen of the time that the copy knows nothing of.
            await number(tenant, "lost 1", "lost 2", "lost 3")
            await reader.names(3)
            cursors.append(reader.cursor)
    await execute(postgres.admin_url, f"create database {restored.name}")
    try:
        await run("pg_restore", "-d", restored.url("postgres"), str(dump))
        async with running(restored) as server, healthy(server), calling(server) as callers:
            tenant = elsewhere(tenant, callers)
            # Past the positions of what was lost, so that an old cursor would look like a good one.
            for n in range(10):
                await number(tenant, f"new {n}")
            await server.app.runtime.tail.catch_up()
            async with contextlib.AsyncExitStack() as stack:
                readers = [
                    await stack.enter_async_context(
                        follow(tenant.owner.client, path, cursor, types="test.*")
                    )
                    for cursor in cursors
                ]
                heads = [await r.message() for r in readers]
                assert [m.event for m in heads] == ["reset"] * 3
                await number(tenant, "after")
                assert [await r.names(1) for r in readers] == [["after"]] * 3
            listed = await tenant.owner.client.get(
                f"{tenant.path}/events", params={"types": "test.*"}
            )
            names = {e["data"]["n"] for e in listed.json()["data"]}
            assert names == {"kept 1", "kept 2", "after", *(f"new {n}" for n in range(10))}
    finally:
        await execute(postgres.admin_url, f"drop database if exists {restored.name} with (force)")


async def test_readers_of_a_data_folder_that_was_set_back_are_reset(crashable: Crashable) -> None:
    database = TestDatabase(crashable, "postgres")
    cluster, copy = crashable.data / "cluster", crashable.data / "copy"
    async with running(database) as server, healthy(server), calling(server) as callers:
        tenant = await new_tenant(callers)
        path = f"{tenant.path}/stream"
        async with follow(tenant.owner.client, path, types="test.*") as reader:
            await reader.message()
            await number(tenant, "kept")
            await reader.names(1)
            crashable.stop()
            shutil.copytree(cluster, copy)
            for source in (cluster, *cluster.rglob("*")):
                status = source.stat()
                os.chown(copy / source.relative_to(cluster), status.st_uid, status.st_gid)
            crashable.start()
            await until(lambda: bool(server.app.runtime.tail.is_following), 20)
            await number(tenant, "lost 1", "lost 2")
            await reader.names(2)
            old = reader.cursor
            crashable.stop()
            shutil.rmtree(cluster)
            copy.rename(cluster)
            # Written before the process knows, and fewer than were lost.
            crashable.start()
            async with database.connect("postgres") as admin:
                await admin.execute(
                    "select annex.publish($1, 'test.made', '{\"n\": \"unseen\"}')", UUID(tenant.id)
                )
            assert (await reader.message(20)).event == "reset"
            await number(tenant, "after")
            assert await reader.names(2) == ["unseen", "after"]
        async with follow(tenant.owner.client, path, old, types="test.*") as reader:
            assert (await reader.message()).event == "reset"


# A fifth of what they are, as is the silence of 6 s that stands for one of 30.
DEADLINES = {"COMMAND_SECONDS": 2.0, "ACQUIRE_SECONDS": 2.0, "CONNECT_SECONDS": 1.0}


async def test_a_silent_network_before_both_pools_costs_requests_their_deadline_and_no_more(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in DEADLINES.items():
        monkeypatch.setattr(f"app.database.pools.{name}", seconds)
    monkeypatch.setattr("app.realtime.tail.ANSWER_SECONDS", SILENCE_SECONDS)
    api, worker = (own_database.url(role) for role in ("annex_api", "annex_worker"))
    async with (
        proxying(to_database(api)) as front,
        proxying(to_database(worker)) as back,
        running(
            own_database,
            database_url=through(front, api),
            worker_database_url=through(back, worker),
            max_statements_per_principal=100,
        ) as server,
        calling(server) as callers,
    ):
        tenant = await new_tenant(callers)
        client, path = tenant.owner.client, tenant.path
        size = server.app.runtime.database.api.size

        def ask(n: int) -> Awaitable[httpx.Response]:
            # A read, a write of one statement, and transactions.
            return [
                lambda: client.get(f"{path}/events"),
                lambda: client.post(f"{path}/events", json={"type": "x"}),
                lambda: client.patch(path, json={"metadata": {"n": n}}),
                lambda: client.post(
                    f"{path}/events", json={"type": "x"}, headers={"Idempotency-Key": f"k-{n}"}
                ),
            ][n % 4]()

        async def timed(n: int, statuses: set[int]) -> float:
            began = time.monotonic()
            answer = await ask(n)
            assert answer.status_code in statuses, answer.text
            return time.monotonic() - began

        # Every connection of the pool is open.
        await asyncio.gather(*(timed(n, {200, 201}) for n in range(size)))
        front.go_dark()
        back.go_dark()
        dark = time.monotonic() + 6
        waiting = list[asyncio.Task[float]]()
        while time.monotonic() < dark:
            waiting += [
                asyncio.create_task(timed(n, {503})) for n in range(len(waiting), len(waiting) + 4)
            ]
            await asyncio.sleep(0.25)
        front.lighten()
        back.lighten()
        ended = time.monotonic()
        waited = await asyncio.gather(*waiting, return_exceptions=True)
        # Those at the end of the silence may find a connection again.
        late = [w for w in waited if isinstance(w, AssertionError)]
        assert len(late) < len(waited) / 2, late[0]
        assert [w for w in waited if isinstance(w, float)]
        # One statement, or a turn for one, on a machine that others use too.
        assert max(w for w in waited if isinstance(w, float)) < 2 * sum(DEADLINES.values())

        async def is_back() -> bool:
            answers = await asyncio.gather(*(ask(n) for n in range(size)))
            tail = server.app.runtime.tail
            return bool(all(a.is_success for a in answers) and tail.is_following)

        while not await is_back():
            assert time.monotonic() - ended < 5
        front.forget()
        back.forget()
