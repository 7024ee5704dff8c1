"""A transaction: what its caller may do is asked with each of its calls."""

from operator import attrgetter
from typing import Any
from uuid import UUID

import pytest

from app.database.pools import Pool
from app.database.statements import CHECKED, Build, Scope, compiled_by_id
from app.database.work import Write
from app.errors import Forbidden, NotFound
from app.principals import Principal
from app.services import events, roles
from tests.conftest import Callers, Tenant, add_member

CHANGES = {
    "update annex.members set status = 'suspended'": NotFound,
    "delete from annex.members": NotFound,
    "update annex.members set role = 'viewer'": Forbidden,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_rights_that_are_lost_before_a_call_refuse_it(
    callers: Callers, tenant: Tenant, change: str
) -> None:
    admin = await add_member(callers, tenant, "admin")
    caller = Principal(kind="user", id=str(admin.user_id), email=admin.email)
    pool: Pool = callers.server.app.runtime.database.api
    write = Write(pool, Scope(caller, tenant.id, "roles:manage"), lambda: None)

    async def delete() -> None:
        async with write.work() as work:
            async with callers.server.database.connect("postgres") as sql:
                where = "where workspace_id = $1 and user_id = $2"
                await sql.execute(f"{change} {where}", UUID(tenant.id), admin.user_id)
            await work.call(roles.deleted, {"role_key": "a", "versions": None})

    with pytest.raises(CHANGES[change]):
        await delete()


async def test_a_connection_keeps_its_plans_and_itself(callers: Callers) -> None:
    pool = callers.server.app.runtime.database.api
    async with pool.lend() as driver:
        # By this, asyncpg forgets a statement; nothing public tells it.
        config: Any = driver._config  # type: ignore[attr-defined]
        assert config.max_cached_statement_lifetime == 0
    async with pool.lend() as again:
        assert again is driver


@pytest.mark.parametrize("build", sorted(CHECKED, key=attrgetter("__name__")))
def test_a_checked_call_looks_rights_up_by_itself_alone(build: Build) -> None:
    assert "annex.access" not in compiled_by_id(build).sql


def test_publishing_is_checked() -> None:
    assert {events.published, events.published_together} <= CHECKED
