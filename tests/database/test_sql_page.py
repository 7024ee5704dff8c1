"""What docs/sql.md promises, run as it stands there."""

import re
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from app.dev.postgres import EmbeddedPostgres
from tests.conftest import ROOT, TestDatabase, new_database
from tests.database.conftest import exchanged, join, key, new_user, new_workspace, postgrest, user
from tests.guides.blocks import blocks

PAGE = (ROOT / "docs" / "sql.md").read_text()
BLOCKS = list(blocks("docs/sql.md", PAGE))
SQL = [block.code for block in BLOCKS if block.language == "sql"]
PLAN = next(block.code for block in BLOCKS if block.language == "text")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def invoices(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[TestDatabase]:
    """A table of a million rows in 1,000 workspaces, protected as the page says."""
    async with new_database(postgres, template) as made:
        async with made.connect("postgres") as admin:
            await admin.execute("""
                create unlogged table public.invoices (
                  id bigint generated always as identity primary key,
                  workspace_id uuid not null, total numeric not null default 0
                );
                grant select, insert, update on public.invoices to authenticated;
                insert into public.invoices (workspace_id)
                select ids[1 + n % 1000] from generate_series(1, 1000000) n,
                  (select array_agg(gen_random_uuid()) as ids from generate_series(1, 1000)) i;
                """)
            for block in SQL:
                await admin.execute(block)
            await admin.execute("vacuum analyze public.invoices")
        yield made


async def test_three_lines_protect_a_table() -> None:
    assert len(SQL[0].strip().splitlines()) == 3


async def test_the_plan_is_the_one_that_the_page_shows(invoices: TestDatabase) -> None:
    async with invoices.connect("postgres") as admin:
        member = await new_user(admin)
        await new_workspace(admin, member)
    async with postgrest(invoices, user(member)) as connection:
        rows = await connection.fetch("explain (costs off) select count(*) from public.invoices")
    plan = "\n".join(row[0] for row in rows)
    # Older servers name the plan's parts otherwise.
    spelled = re.sub(r"\$\d+|\(InitPlan 1\)\.col1", "?", re.sub(r" \(returns \$\d\)", "", plan))
    assert spelled.strip() == PLAN.replace("(InitPlan 1).col1", "?").strip()


async def test_who_sees_and_writes_what(invoices: TestDatabase) -> None:
    async with invoices.connect("postgres") as admin:
        owner, viewer = await new_user(admin), await new_user(admin)
        mine, other = await new_workspace(admin, owner), await new_workspace(admin, owner)
        await join(admin, mine, viewer, "viewer")
        server = await key(admin, mine, "workspace:read", "events:publish")
        weak = await key(admin, mine, "workspace:read")
    insert = "insert into public.invoices (workspace_id) values ($1)"
    count = "select count(*) from public.invoices"
    for claims, writes, sees in (
        (user(owner), [mine, other], 2),
        (exchanged(server), [mine], 2),
        (exchanged(weak), [], 2),
        (user(viewer), [], 2),
        ({"role": "authenticated", "sub": str(mine)}, [], 0),
        (server, [], 0),
    ):
        async with postgrest(invoices, claims) as connection:
            for workspace in (mine, other):
                assert await may(connection, insert, workspace) == (workspace in writes), claims
            assert await connection.fetchval(count) == sees, claims
            if writes == [mine]:
                moved = "update public.invoices set workspace_id = $1"
                assert not await may(connection, moved, other)


async def may(connection: "asyncpg.Connection[asyncpg.Record]", sql: str, value: UUID) -> bool:
    try:
        async with connection.transaction():
            await connection.execute(sql, value)
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True


async def test_a_revoked_keys_token_is_dead_at_once(invoices: TestDatabase) -> None:
    async with invoices.connect("postgres") as admin:
        owner = await new_user(admin)
        workspace = await new_workspace(admin, owner)
        server = await key(admin, workspace, "workspace:read", "events:publish")
        token = exchanged(server)
        ask = "select annex.has_permission($1, 'events:publish')"
        async with invoices.connect("authenticator") as connection:
            await connection.execute("set role authenticated")
            await connection.execute(
                "select set_config('request.jwt.claims', $1, false)",
                f'{{"role": "authenticated", "sub": "{server["sub"]}",'
                f' "annex_key": {{"id": "{server["sub"]}"}}}}',
            )
            assert await connection.fetchval(ask, workspace)
            for change, holds in (
                ("permissions = '{workspace:read}'", False),
                ("permissions = '{events:publish}'", True),
                ("expires_at = now()", False),
                ("expires_at = null", True),
                ("revoked_at = now()", False),
            ):
                await admin.execute(
                    f"update annex.api_keys set {change} where id = $1", UUID(server["sub"])
                )
                assert await connection.fetchval(ask, workspace) is holds, change
        async with postgrest(invoices, token) as connection:
            assert await connection.fetchval("select count(*) from public.invoices") == 0
            assert not await may(
                connection, "insert into public.invoices (workspace_id) values ($1)", workspace
            )


async def test_one_plan_serves_whoever_asks(invoices: TestDatabase) -> None:
    async with invoices.connect("postgres") as admin:
        owners = [await new_user(admin) for _ in range(3)]
        spaces = [await new_workspace(admin, owner) for owner in owners]
        await admin.executemany(
            "insert into public.invoices (workspace_id) values ($1)",
            [(s,) for s, n in zip(spaces, range(1, 4), strict=True) for _ in range(n)],
        )
    async with invoices.connect("authenticator") as connection:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        await connection.execute("set role authenticated")
        statement = await connection.prepare("select count(*) from public.invoices")
        for turn in range(3):
            for owner, expected in zip(owners, range(1, 4), strict=True):
                async with connection.transaction():
                    await connection.execute(
                        "select set_config('request.jwt.claims', $1, true)",
                        f'{{"role": "authenticated", "sub": "{owner}"}}',
                    )
                    assert await statement.fetchval() == expected, turn
            assert await statement.fetchval() == 0


async def test_the_page_says_what_the_built_in_roles_hold(database: TestDatabase) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    held = dict[str, set[str]]()
    permissions = set[str]()
    for role, said in rows:
        permissions |= set(re.findall(r"`(\w+:\w+)`", said))
        held[role] = set(permissions)
    async with database.connect("postgres") as admin:
        found = await admin.fetch(
            "select key, permissions from annex.roles where workspace_id is null"
        )
    assert held == {row["key"]: set(row["permissions"]) for row in found}
