"""Processes that are killed, and one that is asked to stop while thousands read."""

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path

import httpx

from tests import conftest
from tests.conftest import Tenant, TestDatabase
from tests.faults.crowd import AT_ONCE, LightReader, connect_all, crowd
from tests.faults.load import load_and_readers
from tests.faults.processes import serving
from tests.faults.proxy import proxying, to_server
from tests.faults.seed import SCALE, SEED
from tests.ports import free_port
from tests.realtime.reader import calling, elsewhere, follow, number, until

STREAMS = 5000
EVENTS = 150 * SCALE


async def test_readers_of_a_killed_process_go_on_at_another(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    port = free_port()
    async with (
        serving(own_database, tmp_path, port=port) as (first, one),
        serving(own_database, tmp_path) as (second, two),
        contextlib.AsyncExitStack() as stack,
    ):
        # At a pace that leaves the machine room to start a process.
        async with load_and_readers(own_database, [one, two], 6, 0.4) as (load, _):
            await load.more(EVENTS)
            first.kill()
            await load.more(EVENTS)
            # Come back at the address that its readers know.
            await stack.enter_async_context(serving(own_database, tmp_path, port=port))
            await load.more(EVENTS)
            second.kill()
            await load.more(EVENTS)
        assert not load.unknown


class Post:
    """An event to publish, and by which keys a second attempt is known."""

    def __init__(self, n: str, by: str) -> None:
        self.n = n
        self.headers = {"Idempotency-Key": f"request {n}"} if by != "event key" else {}
        self.body = {"type": "test.made", "data": {"n": n}, "source": "post"}
        if by != "idempotency key":
            self.body["key"] = f"event {n}"

    async def send(self, client: httpx.AsyncClient, tenant: Tenant) -> httpx.Response:
        return await client.post(f"{tenant.path}/events", json=self.body, headers=self.headers)

    async def insist(self, clients: list[httpx.AsyncClient], tenant: Tenant) -> httpx.Response:
        """Send it until there is an answer, wherever one is given."""
        for attempt in range(1000):
            with contextlib.suppress(httpx.TransportError):
                response = await self.send(clients[attempt % len(clients)], tenant)
                if response.status_code in (200, 201):
                    return response
                # The first attempt may still hold its lock, or the server has no database yet.
                assert response.status_code in (409, 503), response.text
            await asyncio.sleep(0.05)
        raise AssertionError("no answer")


BY = ("idempotency key", "event key", "both")


async def test_a_post_cut_off_before_its_commit_is_done_once_when_it_is_sent_again(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    async with (
        serving(own_database, tmp_path) as (first, one),
        serving(own_database, tmp_path) as (_, two),
        calling(one) as callers,
        calling(two) as others,
    ):
        tenant = await conftest.new_tenant(callers)
        there = elsewhere(tenant, others)
        posts = [Post(by, by) for by in BY]
        async with follow(there.owner.client, f"{tenant.path}/stream", types="test.*") as reader:
            await reader.message()
            async with own_database.connect("postgres") as admin:
                # Nobody's event gets into line now, so each stands in its transaction.
                await admin.execute("begin; lock table annex.pending in exclusive mode")
                sent = [asyncio.create_task(p.send(tenant.owner.client, tenant)) for p in posts]
                await waiting_for_lock(own_database, len(posts))
                first.kill()
                for answer in await asyncio.gather(*sent, return_exceptions=True):
                    assert isinstance(answer, httpx.TransportError)
                await admin.execute("rollback")
            for post in posts:
                await post.insist([there.owner.client], tenant)
            await number(there, "last")
            *names, last = await reader.names(4)
            # A call of one statement is the database's once it has begun: it may be committed
            # although nobody waits for it, before the others are sent again.
            assert (sorted(names), last) == (sorted(BY), "last")


async def waiting_for_lock(database: TestDatabase, count: int) -> None:
    """Wait until so many sessions wait for a lock of a table."""
    async with database.connect("postgres") as admin:
        async with asyncio.timeout(10):
            while count != await admin.fetchval(
                "select count(*) from pg_locks where not granted and locktype = 'relation'"
            ):
                await asyncio.sleep(0.02)


async def test_a_post_whose_answer_was_lost_is_done_once_when_it_is_sent_again(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    async with (
        serving(own_database, tmp_path) as (first, one),
        serving(own_database, tmp_path) as (_, two),
        proxying(to_server(one.url)) as proxy,
        calling(one) as callers,
        calling(two) as others,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", timeout=30) as far,
    ):
        tenant = await conftest.new_tenant(callers)
        there = elsewhere(tenant, others)
        far.headers["Authorization"] = tenant.owner.client.headers["authorization"]
        posts = [Post(by, by) for by in BY]
        async with follow(there.owner.client, f"{tenant.path}/stream", types="test.*") as reader:
            await reader.message()
            proxy.swallows_answers = True
            sent = [asyncio.create_task(p.send(far, tenant)) for p in posts]
            # Committed, and seen elsewhere.
            assert sorted(await reader.names(len(posts))) == sorted(BY)
            first.kill()
            for link in proxy.links:
                link.reset()
            for answer in await asyncio.gather(*sent, return_exceptions=True):
                assert isinstance(answer, httpx.TransportError)
            answers = [await post.insist([there.owner.client], tenant) for post in posts]
            await number(there, "last")
            assert await reader.names(1) == ["last"]
        # By the request's key as it was answered, by the event's as a duplicate.
        assert [a.headers.get("idempotent-replayed") for a in answers] == ["true", None, "true"]
        assert [a.status_code for a in answers] == [201, 200, 201]
        assert answers[1].json()["is_duplicate"]


async def test_posts_to_a_process_that_is_killed_again_and_again_are_each_done_once(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    port, drawn = free_port(), random.Random(SEED)
    published, is_over = list[str](), asyncio.Event()

    async def post(client: httpx.AsyncClient, tenant: Tenant, writer: int) -> None:
        for n in range(1_000_000):
            if is_over.is_set():
                break
            made = Post(f"{writer}-{n}", drawn.choice(BY))
            await made.insist([client], tenant)
            published.append(made.n)

    async with (
        serving(own_database, tmp_path) as (_, other),
        contextlib.AsyncExitStack() as stack,
        calling(other) as others,
    ):
        process, server = await stack.enter_async_context(
            serving(own_database, tmp_path, port=port)
        )
        tenant = await conftest.new_tenant(others)
        killed = elsewhere(tenant, await stack.enter_async_context(calling(server)))
        async with follow(tenant.owner.client, f"{tenant.path}/stream", types="test.*") as reader:
            await reader.message()
            async with asyncio.TaskGroup() as group:
                for writer in range(8):
                    group.create_task(post(killed.owner.client, tenant, writer))
                for _ in range(3 * SCALE):
                    wanted = len(published) + 30
                    await until(lambda: len(published) >= wanted, 60)  # noqa: B023
                    await asyncio.sleep(drawn.random() * 0.01)
                    process.kill()
                    process, _ = await stack.enter_async_context(
                        serving(own_database, tmp_path, port=port)
                    )
                is_over.set()
            await number(tenant, "last")
            got = [(await reader.event())["data"]["n"] for _ in range(len(published) + 1)]
    assert Counter(got) == Counter([*published, "last"])
    assert got[-1] == "last"


async def test_a_process_that_is_asked_to_stop_lets_thousands_go_on_elsewhere(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    async with (
        serving(own_database, tmp_path) as (stopping, one),
        serving(own_database, tmp_path) as (staying, two),
        calling(two) as callers,
    ):
        tenant = await conftest.new_tenant(callers)
        path, sockets = f"{tenant.path}/stream", staying.sockets
        is_over, sent = asyncio.Event(), list[str]()

        async def write() -> None:
            # All the while that streams end here and begin there.
            while not is_over.is_set():
                sent.append(str(len(sent)))
                await number(tenant, sent[-1])
                await asyncio.sleep(0.25)

        async def come_back(reader: LightReader, places: asyncio.Semaphore) -> None:
            await reader.ended()
            async with places:
                await reader.connect(two, path)

        async with crowd(tenant.owner.client.headers, STREAMS) as readers:
            await connect_all(readers, one, path)
            async with asyncio.TaskGroup() as group:
                group.create_task(write())
                await until(lambda: all(r.got for r in readers), 30)
                places = asyncio.Semaphore(AT_ONCE)
                coming = [asyncio.create_task(come_back(r, places)) for r in readers]
                seconds = await stopping.stop(10)
                await asyncio.gather(*coming)
                is_over.set()
            await number(tenant, "last")
            await until(lambda: all(r.got[-1] == "last" for r in readers), 30)
            assert all(r.got == [*sent, "last"] for r in readers)
            assert all(set(r.others) == {b"cursor"} for r in readers)
            # Each was told the end in the way of HTTP, and was not cut off.
            assert all(r.clean_ends == 1 for r in readers)
        assert stopping.child.returncode == 0
        assert "Traceback" not in stopping.said, stopping.said
        assert seconds < 10
        await until(lambda: staying.sockets <= sockets + 5, 20)
