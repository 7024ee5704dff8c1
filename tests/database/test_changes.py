import hashlib
import json
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import TestDatabase
from tests.database.conftest import (
    Connection,
    insert,
    join,
    new_key,
    new_user,
    new_workspace,
    user,
)


class Change(NamedTuple):
    """A statement on one row of a table, and the events that it draws."""

    table: str
    statement: str
    draws: list[str]


CHANGES = [
    Change("workspaces", "update annex.workspaces set name = 'New'", ["workspace.updated"]),
    Change("workspaces", "update annex.workspaces set name = name", []),
    Change("workspaces", "update annex.workspaces set deleted_at = now()", ["workspace.deleted"]),
    Change("members", "update annex.members set role = 'viewer'", ["member.updated"]),
    Change("members", "update annex.members set role = role, status = status", []),
    Change("members", "delete from annex.members", ["member.removed"]),
    Change("roles", "update annex.roles set permissions = '{}'", ["role.updated"]),
    Change("roles", "update annex.roles set name = name", []),
    Change("roles", "delete from annex.roles", ["role.deleted"]),
    Change("api_keys", "update annex.api_keys set revoked_at = now()", ["api_key.updated"]),
    Change("api_keys", "update annex.api_keys set secret_hash = secret_hash", []),
    Change("api_keys", "update annex.api_keys set last_used_at = now()", []),
    Change("api_keys", "delete from annex.api_keys", ["api_key.deleted"]),
]


class Scene(NamedTuple):
    """A workspace with two owners, a role and a key, whose events are read from here on."""

    admin: Connection
    workspace: UUID
    owner: UUID
    after: int

    def one(self, table: str) -> str:
        """Return a condition for the scene's row of a table."""
        column = "id" if table == "workspaces" else "workspace_id"
        one = f"where {column} = '{self.workspace}'"
        return f"{one} and user_id = '{self.owner}'" if table == "members" else one

    async def drawn(self) -> list[asyncpg.Record]:
        """Return the events since the scene was set, oldest first."""
        rows: list[asyncpg.Record] = await self.admin.fetch(
            "select e.* from annex.pending p join annex.events e using (event_id)"
            " where e.workspace_id = $1 and p.id > $2 order by p.id",
            self.workspace,
            self.after,
        )
        return rows


@pytest.fixture
async def scene(admin: Connection) -> Scene:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    await join(admin, workspace, await new_user(admin), "owner")
    await new_role(admin, workspace)
    await new_key(admin, workspace)
    after = await admin.fetchval("select max(id) from annex.pending")
    return Scene(admin, workspace, owner, after)


async def new_role(admin: Connection, workspace: UUID) -> UUID:
    """Make a role."""
    named = {"key": "auditor", "name": "Auditor", "permissions": ["events:read"]}
    return await insert(admin, "roles", "id", workspace_id=workspace, **named)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.statement)
async def test_a_real_change_is_one_event_and_any_other_none(change: Change, scene: Scene) -> None:
    done = await scene.admin.execute(f"{change.statement} {scene.one(change.table)}")
    assert done.endswith(" 1")
    assert [row["type"] for row in await scene.drawn()] == [f"annex.{d}" for d in change.draws]


async def test_what_is_made_is_one_event_each(scene: Scene) -> None:
    rows = await scene.admin.fetch(
        "select type, subject from annex.events where workspace_id = $1 order by event_id",
        scene.workspace,
    )
    assert [row["type"] for row in rows] == [
        "annex.workspace.created",
        "annex.member.added",
        "annex.member.added",
        "annex.role.created",
        "annex.api_key.created",
    ]
    assert [row["subject"] for row in rows[:2]] == [
        f"workspace:{scene.workspace}",
        f"member:{scene.owner}",
    ]


async def test_an_event_tells_the_row_and_what_was_before(scene: Scene) -> None:
    change = "update annex.workspaces set name = 'New', metadata = '{\"a\": 1}'"
    await scene.admin.execute(f"{change} {scene.one('workspaces')}")
    (event,) = await scene.drawn()
    data: dict[str, Any] = json.loads(event["data"])
    assert data["previous"] == {"name": "Test", "metadata": {}}
    assert (data["record"]["name"], data["record"]["version"]) == ("New", 2)


@pytest.mark.parametrize("table", ["workspaces", "members", "api_keys"])
async def test_an_event_tells_a_large_document_by_its_size_and_hash(
    table: str, scene: Scene
) -> None:
    change = f"update annex.{table} set metadata = $1 {scene.one(table)} returning metadata::text"
    small, large = {"plan": "x" * 2000}, {"plan": "x" * 8000}
    texts = [await scene.admin.fetchval(change, json.dumps(d)) for d in (small, large, small)]
    assert all(texts)
    told = [json.loads(event["data"]) for event in await scene.drawn()]
    digest = {"bytes": len(texts[1]), "sha256": hashlib.sha256(texts[1].encode()).hexdigest()}
    assert [d["record"].get("metadata") for d in told] == [small, None, small]
    assert [d["record"].get("digests") for d in told] == [None, {"metadata": digest}, None]
    assert told[1]["previous"] == {"metadata": small}
    assert told[2]["previous"] == {"digests": {"metadata": digest}}


async def test_an_event_tells_all_rights_however_many(scene: Scene) -> None:
    many = [f"role-{n}-{'x' * 50}" for n in range(100)]
    change = f"update annex.roles set grantable = $1 {scene.one('roles')}"
    await scene.admin.execute(change, many)
    (event,) = await scene.drawn()
    assert json.loads(event["data"])["record"]["grantable"] == many


async def test_an_event_names_who_made_the_change(database: TestDatabase, scene: Scene) -> None:
    async with database.connect("annex_api", user(scene.owner)) as connection:
        change = """select annex.update_workspace($1, '{"name": "New"}', null)"""
        await connection.execute(change, scene.workspace)
    (event,) = await scene.drawn()
    assert event["actor"] == f"user:{scene.owner}"


async def test_a_change_that_is_rolled_back_is_no_event(scene: Scene) -> None:
    transaction = scene.admin.transaction()
    await transaction.start()
    await scene.admin.execute(f"delete from annex.members {scene.one('members')}")
    await transaction.rollback()
    assert await scene.drawn() == []


async def test_a_restored_workspace_is_updated_and_not_deleted_again(scene: Scene) -> None:
    for moment in ("now()", "null"):
        change = f"update annex.workspaces set deleted_at = {moment}"
        await scene.admin.execute(f"{change} {scene.one('workspaces')}")
    types = [row["type"] for row in await scene.drawn()]
    assert types == ["annex.workspace.deleted", "annex.workspace.updated"]


async def test_a_builtin_role_belongs_to_no_workspace_and_draws_no_event(
    admin: Connection,
) -> None:
    count = "select count(*) from annex.events"
    before = await admin.fetchval(count)
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute("update annex.roles set name = 'Owners' where key = 'owner'")
    assert await admin.fetchval(count) == before
    await transaction.rollback()


async def test_a_hash_is_never_told(scene: Scene) -> None:
    secret = b"secret" + bytes(26)
    one = scene.one("api_keys")
    await scene.admin.execute(f"update annex.api_keys set secret_hash = $1 {one}", secret)
    await scene.admin.execute(f"delete from annex.api_keys {one}")
    events = await scene.drawn()
    assert len(events) == 2
    for event in events:
        assert "_hash" not in event["data"]
        assert secret.hex() not in event["data"]


async def test_an_event_names_the_permission_that_reads_its_row(scene: Scene) -> None:
    rows = await scene.admin.fetch(
        "select distinct split_part(type, '.', 2), permission from annex.events"
        " where workspace_id = $1",
        scene.workspace,
    )
    assert dict(tuple(row) for row in rows) == {
        "workspace": "workspace:read",
        "member": "members:read",
        "role": "roles:read",
        "api_key": "keys:read",
    }


RIGHTS = [
    ("workspaces", "update annex.workspaces set name = 'New'", None),
    ("workspaces", "update annex.workspaces set metadata = '{\"a\": 1}'", None),
    ("workspaces", "update annex.workspaces set require_aal2 = true", "*"),
    ("workspaces", "update annex.workspaces set deleted_at = now()", "*"),
    ("members", "update annex.members set metadata = '{\"a\": 1}'", None),
    ("members", "update annex.members set role = 'viewer'", "user:{owner}"),
    ("members", "update annex.members set status = 'suspended'", "user:{owner}"),
    ("members", "delete from annex.members", "user:{owner}"),
    ("roles", "update annex.roles set name = 'New'", None),
    ("roles", "update annex.roles set grantable = '{viewer}'", None),
    ("roles", "update annex.roles set permissions = '{}'", "*"),
    ("roles", "update annex.roles set key = 'other'", "*"),
    ("roles", "delete from annex.roles", "*"),
    ("api_keys", "update annex.api_keys set name = 'New'", None),
    ("api_keys", "update annex.api_keys set permissions = '{}'", "api_key:{key}"),
    ("api_keys", "update annex.api_keys set expires_at = now()", "api_key:{key}"),
    ("api_keys", "update annex.api_keys set revoked_at = now()", "api_key:{key}"),
    ("api_keys", "update annex.api_keys set allowed_addresses = '{::1}'", "api_key:{key}"),
    ("api_keys", "update annex.api_keys set rate_limit_per_minute = 1", None),
    ("roles", "update annex.roles set grantable = '{*}'", None),
    ("api_keys", "delete from annex.api_keys", "api_key:{key}"),
]


@pytest.mark.parametrize(("table", "statement", "whose"), RIGHTS, ids=lambda v: str(v))
async def test_a_change_of_rights_names_whose_they_are(
    table: str, statement: str, whose: str | None, scene: Scene
) -> None:
    api_key = await scene.admin.fetchval(
        "select id from annex.api_keys where workspace_id = $1", scene.workspace
    )
    await scene.admin.execute(f"{statement} {scene.one(table)}")
    rights_of = await scene.admin.fetchval(
        "select rights_of from annex.pending where workspace_id = $1 and id > $2",
        scene.workspace,
        scene.after,
    )
    assert rights_of == (whose and whose.format(owner=scene.owner, key=api_key))


async def test_a_new_row_names_whose_rights_it_gives(scene: Scene) -> None:
    rows = await scene.admin.fetch(
        "select split_part(e.type, '.', 2) as noun, p.rights_of from annex.pending p"
        " join annex.events e using (event_id) where p.workspace_id = $1 order by p.id",
        scene.workspace,
    )
    named = {row["noun"]: row["rights_of"] for row in reversed(rows)}
    assert (named["workspace"], named["role"]) == ("*", "*")
    assert named["member"] == f"user:{scene.owner}"
    assert named["api_key"].startswith("api_key:")


@pytest.mark.parametrize("is_personal", [False, True])
async def test_an_own_event_is_queued_in_its_users_lane(is_personal: bool, scene: Scene) -> None:
    whose = scene.owner if is_personal else None
    made = await scene.admin.fetchval(
        "select annex.append_event($1, 'annex.test.made', 'test:1', '{}',"
        " 'members:read', 'user:1', user_id => $2)",
        scene.workspace,
        whose,
    )
    (event,) = await scene.drawn()
    assert (event["event_id"], event["user_id"]) == (made, whose)
    assert (event["source"], event["permission"]) == ("annex", "members:read")
    queued = await scene.admin.fetchrow("select * from annex.pending where event_id = $1", made)
    assert queued is not None
    assert (queued["user_id"], queued["is_personal"]) == (whose, is_personal)
    assert queued["rights_of"] == "user:1"


async def test_a_real_change_counts_the_version_and_moves_updated_at(scene: Scene) -> None:
    row = f"select version, updated_at from annex.workspaces {scene.one('workspaces')}"
    (before,) = await scene.admin.fetch(row)
    await scene.admin.execute(f"update annex.workspaces set name = 'New' {scene.one('workspaces')}")
    (after,) = await scene.admin.fetch(row)
    assert (before["version"], after["version"]) == (1, 2)
    assert after["updated_at"] > before["updated_at"]


async def test_a_write_that_changes_nothing_leaves_the_version_alone(scene: Scene) -> None:
    row = f"select version, updated_at from annex.workspaces {scene.one('workspaces')}"
    before = await scene.admin.fetchrow(row)
    await scene.admin.execute(f"update annex.workspaces set name = name {scene.one('workspaces')}")
    assert await scene.admin.fetchrow(row) == before


async def test_the_version_is_not_the_writers_to_choose(scene: Scene) -> None:
    await scene.admin.execute(
        f"update annex.workspaces set name = 'New', version = 70 {scene.one('workspaces')}"
    )
    row = f"select version from annex.workspaces {scene.one('workspaces')}"
    assert await scene.admin.fetchval(row) == 2


async def test_deleting_a_supabase_user_removes_what_is_theirs(scene: Scene) -> None:
    member = await new_user(scene.admin)
    await join(scene.admin, scene.workspace, member, "member")
    await scene.admin.execute("delete from auth.users where id = $1", member)
    for table in ("profiles", "members"):
        count = f"select count(*) from annex.{table} where user_id = $1"
        assert await scene.admin.fetchval(count, member) == 0
    added, removed = await scene.drawn()
    assert (added["type"], removed["type"]) == ("annex.member.added", "annex.member.removed")
    assert removed["actor"] == "system"


async def test_supabase_itself_may_delete_a_user(database: TestDatabase, scene: Scene) -> None:
    async with database.connect("postgres") as connection:
        await connection.execute("set session authorization supabase_auth_admin")
        await connection.execute("delete from auth.users where id = $1", scene.owner)
    assert "annex.member.removed" in [row["type"] for row in await scene.drawn()]


async def test_a_workspace_outlives_its_creator(scene: Scene) -> None:
    await scene.admin.execute("delete from auth.users where id = $1", scene.owner)
    one = scene.one("workspaces")
    assert await scene.admin.fetch(f"select created_by from annex.workspaces {one}") == [(None,)]


async def test_removing_a_workspaces_row_removes_what_is_in_it_and_keeps_its_events(
    scene: Scene,
) -> None:
    await scene.admin.execute(f"delete from annex.workspaces {scene.one('workspaces')}")
    for table in ("members", "roles", "api_keys"):
        count = f"select count(*) from annex.{table} {scene.one(table)}"
        assert await scene.admin.fetchval(count) == 0
    assert {row["type"] for row in await scene.drawn()} == {
        "annex.workspace.deleted",
        "annex.member.removed",
        "annex.role.deleted",
        "annex.api_key.deleted",
    }


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("workspaces", {"name": "x", "slug": "x", "metadata": "[]"}),
        ("workspaces", {"name": "x", "slug": "x", "metadata": f'{{"a": "{"x" * 16384}"}}'}),
        ("roles", {"key": "owner", "name": "x", "permissions": [], "workspace_id": uuid4()}),
        ("roles", {"key": "insider", "name": "x", "permissions": []}),
        ("roles", {"key": "insider", "name": "x", "permissions": ["all"], "workspace_id": uuid4()}),
    ],
)
async def test_a_row_that_breaks_a_rule_is_refused(
    table: str, values: dict[str, Any], admin: Connection
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(admin, table, **values)
