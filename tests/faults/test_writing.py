"""Writers of every kind: rolled back, left open, prepared, many at once, in odd characters."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.dev.postgres import EmbeddedPostgres
from tests.conftest import Tenant, TestDatabase, new_database, running
from tests.faults.health import healthy
from tests.faults.load import load_and_readers
from tests.faults.processes import serving
from tests.faults.seed import SCALE
from tests.realtime.reader import calling, follow, new_tenant, number, publish

EVENTS = 600 * SCALE
PUBLISH = "select annex.publish($1, 'test.made', jsonb_build_object('n', $2::text))"


async def test_writers_who_contend_and_roll_back(own_database: TestDatabase) -> None:
    async with running(own_database) as server, healthy(server):
        async with load_and_readers(own_database, [server], 6) as (load, readers):
            await load.more(EVENTS)
        assert load.rolled_back
        assert not load.unknown
        assert all(reader.connections > 1 for reader in readers[:-1])


@contextlib.asynccontextmanager
async def left_open(
    database: TestDatabase, tenant: Tenant, n: str
) -> AsyncIterator[asyncpg.Connection]:
    """Publish in a transaction that stays open: idle in it, as a client does that hangs."""
    async with database.connect("postgres") as connection:
        await connection.execute("begin")
        await connection.execute(PUBLISH, UUID(tenant.id), n)
        yield connection


async def test_transactions_left_open_stall_nobody_and_lose_nothing(
    own_database: TestDatabase, postgres: EmbeddedPostgres, template: str
) -> None:
    async with (
        running(own_database) as server,
        healthy(server),
        calling(server) as callers,
        new_database(postgres, template) as other,
        other.connect("postgres") as elsewhere_open,
    ):
        tenant = await new_tenant(callers)
        # One that only has written, in another database of the same server: the oldest of all.
        await elsewhere_open.execute("begin; create table left_open as select 1 as n")
        async with (
            follow(tenant.owner.client, f"{tenant.path}/stream", types="test.*") as reader,
            left_open(own_database, tenant, "committed late") as late,
            left_open(own_database, tenant, "rolled back late") as back,
            left_open(own_database, tenant, "cut off late"),
        ):
            start = (await reader.message()).id
            async with own_database.connect("postgres") as busy, busy.transaction():
                # In the middle of a statement, which holds its snapshot.
                sleeping = asyncio.create_task(busy.execute("select pg_sleep(3600)"))
                async with load_and_readers(own_database, [server], 2) as (load, _):
                    await load.more(EVENTS // 3)
                await number(tenant, "meanwhile")
                assert await reader.names(1) == ["meanwhile"]
                async with own_database.connect("postgres") as admin:
                    await admin.execute(
                        "select pg_cancel_backend(pid) from pg_stat_activity"
                        " where query = 'select pg_sleep(3600)' and datname = current_database()"
                    )
                with pytest.raises(asyncpg.QueryCanceledError):
                    await sleeping
            await late.execute("commit")
            assert await reader.names(1) == ["committed late"]
            await back.execute("rollback")
        # The last one's connection is gone with its transaction.
        await elsewhere_open.execute("rollback")
        await number(tenant, "after")
        async with follow(
            tenant.owner.client, f"{tenant.path}/stream", start, types="test.*"
        ) as again:
            assert await again.names(3) == ["meanwhile", "committed late", "after"]


async def test_prepared_transactions_are_seen_when_they_are_committed(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as server, healthy(server), calling(server) as callers:
        tenant = await new_tenant(callers)
        path, name = f"{tenant.path}/stream", own_database.name
        async with follow(tenant.owner.client, path, types="test.*") as reader:
            start = (await reader.message()).id
            async with own_database.connect("postgres") as connection:
                for n in ("kept", "dropped"):
                    await connection.execute("begin")
                    await connection.execute(PUBLISH, UUID(tenant.id), n)
                    await connection.execute(f"prepare transaction '{name} {n}'")
            async with load_and_readers(own_database, [server], 2) as (load, _):
                await load.more(EVENTS // 3)
                # By another session than the one that prepared, in the middle of the others.
                async with own_database.connect("postgres") as connection:
                    await connection.execute(f"commit prepared '{name} kept'")
                    await connection.execute(f"rollback prepared '{name} dropped'")
                assert await reader.names(1) == ["kept"]
                await load.more(EVENTS // 6)
            await number(tenant, "after")
            assert await reader.names(1) == ["after"]
        async with follow(tenant.owner.client, path, start, types="test.*") as again:
            assert await again.names(2) == ["kept", "after"]


async def sequence(database: TestDatabase, is_over: asyncio.Event) -> int:
    """Call `annex.tail` again and again, as one more tail does; returns how many rows it read."""
    pos = 0
    async with database.connect("annex_worker") as connection:
        while True:
            was_over = is_over.is_set()
            rows = await connection.fetch("select * from annex.tail($1, 100)", pos)
            # Position after position: dense, and none twice.
            assert [row["pos"] for row in rows] == [*range(pos + 1, pos + 1 + len(rows))]
            pos += len(rows)
            if was_over and not rows:
                return pos
            await asyncio.sleep(0.002)


async def test_many_who_sequence_at_once_give_each_position_once(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    is_over = asyncio.Event()
    async with (
        serving(own_database, tmp_path) as (_, one),
        serving(own_database, tmp_path) as (_, two),
    ):
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(sequence(own_database, is_over)) for _ in range(3)]
            async with load_and_readers(own_database, [one, two]) as (load, _):
                await load.more(EVENTS)
            is_over.set()
        heads = {loop.result() for loop in loops}
        async with own_database.connect("postgres") as connection:
            rows = await connection.fetch("select pos, event_id from annex.log order by pos")
            head = await connection.fetchval("select head from annex.log_state")
            left = await connection.fetchval("select count(*) from annex.pending")
    assert [row["pos"] for row in rows] == [*range(1, head + 1)]
    assert (len({row["event_id"] for row in rows}), left, heads) == (head, 0, {head})


LINE_ENDS = {"n": "a\nb\r\nc\rd\u2028e\u2029f\x85g\x0b\x0c\n\n: h\nid: 1\ndata: i\n"}


def filled(kib: int, unit: str) -> dict[str, Any]:
    """Make data of just so many KiB as JSON."""
    count = (kib * 1024 - len('{"n":""}')) // len(unit.encode())
    data = {"n": unit * count}
    data["n"] += "." * (kib * 1024 - len(encoded(data)))
    return data


def encoded(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize("data", [LINE_ENDS, filled(64, "x"), filled(64, "é\u2028😀")])
async def test_any_character_and_64_kib_arrive_as_they_were_sent(
    own_database: TestDatabase, data: dict[str, Any]
) -> None:
    async with running(own_database) as server, healthy(server), calling(server) as callers:
        tenant = await new_tenant(callers)
        client, path = tenant.owner.client, f"{tenant.path}/stream"
        fields = {"subject": LINE_ENDS["n"], "topics": [LINE_ENDS["n"]]}
        async with follow(client, path, types="test.*") as reader:
            start = (await reader.message()).id
            body = encoded({"type": "test.made", "data": data, **fields})
            response = await client.post(
                f"{tenant.path}/events", content=body, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 201, response.text
            await publish(tenant.owner, tenant, {"data": {"n": "next"}})
            live = [await reader.event(), await reader.event()]
        async with follow(client, path, start, types="test.*") as again:
            assert [await again.event(), await again.event()] == live
    assert live[0]["data"] == data
    assert {k: live[0][k] for k in fields} == fields
    assert live[1]["data"] == {"n": "next"}
