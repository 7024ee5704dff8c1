"""One look says who publishes, and never what the careful one would not have said."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest

from tests.conftest import NOBODYS_ID, TestDatabase, encode
from tests.database.conftest import (
    OPERATOR,
    Claims,
    Connection,
    claim,
    exchanged,
    insert,
    join,
    key,
    new_user,
    new_workspace,
    postgrest,
    user,
)

# Both are Annex's own: a definer function calls them, as annex.publish does.
BOTH = """
create or replace function public.both_publishers(ws uuid, out usual text, out careful text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  usual := annex.usual_publisher(ws);
  begin
    careful := annex.check_publisher(ws);
  exception when insufficient_privilege then
    get stacked diagnostics careful = constraint_name;
  end;
end
$$;
alter function public.both_publishers owner to annex_owner;
grant execute on function public.both_publishers to annex_api, authenticated, service_role;
"""
INLINED = (
    "annex.find_role($1, 'owner')",
    "annex.grants_of_user($1, true)",
    "annex.grants_of_key($1)",
    "annex.find_short_queue($1)",
)


class Tenant(NamedTuple):
    """A workspace and who is in it."""

    admin: Connection
    database: TestDatabase
    id: UUID
    owner: UUID

    async def member(self, role: str, status: str = "active") -> Claims:
        """Add a member; returns the claims of their session."""
        made = await new_user(self.admin)
        await join(self.admin, self.id, made, role, status)
        return user(made)

    def api(self, claims: Claims) -> AbstractAsyncContextManager[Connection]:
        """Open a session of the API."""
        return self.database.connect("annex_api", claims)

    async def queue(self, count: int) -> None:
        """Let so many events wait for fan-out."""
        await self.admin.execute(
            "insert into annex.fanouts (event_id, tenant)"
            " select gen_random_uuid(), $1 from generate_series(1, $2)",
            self.owner,
            count,
        )


@pytest.fixture
async def tenant(admin: Connection, database: TestDatabase) -> AsyncIterator[Tenant]:
    await admin.execute(BOTH)
    owner = await new_user(admin)
    yield Tenant(admin, database, await new_workspace(admin, owner), owner)
    await admin.execute("update annex.limits set value = 10000 where name = 'waiting_fanouts'")
    await admin.execute("delete from annex.fanouts")


async def look(connection: Connection, workspace: UUID | None) -> tuple[str | None, str]:
    """Return what both looks say."""
    row = await connection.fetchrow("select * from public.both_publishers($1)", workspace)
    assert row is not None
    return row["usual"], row["careful"]


@pytest.mark.parametrize("role", ["member", "admin", "owner", "sender"])
async def test_a_member_who_may_is_named(role: str, tenant: Tenant) -> None:
    may = ["workspace:read", "events:publish"]
    await insert(
        tenant.admin, "roles", workspace_id=tenant.id, key="sender", name="x", permissions=may
    )
    claims = await tenant.member(role)
    for session in (tenant.api(claims), postgrest(tenant.database, claims)):
        async with session as connection:
            assert await look(connection, tenant.id) == (f"user:{claims['sub']}",) * 2


@pytest.mark.parametrize("is_exchanged", [False, True])
async def test_a_key_that_may_is_named(is_exchanged: bool, tenant: Tenant) -> None:
    claims = await key(tenant.admin, tenant.id, "events:publish")
    session = tenant.api(claims)
    if is_exchanged:
        session = postgrest(tenant.database, exchanged(claims))
    async with session as connection:
        assert await look(connection, tenant.id) == (f"api_key:{claims['sub']}",) * 2


async def test_a_second_factor_is_asked_for_where_it_is_demanded(tenant: Tenant) -> None:
    await tenant.admin.execute(
        "update annex.workspaces set require_aal2 = true where id = $1", tenant.id
    )
    async with tenant.api(user(tenant.owner)) as connection:
        assert await look(connection, tenant.id) == (None, "second_factor_required")
    async with tenant.api(user(tenant.owner, aal="aal2")) as connection:
        assert await look(connection, tenant.id) == (f"user:{tenant.owner}",) * 2


async def test_who_may_not_is_left_to_the_careful_look(tenant: Tenant) -> None:
    other = await new_workspace(tenant.admin, await new_user(tenant.admin))
    keys = {
        "reader": await key(tenant.admin, tenant.id, "events:read"),
        "elsewhere": await key(tenant.admin, other, "events:publish"),
    }
    for name in ("revoked_at", "expires_at"):
        over = await key(tenant.admin, tenant.id, "events:publish")
        await tenant.admin.execute(
            f"update annex.api_keys set {name} = now() where id = $1", UUID(over["sub"])
        )
        keys[name] = over
    for claims, refusal in (
        (await tenant.member("viewer"), "forbidden"),
        (await tenant.member("owner", "suspended"), "not_found"),
        (user(await new_user(tenant.admin)), "not_found"),
        ({"role": "authenticated"}, "not_found"),
        (keys["reader"], "forbidden"),
        (keys["elsewhere"], "not_found"),
        (keys["revoked_at"], "not_found"),
        (keys["expires_at"], "not_found"),
        (exchanged(keys["reader"]), "forbidden"),
        ({**user(tenant.owner), "annex_key": {}}, "not_found"),
        ({"role": "annex_key"}, "not_found"),
        ({"role": "anon", "sub": str(tenant.owner)}, "not_found"),
        ({"sub": str(tenant.owner)}, "not_found"),
        ({}, "not_found"),
    ):
        async with tenant.api(claims) as connection:
            assert await look(connection, tenant.id) == (None, refusal), claims
            assert await look(connection, None) == (None, "not_found"), claims


async def test_nobody_publishes_into_a_workspace_that_is_gone(tenant: Tenant) -> None:
    claims = await key(tenant.admin, tenant.id, "events:publish")
    await tenant.admin.execute(
        "update annex.workspaces set deleted_at = now() where id = $1", tenant.id
    )
    for caller in (user(tenant.owner), claims, OPERATOR):
        async with tenant.api(caller) as connection:
            for workspace in (tenant.id, uuid4(), UUID(NOBODYS_ID)):
                assert await look(connection, workspace) == (None, "not_found")


async def test_whom_only_the_api_vouches_for_is_nobody_elsewhere(tenant: Tenant) -> None:
    claims = await key(tenant.admin, tenant.id, "events:publish")
    for caller in (claims, OPERATOR):
        async with postgrest(tenant.database, caller) as connection:
            assert await look(connection, tenant.id) == (None, "not_found")
    async with tenant.api(OPERATOR) as connection:
        assert await look(connection, tenant.id) == (None, f"operator:{OPERATOR['sub']}")


async def test_service_role_is_the_system_whatever_its_claims_say(tenant: Tenant) -> None:
    for claims in ({"role": "service_role"}, user(tenant.owner)):
        async with postgrest(tenant.database, claims, "service_role") as connection:
            assert await look(connection, tenant.id) == (None, "system")


@pytest.mark.parametrize(("most", "few"), [(10000, 99), (3, 2), (1, 0)])
async def test_a_long_queue_is_left_to_the_careful_look(
    most: int, few: int, tenant: Tenant
) -> None:
    await tenant.admin.execute(
        "update annex.limits set value = $1 where name = 'waiting_fanouts'", most
    )
    named = f"user:{tenant.owner}"
    async with tenant.api(user(tenant.owner)) as connection:
        await tenant.queue(few)
        assert await look(connection, tenant.id) == (named, named)
        await tenant.queue(1)
        assert await look(connection, tenant.id) == (None, named)
        # Other tenants' events, and what has failed, are not of this queue.
        await tenant.admin.execute("update annex.fanouts set failed_at = now(), error = 'x'")
        await tenant.admin.execute(
            "insert into annex.fanouts (event_id, tenant)"
            " select gen_random_uuid(), gen_random_uuid() from generate_series(1, 200)"
        )
        assert await look(connection, tenant.id) == (named, named)


async def test_a_queue_is_read_to_its_hundredth_event_by_an_index(tenant: Tenant) -> None:
    read = (
        "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::integer"
        " from pg_stat_xact_user_tables where relname = 'fanouts'"
    )
    # Planned while the table is empty, and kept.
    usual = "select annex.usual_publisher($1)"
    async with tenant.admin.transaction():
        await claim(tenant.admin, encode(user(tenant.owner)))
        assert await tenant.admin.fetchval(usual, tenant.id) == f"user:{tenant.owner}"
    await tenant.admin.execute(
        "insert into annex.fanouts (event_id, tenant)"
        " select gen_random_uuid(), md5((n % 20)::text)::uuid from generate_series(1, 5000) n"
    )
    await tenant.queue(500)
    async with tenant.admin.transaction():
        await claim(tenant.admin, encode(user(tenant.owner)))
        before = await tenant.admin.fetchval(read)
        assert await tenant.admin.fetchval(usual, tenant.id) is None
        assert await tenant.admin.fetchval(read) - before <= 100


@pytest.mark.parametrize("call", INLINED)
async def test_the_rule_is_part_of_the_statement_that_asks(call: str, admin: Connection) -> None:
    asked = call.replace("$1", f"'{NOBODYS_ID}'")
    plan = await admin.fetch(f"explain select * from {asked}")
    assert not any("Function Scan" in row[0] for row in plan), plan
