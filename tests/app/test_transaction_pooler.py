"""Everything through PgBouncer in transaction mode, with fewer servers than clients."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from app.database.check import changes_servers
from app.database.pools import Database
from app.server import check
from app.settings import SettingsError
from app.worker.housekeeping import tidy
from tests.conftest import (
    Callers,
    Running,
    TestDatabase,
    execute,
    running,
    settings_for,
)
from tests.realtime.reader import follow, new_tenant, number

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
PORT = 6432
CONFIG = """
[databases]
* = host={postgres}

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
unix_socket_mode = 0777
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = {mode}
default_pool_size = {servers}
max_client_conn = 300
logfile = {folder}/log
"""


@dataclass(frozen=True)
class Pooled:
    """A test database as clients of the pooler see it."""

    database: TestDatabase
    folder: Path

    def url(self, role: str) -> str:
        """The URL by which a role logs in through the pooler."""
        return f"postgresql://{role}@/{self.database.name}?host={self.folder}&port={PORT}"

    def settings(self, **others: Any) -> dict[str, Any]:
        """Settings of a server that knows nothing but the pooler."""
        return {
            "database_url": self.url("annex_api"),
            "worker_database_url": self.url("annex_worker"),
            "transaction_pooler": True,
            **others,
        }


@contextlib.contextmanager
def pgbouncer(database: TestDatabase, servers: int, mode: str = "transaction") -> Iterator[Pooled]:
    """Run a PgBouncer before the database, with so many servers for each role."""
    if PGBOUNCER is None:
        pytest.skip("no pgbouncer: install the package pgbouncer")
    [postgres] = parse_qs(urlsplit(database.url("postgres")).query)["host"]
    # As the owner of Postgres' socket: neither of the two runs as root.
    owner, is_root = Path(postgres).stat(), os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="annex-", dir="/tmp"))
    config = CONFIG.format(postgres=postgres, folder=folder, port=PORT, mode=mode, servers=servers)
    (folder / "pgbouncer.ini").write_text(config)
    (folder / "users.txt").write_text('"annex_api" ""\n"annex_worker" ""\n')
    folder.chmod(0o755)
    if is_root:
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
    process = subprocess.Popen(
        [PGBOUNCER, "-q", str(folder / "pgbouncer.ini")],
        user=owner.st_uid if is_root else None,
        group=owner.st_gid if is_root else None,
        extra_groups=[] if is_root else None,
        stdin=subprocess.DEVNULL,
    )
    pooled = Pooled(database, folder)
    try:
        deadline = time.monotonic() + 20
        while not (folder / f".s.PGSQL.{PORT}").exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield pooled
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


@pytest.fixture
def pooled(own_database: TestDatabase) -> Iterator[Pooled]:
    """A pooler with two servers for each role."""
    with pgbouncer(own_database, servers=2) as made:
        yield made


@pytest.fixture
async def server(pooled: Pooled) -> AsyncIterator[Running]:
    """A server with more connections to the pooler than that has servers."""
    async with running(pooled.database, **pooled.settings(pool_size=8)) as live:
        yield live


async def test_transactions_of_one_connection_run_on_several_servers(server: Running) -> None:
    """What the tests below rely on."""
    assert await changes_servers(server.app.runtime.database.api, "DATABASE_URL")


async def test_everything_works(pooled: Pooled, server: Running, callers: Callers) -> None:
    tenant = await new_tenant(callers)
    path = f"{tenant.path}/stream"
    async with follow(tenant.owner.client, path) as reader:
        begin = (await reader.message()).id
        await asyncio.gather(*(number(tenant, *(f"{n}.{i}" for i in range(5))) for n in range(20)))
        live = await reader.names(100)
    assert sorted(live) == sorted(f"{n}.{i}" for n in range(20) for i in range(5))
    # Another process, which has to read all of it from the database.
    async with running(pooled.database, **pooled.settings()) as other:
        client = tenant.owner.client
        async with follow(client, f"{other.url}{path}", begin) as reader:
            assert await reader.names(100) == live
            await number(tenant, "more")
            assert await reader.names(1) == ["more"]
        async with follow(client, f"{other.url}{path}", reader.cursor) as reader:
            await number(tenant, "after")
            assert await reader.names(1) == ["after"]
    assert (await callers.client().get("/health/ready")).status_code == 200


async def test_tenants_at_once_never_see_each_others_rows(
    server: Running, callers: Callers
) -> None:
    tenants = [await new_tenant(callers) for _ in range(2)]
    keys = [await callers.key(t.id, "workspace:read", "events:read") for t in tenants]
    for tenant in tenants:
        await number(tenant, *map(str, range(5)))

    async def read(n: int) -> None:
        mine, others = tenants[n % 2], tenants[(n + 1) % 2]
        client = mine.owner.client if n % 4 < 2 else keys[n % 2].client
        events = (await client.get(f"{mine.path}/events")).json()["data"]
        assert {e["workspace_id"] for e in events} == {mine.id}
        workspaces = (await client.get("/api/v1/workspaces")).json()["data"]
        assert [w["id"] for w in workspaces] == [mine.id]
        assert (await client.get(f"{others.path}/events")).status_code == 404
        if n % 5 == 0:
            await number(mine, "more")

    for _ in range(5):
        await asyncio.gather(*map(read, range(40)))


async def test_no_claims_are_left_on_a_server(server: Running, callers: Callers) -> None:
    tenant = await new_tenant(callers)
    pool = server.app.runtime.database.api

    async def count() -> int:
        async with pool.lend() as driver:
            claims = await driver.fetchval("select annex.claims()::text")
            rows = await driver.fetch("select from annex.events")
        assert claims == "{}"
        return len(rows)

    async def seen(_: int) -> int:
        await number(tenant, "1")
        return await count()

    assert sum(await asyncio.gather(*map(seen, range(40)))) == 0


async def test_housekeeping_works(pooled: Pooled) -> None:
    async with Database(settings_for(pooled.database, **pooled.settings())) as database:
        await tidy(database)
        await asyncio.gather(*(tidy(database) for _ in range(5)))


async def test_without_the_setting_the_start_says_so(pooled: Pooled) -> None:
    for wrong in ("database_url", "worker_database_url"):
        url = {wrong: pooled.settings()[wrong]}
        with pytest.raises(SettingsError, match=f"ANNEX_{wrong.upper()}: a transaction pooler.*"):
            await check(settings_for(pooled.database, **url))


async def test_a_name_that_another_client_took_is_laid_to_the_pooler(
    own_database: TestDatabase,
) -> None:
    with pgbouncer(own_database, servers=1) as pooled:
        last = vars(asyncpg.connection)["_uid"]
        names = (f"__asyncpg_stmt_{n:x}__" for n in range(last, last + 50))
        await execute(
            pooled.url("annex_api"), "; ".join(f'prepare "{n}" as select 1' for n in names)
        )
        url = pooled.settings()["database_url"]
        with pytest.raises(SettingsError, match="ANNEX_DATABASE_URL: a transaction pooler"):
            await check(settings_for(own_database, database_url=url))


async def test_a_session_pooler_needs_no_setting(own_database: TestDatabase) -> None:
    with pgbouncer(own_database, servers=20, mode="session") as pooled:
        await check(settings_for(own_database, **pooled.settings(transaction_pooler=False)))
