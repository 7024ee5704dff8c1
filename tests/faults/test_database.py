"""A Postgres that crashes, falls silent, is far away, or comes back as an earlier copy."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from app import supervision
from app.database import pools
from app.dev.postgres import EmbeddedPostgres, chosen, programs
from app.realtime import tail
from tests.conftest import TestDatabase, execute, running
from tests.faults.conftest import Crashable
from tests.faults.health import healthy
from tests.faults.load import load_and_readers
from tests.faults.proxy import Link, behind_proxy, proxying, through, to_database
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
    monkeypatch.setattr("app.realtime.wakeup.LISTEN_AGAIN_SECONDS", SILENCE_SECONDS)
    monkeypatch.setattr("app.realtime.wakeup.ANSWER_SECONDS", 2 * SILENCE_SECONDS)
    async with (
        running(own_database) as writing,
        behind_proxy(own_database) as (server, proxy),
        healthy(server),
    ):

        def listeners() -> list[Link]:
            return [link for link in proxy.links if b"annex_log" in link.asked]

        def tails() -> list[Link]:
            return [link for link in proxy.links if b"annex.tail" in link.asked]

        await until(lambda: len(listeners()) == 1 and len(tails()) == 1)
        [tail] = tails()
        async with load_and_readers(own_database, [server]) as (load, readers):
            got_meanwhile = 0
            for silenced in range(1, 2 * SCALE + 1):
                # One that a busy machine kept waiting has been replaced as well.
                known, got = len(listeners()), len(readers[0].got)
                listeners()[-1].go_dark()
                while len(listeners()) == known:
                    writing.app.runtime.tail.wake()  # what it would hear
                    if silenced % 2:
                        server.app.runtime.tail.wake()  # what it would say
                    await load.more(1)
                got_meanwhile += len(readers[0].got) - got
                await load.more(EVENTS)
            # A busy machine may take longer than one silence; not than all of them.
            assert got_meanwhile
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


SHARE = 5 if SCALE == 1 else 1
"""In CI all of this takes a fifth of its time: the silence of 30 s, and what waits for its end."""
DARK_SECONDS = 30 / SHARE
DEADLINES = {
    name: getattr(pools, name) / SHARE
    for name in ("COMMAND_SECONDS", "ACQUIRE_SECONDS", "CONNECT_SECONDS")
}
BACK_SECONDS = 5.0
LATE_SECONDS = 2.0
"""What a machine that others use too may add to a deadline."""


class Asked(NamedTuple):
    """A request: when it began, what came of it, and how long it took."""

    began: float
    status: int
    seconds: float


@pytest.mark.timeout(180)
async def test_a_silent_network_before_both_pools_costs_requests_their_deadline_and_no_more(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in DEADLINES.items():
        monkeypatch.setattr(f"app.database.pools.{name}", seconds)
    monkeypatch.setattr("app.realtime.tail.ANSWER_SECONDS", tail.ANSWER_SECONDS / SHARE)
    monkeypatch.setattr("app.supervision.BACKOFF", [s / SHARE for s in supervision.BACKOFF])
    api, worker = (own_database.url(role) for role in ("annex_api", "annex_worker"))
    async with (
        proxying(to_database(api)) as front,
        proxying(to_database(worker)) as back,
        running(
            own_database,
            database_url=through(front, api),
            worker_database_url=through(back, worker),
        ) as server,
        calling(server) as callers,
    ):
        # Two, as none has all connections.
        tenants = [await new_tenant(callers) for _ in range(2)]
        for tenant in tenants:
            tenant.owner.client.timeout = 3 * sum(DEADLINES.values())
        size = server.app.runtime.database.api.size

        async def ask(n: int) -> Asked:
            # A read, a write of one statement, and transactions.
            client, path = tenants[n % 2].owner.client, tenants[n % 2].path
            began = time.monotonic()
            answer = await [
                lambda: client.get(f"{path}/events"),
                lambda: client.post(f"{path}/events", json={"type": "x"}),
                lambda: client.patch(path, json={"metadata": {"n": n}}),
                lambda: client.post(
                    f"{path}/events", json={"type": "x"}, headers={"Idempotency-Key": f"k-{n}"}
                ),
            ][n // 2 % 4]()
            return Asked(began, answer.status_code, time.monotonic() - began)

        async def ask_all() -> bool:
            found = await asyncio.gather(*(ask(n) for n in range(size)))
            return all(each.status in (200, 201) for each in found)

        async with follow(
            tenants[0].owner.client, f"{tenants[0].path}/stream", types="test.*"
        ) as reader:
            await reader.message()
            await number(tenants[0], "before")
            assert await reader.names(1) == ["before"]
            # Every connection of the pool is open.
            assert await ask_all()
            front.go_dark()
            back.go_dark()
            dark = time.monotonic()
            waiting = list[asyncio.Task[Asked]]()
            while time.monotonic() < dark + DARK_SECONDS:
                waiting += [asyncio.create_task(ask(len(waiting) + n)) for n in range(4)]
                await asyncio.sleep(0.25 * 5 / SHARE)
            front.lighten()
            back.lighten()
            ended = time.monotonic()
            # From outside: whatever it costs to find out that it is not.
            while not (await ask_all() and server.app.runtime.tail.is_following):
                assert time.monotonic() - ended < BACK_SECONDS
            assert time.monotonic() - ended < BACK_SECONDS
            found = await asyncio.gather(*waiting)  # none was cut off, or failed otherwise
            await number(tenants[0], "after")
            assert await reader.names(1) == ["after"]
        longest = sum(DEADLINES.values()) + LATE_SECONDS
        # Only a request that still waited at the end may have found a connection again.
        lucky = [each for each in found if each.status != 503]
        assert {each.status for each in lucky} <= {200, 201}
        assert [each for each in lucky if each.began < ended - longest] == []
        assert len(lucky) < len(found)
        assert max(each.seconds for each in found) < longest
        front.forget()
        back.forget()
