from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.dev.migrations import apply
from app.dev.postgres import THROWAWAY, EmbeddedPostgres, chosen
from tests.conftest import MIGRATING_ROLE, ROOT, TestDatabase, execute, running
from tests.ports import free_port
from tests.realtime.reader import calling, follow, new_tenant, number, until


class OverTcp(EmbeddedPostgres):
    """A Postgres at an address that outlives a restart; its socket may move."""

    def __init__(self, data: Path, port: int) -> None:
        super().__init__(data, chosen(), THROWAWAY, port)
        self.port = port

    def url(self, role: str, database: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Start a migrated server for one test to stop."""
    with OverTcp(tmp_path / "pg", free_port()) as server:
        admin = server.admin_url
        await execute(admin, (ROOT / "supabase" / "local" / "platform.sql").read_text())
        await apply(admin, ROOT / "supabase" / "migrations", MIGRATING_ROLE)
        yield server


async def test_a_stream_outlives_a_restart_of_postgres_and_loses_nothing(
    own_postgres: EmbeddedPostgres,
) -> None:
    database = TestDatabase(own_postgres, "postgres")
    async with running(database) as live, calling(live) as callers:
        tenant = await new_tenant(callers)
        async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
            await reader.message()
            await number(tenant, "before")
            assert await reader.names(1) == ["before"]
            for n in range(2):
                own_postgres.stop()
                await until(lambda: not live.app.runtime.tail.is_following)
                health = await callers.client().get("/health/ready")
                assert health.status_code == 503
                own_postgres.start()
                await until(lambda: live.app.runtime.tail.is_following, 10)
                await number(tenant, str(n))
                assert await reader.names(1) == [str(n)]
        async with follow(tenant.owner.client, f"{tenant.path}/stream", reader.cursor) as reader:
            await number(tenant, "after")
            assert await reader.names(1) == ["after"]
