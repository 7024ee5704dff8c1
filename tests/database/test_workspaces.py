import re
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import NOBODYS_ID, TestDatabase, encode
from tests.database.conftest import (
    OPERATOR,
    Claims,
    Connection,
    claim,
    exchanged,
    join,
    key,
    new_user,
    new_workspace,
    postgrest,
    user,
)

CREATE = "select id from annex.create_workspace($1)"
SLUG = "select slug from annex.workspaces where id = $1"


async def create(database: TestDatabase, admin: Connection, name: str, **others: str) -> str:
    """Create a workspace as a new user of the API; returns its slug."""
    named = ", ".join(f"{k} => ${n}" for n, k in enumerate(others, 2))
    async with database.connect("annex_api", user(await new_user(admin))) as connection:
        made = await connection.fetchval(
            f"select id from annex.create_workspace($1{', ' if named else ''}{named})",
            name,
            *others.values(),
        )
    slug: str = await admin.fetchval(SLUG, made)
    return slug


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Ocean Tools", "ocean-tools"),
        ("  Sea -- Tools!  ", "sea-tools"),
        ("Büro für Ideen", "buro-fur-ideen"),
        ("Ünïque", "unique"),
        ("株式会社 Annex2", "annex2"),
        ("x" * 49 + " yy", "x" * 49),
        ("x" * 200, "x" * 50),
    ],
)
async def test_a_slug_is_made_from_the_name(
    name: str, slug: str, database: TestDatabase, admin: Connection
) -> None:
    assert await create(database, admin, name) == slug


@pytest.mark.parametrize("name", ["株式会社", "🚀", "---", "Ωμέγα"])
async def test_a_name_without_latin_letters_gets_a_slug_too(
    name: str, database: TestDatabase, admin: Connection
) -> None:
    assert re.fullmatch("workspace(-[0-9a-f]{8})?", await create(database, admin, name))


async def test_a_name_shaped_like_a_uuid_gets_a_slug_that_is_not(
    database: TestDatabase, admin: Connection
) -> None:
    name = str(uuid4())
    assert await create(database, admin, name) == f"workspace-{name}"


async def test_a_slug_that_was_made_and_is_taken_gets_an_ending(
    database: TestDatabase, admin: Connection
) -> None:
    first = await create(database, admin, "Twice the same")
    second = await create(database, admin, "Twice the same")
    assert re.fullmatch(f"{first}-[0-9a-f]{{8}}", second)


async def test_a_slug_that_was_asked_for_and_is_taken_is_refused(
    database: TestDatabase, admin: Connection
) -> None:
    await create(database, admin, "One", slug="asked-for")
    with pytest.raises(asyncpg.UniqueViolationError) as refusal:
        await create(database, admin, "Two", slug="asked-for")
    assert refusal.value.constraint_name == "slug_taken"


@pytest.mark.parametrize("slug", ["", "-a", "a-", "A", "a_b", "a" * 64, "ä", NOBODYS_ID, "a\n"])
async def test_a_malformed_slug_is_refused(
    slug: str, database: TestDatabase, admin: Connection
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await create(database, admin, "Name", slug=slug)


@pytest.mark.parametrize("name", ["", "x" * 201])
async def test_a_name_has_1_to_200_characters(
    name: str, database: TestDatabase, admin: Connection
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="workspaces_name_check"):
        await create(database, admin, name)


async def test_the_creator_becomes_the_owner(database: TestDatabase, admin: Connection) -> None:
    creator = await new_user(admin)
    async with postgrest(database, user(creator)) as connection:
        made = await connection.fetchval(CREATE, "Mine")
        members = await connection.fetch(
            "select user_id, role, status from annex.members where workspace_id = $1", made
        )
        assert [tuple(row) for row in members] == [(creator, "owner", "active")]


async def test_a_user_without_a_profile_gets_one(database: TestDatabase, admin: Connection) -> None:
    newcomer = uuid4()
    await admin.execute("insert into auth.users (id) values ($1)", newcomer)
    async with postgrest(database, user(newcomer, email="new@example.com")) as connection:
        await connection.execute(CREATE, "First")
    profile = "select email from annex.profiles where user_id = $1"
    assert await admin.fetchval(profile, newcomer) == "new@example.com"


async def test_only_a_user_creates_a_workspace(database: TestDatabase, admin: Connection) -> None:
    workspace = await new_workspace(admin, await new_user(admin))
    server = await key(admin, workspace, "workspace:update")
    nobody: Claims = {}
    for claims in (nobody, server, exchanged(server), OPERATOR):
        async with database.connect("annex_api", claims) as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetchval(CREATE, "Nobody's")


async def test_a_user_that_supabase_does_not_know_creates_nothing(database: TestDatabase) -> None:
    async with postgrest(database, user(uuid4())) as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await connection.fetchval(CREATE, "Ghost's")


async def delete(
    database: TestDatabase, claims: Claims, workspace: UUID, *versions: int
) -> str | None:
    """Delete a workspace as a caller of the API; returns the code of the refusal, if any."""
    async with database.connect("annex_api", claims) as connection:
        try:
            await connection.execute(
                "select annex.delete_workspace($1, $2)", workspace, versions or None
            )
        except asyncpg.PostgresError as refusal:
            code: str | None = refusal.as_dict()["constraint_name"]
            return code
    return None


@pytest.mark.parametrize(
    ("role", "may"), [("owner", True), ("admin", False), ("member", False), ("viewer", False)]
)
async def test_deleting_needs_the_permission(
    role: str, may: bool, database: TestDatabase, admin: Connection
) -> None:
    caller = await new_user(admin)
    workspace = await new_workspace(admin, await new_user(admin))
    await join(admin, workspace, caller, role)
    refusal = await delete(database, user(caller), workspace)
    assert refusal == (None if may else "forbidden")


async def test_an_operator_deletes_any_workspace(database: TestDatabase, admin: Connection) -> None:
    workspace = await new_workspace(admin, await new_user(admin))
    assert await delete(database, OPERATOR, workspace) is None


async def test_another_version_than_expected_is_not_deleted(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    await admin.execute("update annex.workspaces set name = 'New' where id = $1", workspace)
    assert await delete(database, user(owner), workspace, 1, 3) == "precondition_failed"
    assert await delete(database, user(owner), workspace, 1, 2) is None


async def test_a_workspace_is_deleted_once(database: TestDatabase, admin: Connection) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    assert await delete(database, user(owner), workspace) is None
    assert await delete(database, user(owner), workspace) == "not_found"


async def test_the_slug_of_a_deleted_workspace_is_free(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner, slug="comes-back")
    assert await delete(database, user(owner), workspace) is None
    assert await create(database, admin, "Again", slug="comes-back") == "comes-back"


async def test_access_takes_id_and_slug_and_says_what_the_caller_may(
    database: TestDatabase, admin: Connection
) -> None:
    member = await new_user(admin)
    workspace = await new_workspace(admin, await new_user(admin), slug="by-name")
    await join(admin, workspace, member, "member")
    permissions = await admin.fetchval(
        "select permissions from annex.roles where workspace_id is null and key = 'member'"
    )
    async with database.connect("annex_api", user(member)) as connection:
        for name in ("by-name", str(workspace), str(workspace).upper()):
            found = await connection.fetch("select * from annex.access($1)", name)
            assert [tuple(row) for row in found] == [(workspace, permissions, False)]


async def test_access_says_when_the_second_factor_is_missing(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner, require_aal2=True)
    ask = "select needs_aal2 from annex.access($1)"
    async with database.connect("annex_api") as connection:
        for aal, needs in (("aal1", True), ("aal2", False)):
            async with connection.transaction():
                await claim(connection, encode(user(owner, aal=aal)))
                assert await connection.fetchval(ask, str(workspace)) is needs


@pytest.mark.parametrize("state", ["expired", "revoked", "deleted"])
async def test_a_key_is_not_found_once_it_is(
    state: str, database: TestDatabase, admin: Connection
) -> None:
    workspace = await new_workspace(admin, await new_user(admin))
    prefix = uuid4().hex[:12]
    await admin.execute(
        "insert into annex.api_keys (workspace_id, name, prefix, secret_hash, permissions)"
        " values ($1, 'Key', $2, $3, '{}')",
        workspace,
        prefix,
        bytes(32),
    )
    change = {
        "expired": "update annex.api_keys set expires_at = now() where prefix = $1",
        "revoked": "update annex.api_keys set revoked_at = now() where prefix = $1",
        "deleted": "update annex.workspaces w set deleted_at = now()"
        " from annex.api_keys k where k.workspace_id = w.id and k.prefix = $1",
    }
    ask = "select count(*) from annex.find_api_key($1)"
    async with database.connect("annex_api") as connection:
        assert await connection.fetchval(ask, prefix) == 1
        await admin.execute(change[state], prefix)
        assert await connection.fetchval(ask, prefix) == 0


async def test_an_owner_who_is_suspended_is_no_owner_to_leave_behind(
    database: TestDatabase, admin: Connection
) -> None:
    owner, other = await new_user(admin), await new_user(admin)
    workspace = await new_workspace(admin, owner)
    await join(admin, workspace, other, "owner", "suspended")
    leave = "select annex.remove_member($1, $2)"
    async with database.connect("annex_api", user(owner)) as connection:
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await connection.execute(leave, workspace, owner)
        assert refused.value.constraint_name == "last_owner"
        await admin.execute("update annex.members set status = 'active' where user_id = $1", other)
        await connection.execute(leave, workspace, owner)


async def test_a_function_says_that_the_second_factor_is_missing(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner, require_aal2=True)
    publish = "select annex.publish($1, 'x')"
    async with database.connect("annex_api", user(owner)) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
            await connection.execute(publish, workspace)
        assert refused.value.constraint_name == "second_factor_required"
    async with database.connect("annex_api", user(owner, aal="aal2")) as connection:
        await connection.execute(publish, workspace)
