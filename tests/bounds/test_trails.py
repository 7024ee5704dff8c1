"""What a workspace adds to its audit trail, which it cannot shorten, is bounded by the hour."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import Callers, TestDatabase, add_member, new_tenant, running
from tests.database.conftest import OPERATOR, Claims, new_user, new_workspace, user

LIMIT = "update annex.limits set value = 64 where name = 'audit_kib_per_hour'"
RENAME = "select annex.update_workspace($1, jsonb_build_object('name', $2::text))"
OF_ONES_OWN = "update annex.workspaces set name = $2 where id = $1"
SPENT = "select count(*), sum(bytes) from annex.trails where workspace_id = $1"


@pytest.fixture
async def short(own_database: TestDatabase) -> TestDatabase:
    """A database in which a workspace's trail takes 64 KiB an hour."""
    async with own_database.connect("postgres") as admin:
        await admin.execute(LIMIT)
    return own_database


async def rename(
    connection: "asyncpg.Connection[Any]", workspace: UUID, most: int, statement: str = RENAME
) -> int:
    """Rename a workspace until that is refused; returns how often it was not."""
    for n in range(most):
        try:
            await connection.execute(statement, workspace, f"{n}" * 100)
        except asyncpg.ProgramLimitExceededError:
            return n
    return most


@pytest.mark.timeout(180)
async def test_beyond_it_changes_wait_and_what_ends_something_does_not(short: TestDatabase) -> None:
    async with running(short) as server:
        callers = Callers(server)
        tenant, other = await new_tenant(callers), await new_tenant(callers)
        admin = await add_member(callers, tenant, "admin")
        keys = f"{tenant.path}/api-keys"
        key = {"name": "CI", "permissions": ["workspace:read"]}
        made = (await tenant.owner.client.post(keys, json=key)).json()
        for n in range(200):
            # Each is small enough to be told whole, both before and after.
            body = {"metadata": {"n": n, "filling": "x" * 1900}}
            refused = await admin.client.patch(tenant.path, json=body)
            if refused.status_code != 200:
                break
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_changes")
        assert 0 < int(refused.headers["Retry-After"]) <= 3600
        assert 5 < n < 30
        client = tenant.owner.client
        # It may have room for a smaller change or two.
        answers = [await client.post(keys, json=key) for _ in range(9)]
        assert answers[-1].json()["code"] == "too_many_changes"
        assert (await client.patch(other.path, json={"name": "x"})).status_code == 404
        assert (await other.owner.client.patch(other.path, json={"name": "x"})).status_code == 200
        operator = callers.operator().client
        assert (await operator.patch(tenant.path, json={"name": "x"})).status_code == 200
        # Whoever spent it can be put out.
        member = f"{tenant.path}/members/{admin.user_id}"
        suspended = await client.patch(member, json={"status": "suspended"})
        assert suspended.status_code == 200
        assert (await client.delete(member)).status_code == 204
        assert (await client.delete(f"{keys}/{made['id']}")).status_code == 204
        assert (await client.delete(tenant.path)).status_code == 204
        metrics = (await operator.get("/metrics")).text
        assert 'annex_refused_total{code="too_many_changes"}' in metrics
        await callers.close()


async def test_an_hour_later_it_begins_anew_and_leaves_no_rows(short: TestDatabase) -> None:
    async with short.connect("postgres") as admin:
        owner = await new_user(admin)
        workspace = await new_workspace(admin, owner)
        async with short.connect("annex_api", user(owner)) as connection:
            assert 10 < await rename(connection, workspace, 200) < 100
            await admin.execute("update annex.trails set hour = hour - interval '1 hour'")
            await connection.execute(RENAME, workspace, "again")
        [(rows, spent)] = await admin.fetch(SPENT, workspace)
        assert rows == 1
        assert spent < 2048


async def test_a_transaction_that_is_open_holds_up_nobody(short: TestDatabase) -> None:
    async with short.connect("postgres") as admin:
        owner = await new_user(admin)
        workspace = await new_workspace(admin, owner)
        put = "select annex.put_role($1, $2, 'x', '{workspace:read}')"
        invite = "select annex.update_member($1, $2, metadata_patch => '{\"a\": 1}')"
        async with (
            short.connect("annex_api", user(owner)) as first,
            short.connect("annex_api", user(owner)) as second,
        ):
            await second.execute("set lock_timeout = '100ms'")
            async with first.transaction():
                await first.execute(invite, workspace, owner)
                await second.execute(put, workspace, "guest")
        rows = await admin.fetchval(SPENT, workspace)
        assert rows == 2


@pytest.mark.parametrize("claims", [{}, OPERATOR])
async def test_an_operator_and_sql_of_ones_own_are_not_counted(
    claims: Claims, short: TestDatabase
) -> None:
    async with short.connect("postgres") as admin:
        workspace = await new_workspace(admin, await new_user(admin))
        role = "annex_api" if claims else "postgres"
        async with short.connect(role, claims) as connection:
            statement = RENAME if claims else OF_ONES_OWN
            assert await rename(connection, workspace, 100, statement) == 100
        assert await admin.fetchval(SPENT, workspace) == 0
