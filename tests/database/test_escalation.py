"""Attempts to gain more than one has, straight in SQL, by everybody who can log in."""

import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import TestDatabase
from tests.database.conftest import (
    Claims,
    Connection,
    exchanged,
    insert,
    join,
    key,
    new_event,
    new_items,
    new_key,
    new_preferences,
    new_user,
    new_workspace,
    postgrest,
    user,
)

ALL = "annex.permissions()"
MANAGES = ("workspace:read", "members:manage", "roles:manage", "keys:manage", "invitations:manage")


class Scene(NamedTuple):
    """A workspace with everybody who might want more."""

    database: TestDatabase
    admin: Connection
    workspace: UUID
    owner: UUID
    target: UUID
    strong_key: UUID
    invitation: UUID
    """It offers the stronger role."""
    request: UUID
    """Somebody asks for the stronger role."""
    callers: dict[str, Claims]


@pytest.fixture
async def scene(database: TestDatabase, admin: Connection) -> Scene:
    owner, target = await new_user(admin), await new_user(admin)
    workspace = await new_workspace(admin, owner)
    await join(admin, workspace, target, "viewer")
    for name, permissions, grantable in (
        ("lead", [*MANAGES], ["viewer"]),
        ("strong", ["workspace:read", "events:audit"], []),
    ):
        role: dict[str, Any] = {
            "key": name,
            "name": name,
            "permissions": permissions,
            "grantable": grantable,
        }
        await insert(admin, "roles", "id", workspace_id=workspace, **role)
    callers: dict[str, Claims] = {}
    for role_key in ("viewer", "member", "admin", "lead"):
        someone = await new_user(admin)
        await join(admin, workspace, someone, role_key)
        callers[role_key] = user(someone)
    suspended, removed = await new_user(admin), await new_user(admin)
    await join(admin, workspace, suspended, "owner", "suspended")
    elsewhere = await new_workspace(admin, removed)
    weak = await key(admin, workspace, *MANAGES)
    callers |= {
        "suspended": user(suspended),
        "stranger": user(removed),
        "key": weak,
        "exchanged key": exchanged(weak),
        "key of another": await key(admin, elsewhere, *await admin.fetchval(f"select {ALL}")),
        "nobody": {},
        "user without a name": {"role": "authenticated"},
        "anonymous role": {"role": "anon", "sub": str(owner)},
        "forged operator": {"role": "annex_operator_", "sub": "x"},
    }
    strong_key = await new_key(admin, workspace, permissions=["events:audit"])
    soon = datetime.now(UTC) + timedelta(hours=1)
    offers: dict[str, Any] = {"workspace_id": workspace, "role": "strong", "expires_at": soon}
    address = f"{uuid4().hex}@example.org"
    asking = await new_user(admin)
    await admin.execute(
        "update auth.users set email = $2, email_confirmed_at = now() where id = $1",
        asking,
        address,
    )
    hashed: dict[str, Any] = {"token_hash": uuid4().bytes * 2, "invited_by": f"user:{owner}"}
    invitation = await insert(admin, "invitations", email="a@c.example", **hashed, **offers)
    request = await insert(
        admin, "invitations", email=address, status="requested", user_id=asking, **offers
    )
    return Scene(
        database, admin, workspace, owner, target, strong_key, invitation, request, callers
    )


ATTEMPTS = {
    "make an owner": "annex.update_member($1, $2, 'owner')",
    "give a stronger role": "annex.update_member($1, $2, 'strong')",
    "demote the owner": "annex.update_member($1, $3, 'viewer')",
    "suspend the owner": "annex.update_member($1, $3, null, 'suspended')",
    "mark the owner": """annex.update_member($1, $3, metadata_patch => '{"a": 1}')""",
    "remove the owner": "annex.remove_member($1, $3)",
    "weaken a stronger role": "annex.put_role($1, 'strong', 'x', '{workspace:read}')",
    "make a role of everything": f"annex.put_role($1, 'new', 'x', {ALL})",
    "make a role that gives ownership":
        "annex.put_role($1, 'new', 'x', '{workspace:read}', '{owner}')",
    "rewrite what owners may": f"annex.put_role($1, 'owner', 'x', {ALL})",
    "demand a second factor": """annex.update_workspace($1, '{"require_aal2": true}')""",
    "keep events for a day": """annex.update_workspace($1, '{"event_retention_days": 1}')""",
    "delete a stronger role": "annex.delete_role($1, 'strong')",
    "make a key of everything":
        f"annex.create_api_key($1, 'x', $6, $4, {ALL})",
    "make a key that gives ownership":
        "annex.create_api_key($1, 'x', $6, $4, '{workspace:read}', '{owner}')",
    "rotate a stronger key": "annex.rotate_api_key($1, $5, $6, $4, 0)",
    "invite an owner":
        "annex.create_invitations($1, '{a@b.example}', array[$9::bytea], 'owner', 1, 1, false, 1)",
    "invite with a stronger role":
        "annex.create_invitations($1, '{a@b.example}', array[$9::bytea], 'strong', 1, 1, false, 1)",
    "send a stronger invitation again": "annex.resend_invitation($1, $7, $9, false, 1)",
    "approve a stronger request": "annex.approve_invitation($1, $8)",
    "let everybody in with a stronger role":
        "annex.create_join_rule($1, 'sso', $6, 'strong')",
}  # fmt: skip
# An admin holds all that these take.
FOR_ADMINS = {
    "demand a second factor",
    "keep events for a day",
    "give a stronger role",
    "weaken a stronger role",
    "delete a stronger role",
    "rotate a stronger key",
    "invite with a stronger role",
    "send a stronger invitation again",
    "approve a stronger request",
}
# Only who speaks for a provider may make a rule of it.
FOR_NOBODY = {"let everybody in with a stronger role"}
ONLY_API = {
    attempt
    for attempt, call in ATTEMPTS.items()
    if re.search(r"_api_key|_invitation|_join_rule", call)
}
GIVE_RIGHTS = """
select distinct p.proname from pg_proc p
where p.pronamespace = 'annex'::regnamespace
  and p.prosrc ~ '\\mannex\\.(require_grantable|require_within|add_api_key)\\('
  and (has_function_privilege('annex_api', p.oid, 'execute')
    or has_function_privilege('authenticated', p.oid, 'execute'))
"""


async def test_each_function_that_gives_rights_is_attempted(admin: Connection) -> None:
    found = {row[0] for row in await admin.fetch(GIVE_RIGHTS)}
    attempted = {name for call in ATTEMPTS.values() for name in re.findall(r"^annex\.(\w+)", call)}
    assert len(found) > 5
    assert found <= attempted


@contextlib.asynccontextmanager
async def session(scene: Scene, way: str, who: str) -> AsyncIterator[Connection]:
    opened = (
        postgrest(scene.database, scene.callers[who])
        if way == "postgrest"
        else scene.database.connect("annex_api", scene.callers[who])
    )
    async with opened as connection:
        yield connection


async def snapshot(scene: Scene) -> list[Any]:
    """Read everything that says who may do what."""
    return [
        await scene.admin.fetch(
            f"select to_jsonb(t)::text from annex.{table} t where workspace_id = $1 order by 1",
            scene.workspace,
        )
        for table in ("members", "roles", "api_keys", "invitations", "join_rules")
    ] + [
        await scene.admin.fetchval(
            "select to_jsonb(w)::text from annex.workspaces w where id = $1", scene.workspace
        )
    ]


async def test_no_patch_goes_past_what_it_may_name(scene: Scene) -> None:
    scene.callers["owner"] = user(scene.owner)
    wrong = {
        """{"deleted_at": "2020-01-01"}""": "invalid_request",
        """{"created_by": null, "name": "x"}""": "invalid_request",
        '["name"]': "invalid_request",
        '"name"': "invalid_request",
        "null": "invalid_request",
        """{"require_aal2": true}""": "second_factor_required",
        """{"member_limit": 7}""": "operator_required",
    }
    before = await snapshot(scene)
    for patch, code in wrong.items():
        for way in ("annex_api", "postgrest"):
            async with session(scene, way, "owner") as connection:
                with pytest.raises(asyncpg.PostgresError) as refusal:
                    await connection.execute(
                        "select annex.update_workspace($1, $2::text::jsonb)", scene.workspace, patch
                    )
            assert getattr(refusal.value, "constraint_name", None) == code, patch
    async with session(scene, "annex_api", "owner") as connection:
        for patch in ("""{"user_id": null}""", """{"email": "x"}""", "[]", "1"):
            with pytest.raises(asyncpg.PostgresError) as refusal:
                await connection.execute("select annex.update_profile($1::text::jsonb)", patch)
            assert getattr(refusal.value, "constraint_name", None) == "invalid_request", patch
    async with session(scene, "annex_api", "key") as connection:
        with pytest.raises(asyncpg.PostgresError) as refusal:
            await connection.execute("select annex.update_profile()")
    assert getattr(refusal.value, "constraint_name", None) == "user_required"
    assert await snapshot(scene) == before


@pytest.mark.parametrize("way", ["annex_api", "postgrest"])
@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_nobody_gains_what_they_lack(attempt: str, way: str, scene: Scene) -> None:
    before = await snapshot(scene)
    arguments = (
        scene.workspace,
        scene.target,
        scene.owner,
        bytes(32),
        scene.strong_key,
        uuid4().hex[:12],
        scene.invitation,
        scene.request,
        uuid4().bytes * 2,
    )
    places = [n for n in range(1, 10) if f"${n}" in ATTEMPTS[attempt]]
    sql = "select " + ATTEMPTS[attempt]
    # Postgres wants to know the type of each place.
    for n, place in enumerate(places, 1):
        sql = sql.replace(f"${place}", f"${n}")
    values = [arguments[p - 1] for p in places]
    for who in scene.callers:
        if who == "admin" and attempt in FOR_ADMINS | FOR_NOBODY:
            continue
        async with session(scene, way, who) as connection:
            with pytest.raises(asyncpg.PostgresError) as refusal:
                async with connection.transaction():
                    await connection.execute(sql, *values)
        code = getattr(refusal.value, "constraint_name", None)
        if way == "postgrest" and attempt in ONLY_API:
            assert isinstance(refusal.value, asyncpg.InsufficientPrivilegeError)
        else:
            assert code in ("not_found", "forbidden", "not_grantable"), (who, refusal.value)
    assert await snapshot(scene) == before
    # The owner may, so that it was the right that they lacked.
    scene.callers["owner"] = user(scene.owner)
    if attempt == "demand a second factor":
        scene.callers["owner"] |= {"aal": "aal2"}
    if attempt in FOR_ADMINS or attempt.startswith("make"):
        async with session(scene, "annex_api", "owner") as connection:
            await connection.execute(sql, *values)


@pytest.mark.parametrize("way", ["annex_api", "postgrest"])
async def test_no_table_of_rights_is_written_directly(way: str, scene: Scene) -> None:
    scene.callers["owner"] = user(scene.owner)
    before = await snapshot(scene)
    for who in scene.callers:
        async with session(scene, way, who) as connection:
            for table in ("members", "roles", "api_keys", "events", "log", "event_keys"):
                columns = [
                    row[0]
                    for row in await scene.admin.fetch(
                        "select attname from pg_attribute where attrelid = $1::regclass"
                        " and attnum > 0 and not attisdropped",
                        f"annex.{table}",
                    )
                ]
                for statement in (
                    *(f'update annex.{table} set "{c}" = "{c}"' for c in columns),
                    f"delete from annex.{table}",
                    f"truncate annex.{table}",
                    f"insert into annex.{table} default values",
                    f"alter table annex.{table} disable trigger all",
                    f"drop table annex.{table}",
                    f"create trigger t after insert on annex.{table} execute function f()",
                ):
                    state = None
                    try:
                        async with connection.transaction():
                            await connection.execute(statement)
                    except asyncpg.PostgresError as error:
                        state = error.sqlstate
                    assert state == "42501", (who, statement)
    assert await snapshot(scene) == before


@pytest.mark.parametrize("role", ["annex_api", "annex_worker", "authenticator"])
@pytest.mark.parametrize(
    "statement",
    [
        "set session_replication_role = replica",
        "create or replace function annex.keep_owner() returns trigger language sql as 'select 1'",
        "alter function annex.grants security definer",
        "drop function annex.record_change()",
        "alter table annex.events detach partition annex.events_default",
        "set role annex_owner",
        "create schema stolen",
        "create policy p on annex.members using (true)",
    ],
)
async def test_no_login_role_undoes_a_guard(
    role: str, statement: str, database: TestDatabase
) -> None:
    async with database.connect(role) as connection:
        with pytest.raises(asyncpg.PostgresError) as refusal:
            await connection.execute(statement)
    assert refusal.value.sqlstate == "42501", refusal.value


async def test_who_is_removed_has_nothing_left(scene: Scene) -> None:
    someone = await new_user(scene.admin)
    await join(scene.admin, scene.workspace, someone, "admin")
    await hold_everything(scene, someone)
    holds = "select exists (select from annex.granted() where workspace_id = $1)"
    claims = user(someone)
    async with postgrest(scene.database, claims) as connection:
        assert await connection.fetchval(holds, scene.workspace)
    held = "select count(*) from annex.{} where workspace_id = $1 and user_id = $2"
    tables = await tables_of_members(scene.admin)
    for table in tables:
        count = await scene.admin.fetchval(held.format(table), scene.workspace, someone)
        assert count > 0, f"give the member something in {table}"
    async with scene.database.connect("annex_api", user(scene.owner)) as connection:
        await connection.execute("select annex.remove_member($1, $2)", scene.workspace, someone)
    async with postgrest(scene.database, claims) as connection:
        assert not await connection.fetchval(holds, scene.workspace)
        assert not await connection.fetchval("select annex.is_member($1)", scene.workspace)
    left = {
        table
        for table in tables
        if await scene.admin.fetchval(held.format(table), scene.workspace, someone)
    }
    assert left == STAYS_UNSEEN
    for opened in (
        postgrest(scene.database, claims),
        scene.database.connect("annex_api", claims),
    ):
        async with opened as connection:
            for table in tables:
                with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
                    async with connection.transaction():
                        seen = await connection.fetchval(
                            f"select count(*) from annex.{table} where workspace_id = $1",
                            scene.workspace,
                        )
                        assert seen == 0, table


STAYS_UNSEEN = {
    *("events", "pending", "log", "suppressions"),  # what happened
    *("notifications", "inboxes", "mails", "unsubscribe_tokens"),  # until they come back or expire
    "invitations",  # a question that somebody may still refuse
}
"""What a member's removal leaves: none is a right, and none is seen by them."""


async def tables_of_members(admin: Connection) -> set[str]:
    """Name the tables that hold something of a user in a workspace."""
    tables = await admin.fetch(
        "select c.relname from pg_class c where c.relnamespace = 'annex'::regnamespace"
        " and c.relkind in ('r', 'p') and not c.relispartition"
        " and 2 = (select count(*) from pg_attribute a where a.attrelid = c.oid"
        " and a.attname in ('workspace_id', 'user_id'))"
    )
    # A removal bars the way in by a rule; all others could be rights.
    return {row[0] for row in tables} - {"removals"}


async def hold_everything(scene: Scene, member: UUID) -> None:
    """Give a member a row in each table that can hold one."""
    admin, workspace = scene.admin, scene.workspace
    item = await new_items(admin, workspace, member, await new_event(admin, workspace))
    await new_preferences(admin, workspace, member)
    owned: dict[str, Any] = {"workspace_id": workspace, "user_id": member}
    address = f"{uuid4().hex}@example.org"
    soon = datetime.now(UTC) + timedelta(hours=1)
    await insert(
        admin,
        "invitations",
        role="viewer",
        email=address,
        status="requested",
        expires_at=soon,
        **owned,
    )
    await insert(admin, "mails", notification_id=item, recipient=address, **owned)
    told = await new_event(admin, workspace, user_id=member)
    await insert(admin, "pending", "event_id", event_id=told, is_personal=True, **owned)
    pos = await admin.fetchval("select max(pos) + 1 from annex.log")
    await insert(admin, "log", "event_id", event_id=told, pos=pos or 1, **owned)


@pytest.mark.parametrize(
    "role", ["", "Owner", "owner,admin", "\u043ewner", "\uff4fwner", "strong ", "nosuch", "*"]
)
async def test_sql_stores_no_role_that_is_not_there(role: str, scene: Scene) -> None:
    someone = await new_user(scene.admin)
    with pytest.raises((asyncpg.ForeignKeyViolationError, asyncpg.CheckViolationError)):
        await join(scene.admin, scene.workspace, someone, role)


async def test_an_entity_has_one_column_for_its_role(admin: Connection) -> None:
    columns = await admin.fetch(
        "select c.relname, array_agg(a.attname::text) from pg_attribute a"
        " join pg_class c on c.oid = a.attrelid where c.relnamespace = 'annex'::regnamespace"
        " and c.relkind in ('r', 'p') and a.attname ~ '^(role|role_.*|.*_role|is_owner|is_admin)$'"
        " group by 1"
    )
    assert all(len(names) == 1 for _, names in columns), columns


async def test_nothing_offers_a_role_that_was_deleted(scene: Scene) -> None:
    """A role made anew under the same key is another one, and nobody offered it."""
    role = {"key": "guest", "name": "Guest", "permissions": ["workspace:read"]}
    await insert(scene.admin, "roles", "id", workspace_id=scene.workspace, **role)
    soon = datetime.now(UTC) + timedelta(hours=1)
    rows: dict[str, list[dict[str, Any]]] = {
        "roles.grantable": [
            {
                "key": "host",
                "name": "Host",
                "permissions": ["workspace:read"],
                "grantable": ["guest"],
            }
        ],
        "api_keys.grantable": [
            {
                "name": "k",
                "prefix": uuid4().hex[:12],
                "secret_hash": bytes(32),
                "permissions": ["workspace:read"],
                "grantable": ["guest"],
            }
        ],
        "join_rules.role": [
            {"kind": "domain", "value": f"d{uuid4().hex[:8]}.example", "role": "guest"}
        ],
        "invitations.role": [
            {
                "email": f"{status}@example.com" if status != "link" else None,
                "role": "guest",
                "status": "pending" if status == "link" else status,
                "token_hash": uuid4().bytes * 2,
                "expires_at": soon,
            }
            for status in ("pending", "requested", "link")
        ],
    }
    # By a foreign key's worth: who holds a role keeps it (role_in_use).
    named = await scene.admin.fetch(
        "select c.relname || '.' || a.attname from pg_attribute a join pg_class c on"
        " c.oid = a.attrelid where c.relnamespace = 'annex'::regnamespace and c.relkind in"
        " ('r', 'p') and a.attname in ('role', 'grantable')"
    )
    assert {row[0] for row in named} == {*rows, "members.role"}
    for place, made in rows.items():
        for columns in made:
            await insert(scene.admin, place.split(".")[0], workspace_id=scene.workspace, **columns)
    async with scene.database.connect("annex_api", user(scene.owner)) as connection:
        await connection.execute("select annex.delete_role($1, 'guest')", scene.workspace)
    for place in rows:
        table, column = place.split(".")
        is_open = " and status in ('pending', 'requested')" if table == "invitations" else ""
        left = await scene.admin.fetchval(
            f"select count(*) from annex.{table} where workspace_id = $1"
            f" and 'guest' = any ({column if column == 'grantable' else 'array[role]'}){is_open}",
            scene.workspace,
        )
        assert left == 0, place
    live = (
        "select count(*) from annex.invitations where workspace_id = $1 and role = 'guest'"
        " and token_hash <> ''"
    )
    assert await scene.admin.fetchval(live, scene.workspace) == 0


async def test_only_a_membership_goes_with_its_user(admin: Connection) -> None:
    cascades = await admin.fetch(
        "select conrelid::regclass::text from pg_constraint where contype = 'f' and"
        " confdeltype = 'c' and confrelid in ('auth.users'::regclass, 'annex.profiles'::regclass)"
    )
    blocks = await admin.fetch(
        "select conname from pg_constraint where contype = 'f' and confdeltype in ('a', 'r')"
        " and confrelid in ('auth.users'::regclass, 'annex.profiles'::regclass)"
    )
    # What is a user's own, and nothing that a workspace made.
    own = {"profiles", "members", "removals", "subscriptions", "notifications", "inboxes"}
    own |= {"suppressions", "preferences", "mails", "unsubscribe_tokens"}
    assert {row[0].removeprefix("annex.") for row in cascades} <= own
    assert blocks == []


async def test_what_a_user_did_stays_in_the_log_without_them(scene: Scene) -> None:
    actor = await new_user(scene.admin)
    await join(scene.admin, scene.workspace, actor, "admin")
    async with scene.database.connect("annex_api", user(actor)) as connection:
        await connection.execute(
            "select annex.update_member($1, $2, 'member')", scene.workspace, scene.target
        )
    mine = "select count(*) from annex.events where workspace_id = $1 and actor = $2"
    arguments = (scene.workspace, f"user:{actor}")
    before = await scene.admin.fetchval(mine, *arguments)
    await scene.admin.execute("delete from auth.users where id = $1", actor)
    assert await scene.admin.fetchval(mine, *arguments) == before > 0


async def test_a_custom_role_with_no_permission_gives_none(scene: Scene) -> None:
    someone = await new_user(scene.admin)
    await insert(
        scene.admin, "roles", workspace_id=scene.workspace, key="empty", name="E", permissions=[]
    )
    await join(scene.admin, scene.workspace, someone, "empty")
    async with postgrest(scene.database, user(someone)) as connection:
        assert await connection.fetch("select * from annex.granted()") == []
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(
                "select annex.put_role($1, 'x', 'x', '{workspace:read}')", scene.workspace
            )


async def test_unknown_ids_and_foreign_ones_are_refused_alike(scene: Scene) -> None:
    said = []
    for workspace in (scene.workspace, uuid4()):
        async with scene.database.connect("annex_api", scene.callers["stranger"]) as connection:
            with pytest.raises(asyncpg.PostgresError) as refusal:
                await connection.execute(
                    "select annex.update_member($1, $2, 'owner')", workspace, scene.target
                )
        said.append((str(refusal.value), refusal.value.sqlstate))
    assert said[0] == said[1]
