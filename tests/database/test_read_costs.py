"""What a read costs where there are many tenants: the pages of its own rows, not of others'."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import Callers, Running, TestDatabase, running
from tests.database.conftest import Connection
from tests.operations import DOCUMENT

pytestmark = pytest.mark.timeout(240)

TENANTS = 15_000
PAGES = 500
"""Of 8 KiB each; every table below has more, and a wrong plan reads them all."""
FILL = """
insert into auth.users (id, email, email_confirmed_at)
  select gen_random_uuid(), 'u' || n || '@example.com', now() from generate_series(1, $1) n;
insert into annex.profiles (user_id, email, display_name)
  select id, email, repeat('x', 200) from auth.users;
insert into annex.workspaces (slug, name, created_by)
  select 'w-' || row_number() over (order by email), repeat('x', 200), user_id from annex.profiles;
insert into annex.roles (workspace_id, key, name, permissions)
  select id, 'r-' || n, repeat('x', 100), '{workspace:read}'
  from annex.workspaces, generate_series(1, 4) n;
insert into annex.members (workspace_id, user_id, role)
  select id, created_by, 'owner' from annex.workspaces;
insert into annex.invitations (workspace_id, email, role, invited_by, expires_at)
  select w.id, case when w.slug like 'w-%77' and n = 1 then 'u2' else 'x' || w.slug || n end
    || '@example.com', 'viewer', 'user:' || w.created_by, now() + interval '1 day'
  from annex.workspaces w, generate_series(1, 3) n;
insert into annex.api_keys (workspace_id, name, permissions, prefix, secret_hash)
  select id, repeat('x', 100), '{workspace:read}', substr(md5(id::text || n), 1, 12),
    sha256((id::text || n)::bytea)
  from annex.workspaces, generate_series(1, 3) n;
insert into annex.subscriptions (workspace_id, user_id, topic, reason)
  select workspace_id, user_id, repeat('t', 100) || n, 'added'
  from annex.members, generate_series(1, 4) n;
insert into annex.join_rules (workspace_id, kind, value, role)
  select id, 'domain', slug || '.example', 'viewer' from annex.workspaces;
"""


class Crowd(NamedTuple):
    """A server among many tenants, and the owner of one of them."""

    server: Running
    callers: Callers
    database: TestDatabase
    owner: UUID
    email: str
    ws: str


@pytest.fixture(scope="module")
async def crowd(database: TestDatabase) -> AsyncIterator[Crowd]:
    async with database.connect("postgres") as admin:
        tables = "workspaces roles members invitations api_keys join_rules".split()
        # Their events are not what is measured.
        for table in tables:
            await admin.execute(f"alter table annex.{table} disable trigger user")
        for statement in FILL.replace("$1", str(TENANTS)).strip().split(";\n"):
            await admin.execute(statement)
        for table in tables:
            await admin.execute(f"alter table annex.{table} enable trigger user")
        await admin.execute("analyze")
        [(ws, owner, email)] = await admin.fetch(
            "select w.slug, p.user_id, p.email from annex.workspaces w"
            " join annex.profiles p on p.user_id = w.created_by where p.email = 'u2@example.com'"
        )
    async with running(database) as server:
        callers = Callers(server)
        yield Crowd(server, callers, database, owner, email, ws)
        await callers.close()


def lists() -> Iterator[str]:
    """List the paths that read without an id, from the contract."""
    for path, item in DOCUMENT["paths"].items():
        is_read = "get" in item and "200" in item["get"]["responses"]
        if is_read and path.startswith("/api/") and "stream" not in path:
            if set(re.findall(r"\{(\w+)\}", path)) <= {"ws"}:
                yield path


async def pages(connection: Connection, sql: str, values: tuple[Any, ...]) -> int:
    """Run a statement warm, and count the pages that it and the functions that it calls read."""
    for _ in range(2):
        found = await connection.fetchval(
            f"explain (analyze, buffers, timing off, format json) {sql}", *values
        )
    top = json.loads(found)[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """Every statement that the server sends that selects, with its values."""
    sent: list[tuple[str, tuple[Any, ...]]] = []
    fetch = asyncpg.Connection.fetch

    async def note(self: Any, query: str, *values: Any, **others: Any) -> Any:
        if "request.jwt.claims" in query:
            sent.append((query, values))
        return await fetch(self, query, *values, **others)

    monkeypatch.setattr(asyncpg.Connection, "fetch", note)
    return sent


@pytest.mark.parametrize("path", list(lists()))
async def test_a_read_does_not_look_at_the_rows_of_others(
    path: str, crowd: Crowd, asked: list[tuple[str, tuple[Any, ...]]]
) -> None:
    user = await crowd.callers.user(user_id=crowd.owner, email=crowd.email)
    answer = await user.client.get(path.replace("{ws}", crowd.ws), params={"limit": 5})
    if answer.status_code == 400:  # what has no pages
        answer = await user.client.get(path.replace("{ws}", crowd.ws))
    assert answer.status_code == 200, answer.text
    assert asked
    async with crowd.database.connect("annex_api") as connection:
        for sql, values in asked:
            assert await pages(connection, sql, values) < PAGES, (
                await pages(connection, sql, values),
                sql,
            )


async def test_the_tables_are_larger_than_what_a_read_may_look_at(crowd: Crowd) -> None:
    async with crowd.database.connect("postgres") as admin:
        small = await admin.fetch(
            "select relname, relpages from pg_class"
            " where oid = any (array['annex.workspaces', 'annex.roles', 'annex.profiles',"
            " 'annex.invitations', 'annex.api_keys', 'annex.subscriptions']::regclass[])"
            " and relpages < $1",
            PAGES,
        )
    assert small == []
