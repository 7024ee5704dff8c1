"""Clients that do not read, vanish without a word, or slam the door."""

import asyncio
import random
import statistics
import time
from pathlib import Path
from uuid import UUID

import pytest

from app import server as app_server
from tests import conftest
from tests.conftest import Running, Tenant, TestDatabase, running
from tests.faults.crowd import LightReader, connect_all, crowd
from tests.faults.health import healthy
from tests.faults.processes import serving
from tests.faults.seed import SCALE, SEED
from tests.realtime.reader import calling, cursor_at_head, new_tenant, number, until

STALLED = 500
STALLED_SECONDS = 3
"""After these a connection that takes nothing is reset, here; in earnest it is later."""
PATIENCE_SECONDS = STALLED_SECONDS * 2 + 20
RECEIVE_BUFFER = 4096
EVENTS = 300 * SCALE
DATA_BYTES = 16_000
MEMORY = STALLED * (3 * 64 + 32) * 1024 + 48 * 1024 * 1024
"""Bytes, of all of them: for each a chunk, what waits of one before, and the connection."""

assert app_server.STALLED_SECONDS > STALLED_SECONDS


async def publish_large(
    tenant: Tenant, database: TestDatabase, first: int, count: int
) -> list[float]:
    """Publish large events by SQL, one transaction each; returns when each was committed."""
    committed = []
    async with database.connect("postgres") as connection:
        for n in range(first, first + count):
            await connection.execute(
                "select annex.publish($1, 'test.made',"
                " jsonb_build_object('n', $2::text, 'x', repeat('x', $3)))",
                UUID(tenant.id),
                str(n),
                DATA_BYTES,
            )
            committed.append(time.monotonic())
            # At a pace that a busy machine keeps.
            await asyncio.sleep(0.005)
    return committed


@pytest.mark.parametrize("has_past", [False, True], ids=["live", "replay"])
async def test_those_who_do_not_read_cost_nobody_else_anything_and_can_come_back(
    own_database: TestDatabase, tmp_path: Path, has_past: bool
) -> None:
    patches = {"app.server.STALLED_SECONDS": STALLED_SECONDS}
    async with (
        serving(own_database, tmp_path, patches=patches) as (process, server),
        calling(server) as callers,
    ):
        tenant = await conftest.new_tenant(callers)
        path, headers = f"{tenant.path}/stream", tenant.owner.client.headers
        # A principal's streams wait for one another at the database, and so another one's stall.
        member = await conftest.add_member(callers, tenant, "member")
        names = [str(n) for n in range(EVENTS)]
        half = EVENTS // 2
        async with (
            crowd(headers, 5) as quick,
            crowd(member.client.headers, STALLED) as stalled,
        ):
            await connect_all(quick, server, path)
            beginning = quick[0].cursor
            alone = await publish_large(tenant, own_database, 0, half)
            await until(lambda: all(len(r.got) == half for r in quick), 30)
            sockets, memory = process.sockets, process.memory
            if has_past:
                # One that is larger than what the process keeps.
                for reader in stalled:
                    reader.cursor = beginning
            await connect_all(stalled, server, path, RECEIVE_BUFFER)
            for reader in stalled:
                reader.stall()
            beside = await publish_large(tenant, own_database, half, EVENTS - half)
            await until(lambda: all(len(r.got) == EVENTS for r in quick), 30)
            assert all(r.got == names for r in quick)
            usual = statistics.median(delays(quick, 0, alone))
            found = delays(quick, half, beside)
            assert statistics.median(found) < usual * 3 + 0.25, (usual, statistics.median(found))
            assert max(found) < 5
            # They are not kept for ever, though they never said goodbye.
            await until(lambda: process.sockets <= sockets + 5, PATIENCE_SECONDS)
            grown = process.memory - memory
            assert grown < MEMORY, f"{grown / 1024 / 1024:.0f} MiB"
            # The kernel that gave them up told them nothing, either.
            for reader in stalled:
                reader.leave()
            await asyncio.gather(*(r.ended() for r in stalled))
            # Some come back, each from its cursor.
            returned = stalled[::20]
            await connect_all(returned, server, path)
            await number(tenant, "fresh")
            everyone = [*returned, *quick]
            await until(lambda: all(r.got[-1:] == ["fresh"] for r in everyone), 30 * SCALE)
            expected = [*(names if has_past else names[half:]), "fresh"]
            assert all(r.got == expected for r in returned)


def delays(readers: list[LightReader], first: int, committed: list[float]) -> list[float]:
    """Return the seconds from each event's commit to each reader."""
    return [r.at[first + n] - at for r in readers for n, at in enumerate(committed)]


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let silence be noticed soon."""
    monkeypatch.setattr("app.server.STALLED_SECONDS", STALLED_SECONDS)
    monkeypatch.setattr("app.realtime.hub.HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr("app.realtime.hub.TICK_SECONDS", 0.2)


async def open_all(readers: list[LightReader], server: Running, path: str, cursor: bytes) -> None:
    """Open streams: some that wait, some amid the past, some stuck in a write nobody reads."""
    third = len(readers) // 3
    for reader in readers[third:]:
        reader.cursor = cursor
    await connect_all(readers, server, path, RECEIVE_BUFFER)
    for reader in readers[2 * third :]:
        reader.stall()


@pytest.mark.usefixtures("short_limits")
async def test_nothing_is_left_of_clients_that_reset_their_connections(
    own_database: TestDatabase,
) -> None:
    drawn = random.Random(SEED)
    async with running(own_database) as server, healthy(server), calling(server) as callers:
        tenant = await new_tenant(callers)
        headers, path = tenant.owner.client.headers, f"{tenant.path}/stream"
        hub = server.app.runtime.hub
        cursor = cursor_at_head(server, tenant).encode()
        await publish_large(tenant, own_database, 0, 100)
        for _ in range(4 * SCALE):
            async with crowd(headers, 60) as readers:
                await open_all(readers, server, path, cursor)
                writing = asyncio.create_task(publish_large(tenant, own_database, 0, 20))
                drawn.shuffle(readers)
                for reader in readers:
                    reader.reset()
                    await asyncio.sleep(drawn.random() * 0.01)
                await writing
                await until(lambda: hub.counts.connections == 0, PATIENCE_SECONDS)


@pytest.mark.usefixtures("short_limits")
async def test_nothing_is_left_of_clients_that_fell_silent(own_database: TestDatabase) -> None:
    async with running(own_database) as server, healthy(server), calling(server) as callers:
        tenant = await new_tenant(callers)
        headers, path = tenant.owner.client.headers, f"{tenant.path}/stream"
        hub = server.app.runtime.hub
        cursor = cursor_at_head(server, tenant).encode()
        await publish_large(tenant, own_database, 0, 100)
        async with crowd(headers, 90) as readers, crowd(headers, 1) as [staying]:
            await open_all(readers, server, path, cursor)
            await staying.connect(server, path)
            for reader in readers:
                reader.go_dark()
            # A waiting one is noticed by the heartbeat that nobody confirms.
            await until(lambda: hub.counts.connections == 1, PATIENCE_SECONDS)
            await number(tenant, "still here")
            await until(lambda: staying.got == ["still here"], 10)
