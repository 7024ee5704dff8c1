"""A user has so many workspaces, whoever creates them, over HTTP or in SQL."""

import asyncio

import asyncpg
import pytest

from app.dev.demo import mint_token
from tests.conftest import ROOT, Callers, TestDatabase, running
from tests.database.conftest import OPERATOR, new_user, new_workspace, user

CREATE = "select (annex.create_workspace('x')).id"
WORKSPACES = "/api/v1/workspaces"
LIMIT = "update annex.limits set value = 3 where name = 'workspaces_per_user'"


@pytest.fixture
async def few(own_database: TestDatabase) -> TestDatabase:
    """A database in which a user has three workspaces at most."""
    async with own_database.connect("postgres") as admin:
        await admin.execute(LIMIT)
    return own_database


@pytest.mark.parametrize("role", ["annex_api", "authenticator"])
async def test_a_user_has_no_more_workspaces_than_the_limit(role: str, few: TestDatabase) -> None:
    async with few.connect("postgres") as admin:
        claims = user(await new_user(admin))
    async with few.connect(role, claims) as connection:
        if role == "authenticator":
            await connection.execute("set role authenticated")
        made = [await connection.fetchval(CREATE) for _ in range(3)]
        for _ in range(2):
            with pytest.raises(asyncpg.ProgramLimitExceededError) as refused:
                await connection.fetchval(CREATE)
            assert refused.value.constraint_name == "too_many_workspaces"
            # What was deleted lately counts: otherwise there would be no bound on rows.
            await connection.execute("select annex.delete_workspace($1)", made.pop())
    async with few.connect("postgres") as admin:
        await admin.execute("update annex.workspaces set deleted_at = now() - interval '2 hours'")
    async with few.connect("annex_api", claims) as connection:
        assert await connection.fetchval(CREATE)


async def test_the_last_place_is_taken_once(few: TestDatabase) -> None:
    async with few.connect("postgres") as admin:
        claims = user(await new_user(admin))

    async def create() -> bool:
        async with few.connect("annex_api", claims) as connection:
            try:
                await connection.fetchval(CREATE)
            except asyncpg.ProgramLimitExceededError:
                return False
            return True

    assert sum(await asyncio.gather(*(create() for _ in range(8)))) == 3


async def test_an_anonymous_user_creates_none(few: TestDatabase) -> None:
    async with few.connect("postgres") as admin:
        claims = user(await new_user(admin), is_anonymous=True)
    async with few.connect("annex_api", claims) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
            await connection.fetchval(CREATE)
        assert refused.value.constraint_name == "user_required"


async def test_sql_of_ones_own_is_not_counted(few: TestDatabase) -> None:
    async with few.connect("postgres") as admin:
        owner = await new_user(admin)
        for _ in range(5):
            await new_workspace(admin, owner)


async def test_nobody_but_the_owner_of_the_schema_sets_the_limit(few: TestDatabase) -> None:
    for role, claims in (("annex_api", OPERATOR), ("annex_worker", {}), ("authenticator", {})):
        async with few.connect(role, claims) as connection:
            for statement in (LIMIT, "select * from annex.limits", "delete from annex.limits"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)


async def test_over_http_it_is_a_conflict(few: TestDatabase) -> None:
    async with running(few) as server:
        callers = Callers(server)
        client = (await callers.user()).client
        answers = [await client.post(WORKSPACES, json={"name": "x"}) for _ in range(4)]
        assert [a.status_code for a in answers] == [201, 201, 201, 409]
        assert answers[3].json()["code"] == "too_many_workspaces"
        guest = await callers.user()
        token = mint_token(server.settings, str(guest.user_id), None, is_anonymous=True)
        answer = await callers.client(token).post(WORKSPACES, json={"name": "x"})
        assert (answer.status_code, answer.json()["code"]) == (403, "user_required")
        await callers.close()


def test_the_limit_of_a_new_installation_is_20() -> None:
    migration = ROOT / "supabase" / "migrations" / "20261123000100_roles_and_claims.sql"
    assert "('workspaces_per_user', 20), ('audit_retention_days', 365)" in migration.read_text()
