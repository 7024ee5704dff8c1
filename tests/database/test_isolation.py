"""Who sees and writes which rows, asked by roles that are logged in."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import TestDatabase, encode
from tests.database.conftest import (
    OPERATOR,
    Claims,
    Connection,
    claim,
    exchanged,
    insert,
    join,
    key,
    new_event,
    new_invitation,
    new_items,
    new_key,
    new_preferences,
    new_user,
    new_workspace,
    postgrest,
    user,
)

Denied = asyncpg.InsufficientPrivilegeError
READS = ("workspace:read", "members:read", "roles:read", "events:read", "events:audit")
TABLES = """
select c.relname from pg_class c
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
order by 1
"""
COLUMNS = """
select a.attname from pg_attribute a
where a.attrelid = ('annex.' || $1)::regclass and a.attnum > 0
  and not a.attisdropped and a.attidentity = '' and a.attgenerated = ''
"""


class Tenants(NamedTuple):
    """Two workspaces with no user in common, each with a row in every table."""

    mine: UUID
    me: UUID
    theirs: UUID
    them: UUID
    key: Claims
    """A key of mine."""
    events: dict[UUID, UUID]
    """One of each workspace."""

    def whose(self, table: str) -> tuple[str, Any]:
        """Return the column of a table that says whose a row is, and its value for theirs."""
        match table:
            case "workspaces":
                return "id", self.theirs
            case "profiles" | "erasures":
                return "user_id", self.them
            case "idempotency_keys":
                return "principal", f"user:{self.them}"
            case "mail_retries":
                return "notification_id", self.theirs
            case "mail_backlogs":
                return "tenant", self.theirs
            case "fanouts":
                return "event_id", self.events[self.theirs]
            case "event_type_changes":
                return "name", "test.isolated"
            case "log_state" | "mail_state":
                return "id", 1
            case "retentions":
                return "feed_id", self.theirs
            case "readers":
                return "name", "test"
            case "locks":
                return "name", "expiry"
            case "limits":
                return "name", "workspaces_per_user"
            case "migrations":
                return "name", "01_roles_and_claims"
            case "public_mail_domains":
                return "domain", "gmail.com"
            case _:
                return "workspace_id", self.theirs


@pytest.fixture
async def tenants(admin: Connection) -> Tenants:
    me, them = await new_user(admin), await new_user(admin)
    mine = await new_workspace(admin, me)
    own = await key(admin, mine, *READS, "workspace:update")
    made = Tenants(mine, me, await new_workspace(admin, them), them, own, {})
    for workspace in (made.mine, made.theirs):
        await new_key(admin, workspace)
        await new_role(admin, workspace, "auditor", "events:read", "events:audit")
        event = await new_event(admin, workspace)
        owned: dict[str, Any] = {"workspace_id": workspace, "event_id": event}
        await insert(admin, "event_keys", "event_id", source="test", key="1", **owned)
        head = await admin.fetchval("select coalesce(max(pos), 0) from annex.log")
        await insert(admin, "log", "event_id", pos=head + 1, **owned)
        await insert(admin, "retentions", "feed_id", feed_id=workspace, retained_from=1)
        hour = await admin.fetchval("select now()")
        await insert(admin, "trails", workspace_id=workspace, hour=hour, bytes=1)
        await new_invitation(admin, workspace)
        member = me if workspace == made.mine else them
        await new_preferences(admin, workspace, member)
        await new_items(admin, workspace, member, event)
        made.events[workspace] = event
    await admin.execute("insert into annex.readers (name) values ('test') on conflict do nothing")
    await admin.execute(
        "insert into annex.event_types (name, category) values ('test.isolated', 'general')"
        " on conflict do nothing"
    )
    for owner in (me, them):
        await remember(admin, f"user:{owner}")
        await insert(admin, "erasures", "user_id", user_id=owner)
    return made


async def new_role(admin: Connection, workspace: UUID, key: str, *permissions: str) -> None:
    """Make a workspace's own role."""
    named = {"key": key, "name": key, "permissions": list(permissions)}
    await insert(admin, "roles", "id", workspace_id=workspace, **named)


async def remember(connection: Connection, principal: str) -> None:
    """Store an answer for an idempotency key."""
    await connection.execute(
        "insert into annex.idempotency_keys values"
        " ($1, 'POST /', $2, $3, 201, '{}', '', now() + interval '1 day')",
        principal,
        uuid4().hex,
        bytes(32),
    )


@contextlib.asynccontextmanager
async def session(database: TestDatabase, way: str, tenants: Tenants) -> AsyncIterator[Connection]:
    """Open one of the ways in which somebody from my workspace reaches the database."""
    match way:
        case "user over PostgREST":
            opened = postgrest(database, user(tenants.me))
        case "user of the API":
            opened = database.connect("annex_api", user(tenants.me))
        case "key of the API":
            opened = database.connect("annex_api", tenants.key)
        case "exchanged key over PostgREST":
            opened = postgrest(database, exchanged(tenants.key))
        case "exchanged key of the API":
            opened = database.connect("annex_api", exchanged(tenants.key))
        case "worker":
            opened = database.connect("annex_worker", OPERATOR)
        case _:
            raise AssertionError(way)
    async with opened as connection:
        yield connection


WAYS = (
    "user over PostgREST",
    "user of the API",
    "key of the API",
    "exchanged key over PostgREST",
    "exchanged key of the API",
    "worker",
)
every_way = pytest.mark.parametrize("way", WAYS)


def tables_of_others(tables: set[str], way: str) -> set[str]:
    """Leave out what is the worker's own: the cursors of its readers, which no tenant has."""
    return tables - {"readers"} if way == "worker" else tables


async def count(connection: Connection, table: str, column: str, value: Any) -> int:
    """Count the rows that a session sees; none where it has no right at all."""
    try:
        async with connection.transaction():
            seen: int = await connection.fetchval(
                f"select count(*) from annex.{table} where {column} = $1", value
            )
            return seen
    except Denied:
        return 0


async def all_tables(admin: Connection) -> set[str]:
    """Return the tables of the schema, without partitions and what is the same for all tenants."""
    return {row["relname"] for row in await admin.fetch(TABLES)} - {"event_types"}


async def their_rows(admin: Connection, connection: Connection, tenants: Tenants) -> dict[str, int]:
    """Count what a session sees of the other tenant, by table; only tables that show something."""
    tables = await all_tables(admin)
    seen = {t: await count(connection, t, *tenants.whose(t)) for t in tables}
    return {table: rows for table, rows in seen.items() if rows}


async def test_the_other_tenant_has_a_row_in_every_table(
    admin: Connection, tenants: Tenants
) -> None:
    assert set(await their_rows(admin, admin, tenants)) == await all_tables(admin)


@every_way
async def test_rows_of_another_workspace_are_invisible(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with session(database, way, tenants) as connection:
        seen = set(await their_rows(admin, connection, tenants))
        assert tables_of_others(seen, way) == set()


@every_way
async def test_rows_of_another_workspace_cannot_be_updated_or_deleted(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with session(database, way, tenants) as connection:
        for table in tables_of_others(await all_tables(admin), way):
            column, value = tenants.whose(table)
            columns = [row["attname"] for row in await admin.fetch(COLUMNS, table)]
            changes = [f'update annex.{table} set "{c}" = "{c}"' for c in columns]
            for change in (*changes, f"delete from annex.{table}"):
                with contextlib.suppress(Denied):
                    async with connection.transaction():
                        done = await connection.execute(f"{change} where {column} = $1", value)
                        assert done.endswith(" 0"), change


@every_way
async def test_nobody_inserts_but_their_own_answers(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    own = {"idempotency_keys"} if way.endswith("of the API") else set[str]()
    async with session(database, way, tenants) as connection:
        for table in tables_of_others(await all_tables(admin), way) - own:
            with pytest.raises(Denied):
                async with connection.transaction():
                    await connection.execute(f"insert into annex.{table} default values")


async def test_the_api_writes_neither_profiles_nor_workspaces_past_their_functions(
    database: TestDatabase, tenants: Tenants
) -> None:
    for claims in (user(tenants.me), {"role": "annex_operator", "sub": "x"}):
        async with database.connect("annex_api", claims) as connection:
            for statement in (
                "insert into annex.profiles (user_id) select annex.user_id()",
                "update annex.profiles set display_name = 'x'",
                "update annex.workspaces set require_aal2 = true",
                "update annex.workspaces set metadata = '{}'",
            ):
                with pytest.raises(Denied, match="permission denied"):
                    await connection.execute(statement)


async def test_nobody_stores_an_answer_for_another(
    database: TestDatabase, tenants: Tenants
) -> None:
    async with database.connect("annex_api", user(tenants.me)) as connection:
        with pytest.raises(Denied, match="row-level security"):
            await remember(connection, f"user:{tenants.them}")


@every_way
async def test_a_row_is_never_moved_to_another_workspace(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with session(database, way, tenants) as connection:
        for table in tables_of_others(await all_tables(admin), way):
            column, value = tenants.whose(table)
            with pytest.raises(Denied):
                async with connection.transaction():
                    await connection.execute(f"update annex.{table} set {column} = $1", value)


@every_way
async def test_definer_functions_ask_for_the_callers_rights_in_that_workspace(
    way: str, database: TestDatabase, tenants: Tenants
) -> None:
    calls = (
        "annex.delete_workspace($1)",
        "annex.publish($1, 'test.made')",
        """annex.publish_events($1, '[{"type": "test.made", "source": "test"}]')""",
        "annex.create_invitations($1, '{a@b.example}', '{}', 'viewer', 1, 1, true, 1)",
        "annex.revoke_invitation($1, $1)",
        "annex.resend_invitation($1, $1, null, true, 1)",
        "annex.approve_invitation($1, $1)",
        "annex.create_join_rule($1, 'domain', 'b.example', 'viewer')",
        "annex.delete_join_rule($1, $1)",
        "annex.patch_preferences($1::uuid::text, true, '{}')",
        "annex.patch_preferences($1::uuid::text, false, '{}')",
        "annex.find_preferences($1::uuid::text, true)",
        "annex.trace_event($1, $1, null, 10)",
    )
    async with session(database, way, tenants) as connection:
        for call in calls:
            with pytest.raises(Denied):
                async with connection.transaction():
                    await connection.fetch(f"select {call}", tenants.theirs)


@pytest.mark.parametrize("way", WAYS[:-1])
async def test_ones_own_workspace_is_visible(
    way: str, database: TestDatabase, tenants: Tenants
) -> None:
    async with session(database, way, tenants) as connection:
        assert await count(connection, "workspaces", "id", tenants.mine) == 1
        assert await count(connection, "members", "workspace_id", tenants.mine) == 1
        assert await count(connection, "roles", "workspace_id", tenants.mine) == 1
        # One was made, eight are changes to rows; those of the key, the invitation and the rule
        # need permissions of their own. What a member prefers is nobody else's to read.
        seen = 5 if "key" in way else 9
        assert await count(connection, "preferences", "workspace_id", tenants.mine) == (
            1 if "key" in way else 2
        )
        assert await count(connection, "events", "workspace_id", tenants.mine) == seen


@pytest.mark.parametrize("login", ["annex_api", "authenticator", "annex_worker"])
@pytest.mark.parametrize("role", ["annex_owner", "supabase_postgres", "postgres"])
async def test_a_login_role_cannot_become_the_owner(
    login: str, role: str, database: TestDatabase
) -> None:
    async with database.connect(login) as connection:
        for command in ("role", "session authorization"):
            with pytest.raises(Denied):
                await connection.execute(f"set {command} {role}")


async def test_anon_may_do_nothing(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with postgrest(database, {"role": "anon"}, "anon") as connection:
        assert await their_rows(admin, connection, tenants) == {}
        with pytest.raises(Denied, match="schema annex"):
            await connection.execute("select annex.permissions()")


@pytest.mark.parametrize("claims", ["key", "operator"])
async def test_only_the_api_vouches_for_keys_and_operators(
    claims: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    forged = await key(admin, tenants.theirs, *READS) if claims == "key" else OPERATOR
    async with postgrest(database, forged) as connection:
        assert await their_rows(admin, connection, tenants) == {}
        ask = "select annex.has_permission($1, 'events:read')"
        assert await connection.fetchval(ask, tenants.theirs) is False
        who = "select coalesce(annex.key_id()::text, ''), annex.is_operator(), annex.principal()"
        [found] = await connection.fetch(who)
        assert tuple(found) == ("", False, "system")


@pytest.mark.parametrize("change", ["expires_at = now()", "revoked_at = now()"])
async def test_the_token_of_a_key_that_ended_shows_nothing(
    change: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    claims = await key(admin, tenants.mine, *READS)
    ask = "select annex.has_permission($1, 'events:read')"
    for is_good in (True, False):
        async with postgrest(database, exchanged(claims)) as connection:
            assert await connection.fetchval(ask, tenants.mine) is is_good
        await admin.execute(
            f"update annex.api_keys set {change} where id = $1", UUID(claims["sub"])
        )


async def test_service_role_reads_no_table(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with postgrest(database, {"role": "service_role"}, "service_role") as connection:
        assert await their_rows(admin, connection, tenants) == {}


def stolen(tenants: Tenants) -> list[str]:
    """Return contexts that no principal has."""
    them, theirs = str(tenants.them), str(tenants.theirs)
    objects: list[Claims] = [
        {},
        {"role": "authenticated"},
        {"role": "authenticated", "sub": None},
        {"role": "authenticated", "sub": "nobody"},
        {"role": "authenticated", "sub": [them]},
        {"role": ["authenticated"], "sub": them},
        {"role": "Authenticated", "sub": them},
        {"role": "service_role", "sub": them},
        {"role": "annex_owner", "sub": them},
        {"sub": them},
        {"role": "annex_key"},
        {"role": "annex_key", "workspace_id": theirs, "permissions": READS},
        {"role": "annex_key", "sub": theirs, "permissions": READS},
        {"role": "annex_key", "sub": "theirs"},
        {"role": "authenticated", "sub": them, "annex_key": None},
        {"role": "authenticated", "sub": them, "annex_key": {}},
        {"role": "authenticated", "sub": them, "annex_key": theirs},
        {"role": "authenticated", "sub": them, "annex_key": {"id": theirs, "workspace_id": theirs}},
        {"role": "authenticated", "sub": them, "annex_key": {"id": "theirs"}},
        {"role": "authenticated", "sub": them, "annex_key": [theirs]},
        {"role": "ANNEX_OPERATOR"},
    ]
    texts = ["", " ", "null", "true", "7", '"x"', "[]", "{", "role=annex_operator", "{}{}"]
    return [*map(encode, objects), *texts]


@pytest.mark.parametrize("login", ["annex_api", "authenticator"])
async def test_a_context_that_no_principal_has_shows_nothing(
    login: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with database.connect(login) as connection:
        if login == "authenticator":
            await connection.execute("set role authenticated")
        for context in [None, *stolen(tenants)]:
            attempt = connection.transaction()
            await attempt.start()
            try:
                if context is not None:
                    await claim(connection, context)
                seen: Any = await their_rows(admin, connection, tenants)
            except asyncpg.InvalidTextRepresentationError as error:
                # Refused, which is as good, if it quotes only what the caller brought along.
                seen = {w for w in map(str, tenants) if w in str(error) and w not in str(context)}
            await attempt.rollback()
            assert not seen, context


async def test_claims_end_with_their_transaction(database: TestDatabase, tenants: Tenants) -> None:
    async with database.connect("annex_api") as connection:
        async with connection.transaction():
            await claim(connection, encode(user(tenants.me)))
            assert await count(connection, "workspaces", "id", tenants.mine) == 1
        assert await count(connection, "workspaces", "id", tenants.mine) == 0


async def test_claims_of_ones_own_making_do_no_harm(
    database: TestDatabase, tenants: Tenants
) -> None:
    own = user(tenants.me, workspace_id=42, permissions="all", is_operator=True)
    async with postgrest(database, own) as connection:
        assert await count(connection, "workspaces", "id", tenants.mine) == 1


@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_suspended_member_sees_nothing(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await join(admin, tenants.theirs, tenants.me, "owner", "suspended")
    async with session(database, way, tenants) as connection:
        assert await their_rows(admin, connection, tenants) == {}
        ask = "select annex.is_member($1) or annex.has_permission($1, 'workspace:read')"
        assert await connection.fetchval(ask, tenants.theirs) is False


@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_role_of_ones_own_gives_what_it_names(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await join(admin, tenants.theirs, tenants.me, "auditor")
    async with session(database, way, tenants) as connection:
        assert set(await their_rows(admin, connection, tenants)) - {"log", "retentions"} == {
            "events"
        }


async def test_a_role_of_another_workspace_gives_nothing(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await new_role(admin, tenants.mine, "insider", *READS)
    # As only a superuser could write it: no role of this name is theirs.
    async with admin.transaction():
        await admin.execute("set local session_replication_role = replica")
        await join(admin, tenants.theirs, tenants.me, "insider")
    async with postgrest(database, user(tenants.me)) as connection:
        assert await their_rows(admin, connection, tenants) == {}


async def test_a_changed_role_counts_at_once(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with postgrest(database, user(tenants.me)) as connection:
        ask = "select annex.has_permission($1, 'events:read')"
        assert await connection.fetchval(ask, tenants.theirs) is False
        await join(admin, tenants.theirs, tenants.me, "viewer")
        assert await connection.fetchval(ask, tenants.theirs) is True


NOUNS = {
    "workspace": "workspace:read",
    "member": "members:read",
    "role": "roles:read",
    "api_key": "keys:read",
    "invitation": "invitations:read",
    "join_rule": "invitations:read",
    "preferences": "workspace:read",
}
BY_PERMISSION = {p: {n for n, needed in NOUNS.items() if needed == p} for p in NOUNS.values()}
SEEN = "select distinct split_part(type, '.', 2) from annex.events where workspace_id = $1"


async def nouns(connection: Connection, workspace: UUID) -> set[str]:
    """Return the nouns of which a session sees events; `made` is an event without permission."""
    return {row[0] for row in await connection.fetch(SEEN, workspace)}


@pytest.mark.parametrize(
    ("role", "seen"),
    [
        ("viewer", {"made", "workspace", "preferences", "member", "role"}),
        ("member", {"made", "workspace", "preferences", "member", "role"}),
        ("admin", {"made", "login", *NOUNS}),
        ("owner", {"made", "login", *NOUNS}),
        ("auditor", {"made", "login"}),
    ],
)
@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_user_sees_the_events_whose_permission_they_hold(
    way: str,
    role: str,
    seen: set[str],
    database: TestDatabase,
    admin: Connection,
    tenants: Tenants,
) -> None:
    await new_event(admin, tenants.theirs, type="test.login", permission="events:audit")
    await join(admin, tenants.theirs, tenants.me, role)
    async with session(database, way, tenants) as connection:
        assert await nouns(connection, tenants.theirs) == seen


@pytest.mark.parametrize(
    ("permissions", "seen"),
    [
        ([], set[str]()),
        (list(NOUNS.values()), set[str]()),
        (["events:read"], {"made"}),
        (["events:read", "events:audit"], {"made", "login"}),
        (["events:read", *NOUNS.values()], {"made", *NOUNS}),
        *[(["events:read", needed], {"made", *nouns}) for needed, nouns in BY_PERMISSION.items()],
    ],
)
async def test_a_key_sees_the_events_whose_permission_it_has(
    permissions: list[str],
    seen: set[str],
    database: TestDatabase,
    admin: Connection,
    tenants: Tenants,
) -> None:
    await new_event(admin, tenants.mine, type="test.login", permission="events:audit")
    claims = await key(admin, tenants.mine, *permissions)
    for opened in (
        database.connect("annex_api", claims),
        postgrest(database, exchanged(claims)),
    ):
        async with opened as connection:
            assert await nouns(connection, tenants.mine) == seen
            assert await nouns(connection, tenants.theirs) == set()


async def test_an_operator_sees_the_events_of_every_permission(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await new_event(admin, tenants.mine, type="test.login", permission="events:audit")
    async with database.connect("annex_api", OPERATOR) as connection:
        assert await nouns(connection, tenants.mine) == {"made", "login", *NOUNS}


async def test_a_permission_in_another_workspace_shows_no_event(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    # I own mine and so hold keys:read there, but only view theirs.
    await join(admin, tenants.theirs, tenants.me, "viewer")
    async with postgrest(database, user(tenants.me)) as connection:
        assert "api_key" in await nouns(connection, tenants.mine)
        assert "api_key" not in await nouns(connection, tenants.theirs)


async def test_a_personal_event_shows_to_its_user_alone(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    member = await new_user(admin)
    await join(admin, tenants.mine, member, "viewer")
    event = await new_event(admin, tenants.mine, user_id=member)
    at = ("events", "event_id", event)
    async with postgrest(database, user(member)) as connection:
        assert await count(connection, *at) == 1
    async with postgrest(database, user(tenants.me)) as connection:
        assert await count(connection, *at) == 0
    for claims, seen in (
        (user(member), 1),
        (user(tenants.me), 0),
        (tenants.key, 0),
        (exchanged(tenants.key), 0),
        (OPERATOR, 0),
    ):
        async with database.connect("annex_api", claims) as connection:
            assert await count(connection, *at) == seen, claims


async def test_a_personal_event_does_not_outlast_the_membership(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    event = await new_event(admin, tenants.theirs, user_id=tenants.me)
    async with postgrest(database, user(tenants.me)) as connection:
        assert await count(connection, "events", "event_id", event) == 0


@pytest.mark.parametrize("way", WAYS[:2])
async def test_without_the_second_factor_only_the_workspace_itself_shows(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await admin.execute(
        "update annex.workspaces set require_aal2 = true where id = $1", tenants.theirs
    )
    await join(admin, tenants.theirs, tenants.me, "owner")
    async with session(database, way, tenants) as connection:
        assert set(await their_rows(admin, connection, tenants)) == {"workspaces", "preferences"}


async def test_with_the_second_factor_the_rest_shows(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await admin.execute(
        "update annex.workspaces set require_aal2 = true where id = $1", tenants.theirs
    )
    await join(admin, tenants.theirs, tenants.me, "owner")
    async with postgrest(database, user(tenants.me, aal="aal2")) as connection:
        seen = set(await their_rows(admin, connection, tenants))
        assert seen == {"workspaces", "preferences", "members", "profiles", "roles", "events"}


@pytest.mark.parametrize("way", WAYS[:-1])
async def test_a_deleted_workspace_is_out_of_sight(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await admin.execute(
        "update annex.workspaces set deleted_at = now() where id = $1", tenants.mine
    )
    seen_by_them = tenants._replace(theirs=tenants.mine)
    async with session(database, way, tenants) as connection:
        assert await their_rows(admin, connection, seen_by_them) == {}
        ask = "select annex.has_permission($1, 'workspace:read') or annex.is_member($1)"
        assert await connection.fetchval(ask, tenants.mine) is False


@pytest.mark.parametrize("way", WAYS[:-1])
async def test_no_workspace_is_not_every_workspace(
    database: TestDatabase, admin: Connection, tenants: Tenants, way: str
) -> None:
    """A row of your own that belongs to no workspace shows to nobody."""
    taking = await admin.fetch(
        "select p.oid::regproc::text as name, p.pronargs as count from pg_proc p"
        " where p.pronamespace = 'annex'::regnamespace"
        " and 'workspace_id' = any (p.proargnames[:p.pronargs])"
        " and has_function_privilege('annex_api', p.oid, 'execute')"
    )
    assert {"annex.is_member", "annex.has_permission"} <= {row["name"] for row in taking}
    async with session(database, way, tenants) as connection:
        ask = "select annex.is_member(null) or annex.has_permission(null, 'workspace:read')"
        assert await connection.fetchval(ask) is False
        for row in taking:
            nothing = ", ".join(["null"] * row["count"])
            try:
                async with connection.transaction():
                    found = await connection.fetch(f"select * from {row['name']}({nothing})")
            except asyncpg.PostgresError:
                continue
            assert not any(any(values) for values in found), row["name"]


async def test_an_operator_has_no_permission_in_a_deleted_workspace(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    await admin.execute(
        "update annex.workspaces set deleted_at = now() where id = $1", tenants.theirs
    )
    async with database.connect("annex_api", OPERATOR) as connection:
        assert await count(connection, "workspaces", "id", tenants.theirs) == 0
        ask = "select annex.has_permission($1, 'workspace:read')"
        assert await connection.fetchval(ask, tenants.theirs) is False
        ask = "select count(*) from annex.access($1)"
        assert await connection.fetchval(ask, str(tenants.theirs)) == 0


async def test_an_operator_sees_every_workspace_and_no_secret(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    async with database.connect("annex_api", OPERATOR) as connection:
        seen = set(await their_rows(admin, connection, tenants))
        others = {"members", "profiles", "roles", "api_keys", "events", "log", "retentions"}
        assert seen == {"workspaces", "preferences", "invitations", "join_rules", *others}
        for secret in ("secret_hash from annex.api_keys", "token_hash from annex.invitations"):
            with pytest.raises(Denied):
                await connection.fetch(f"select {secret}")


async def test_the_worker_moves_its_readers_and_removes_none(
    database: TestDatabase, tenants: Tenants
) -> None:
    async with database.connect("annex_worker") as connection:
        moved = await connection.execute("update annex.readers set pos = 1 where name = 'test'")
        assert moved == "UPDATE 1"
        with pytest.raises(Denied):
            await connection.execute("delete from annex.readers")


async def test_an_operator_writes_no_table(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    written = set()
    async with database.connect("annex_api", OPERATOR) as connection:
        for table in await all_tables(admin):
            column, value = tenants.whose(table)
            for name in [row["attname"] for row in await admin.fetch(COLUMNS, table)]:
                with contextlib.suppress(Denied):
                    change = f'update annex.{table} set "{name}" = "{name}" where {column} = $1'
                    if await connection.execute(change, value) != "UPDATE 0":
                        written.add(f"{table}.{name}")
    assert written == set()  # functions do


async def test_a_fellow_members_profile_shows_and_a_strangers_does_not(
    database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    fellow = await new_user(admin)
    await join(admin, tenants.mine, fellow, "viewer")
    async with postgrest(database, user(fellow)) as connection:
        seen = await connection.fetch("select user_id from annex.profiles")
        assert {row["user_id"] for row in seen} == {fellow, tenants.me}


async def test_postgrest_shows_no_column_that_is_not_granted(
    database: TestDatabase, tenants: Tenants
) -> None:
    async with postgrest(database, user(tenants.me)) as connection:
        for column in ("profiles.locale", "workspaces.created_by", "members.metadata"):
            with pytest.raises(Denied):
                async with connection.transaction():
                    await connection.execute(f"select {column} from annex.{column.split('.')[0]}")


@every_way
async def test_the_catalogue_is_read_by_all_and_written_by_none(
    way: str, database: TestDatabase, admin: Connection, tenants: Tenants
) -> None:
    name = f"test.{uuid4().hex[:8]}"
    await insert(admin, "event_types", name=name, category="general")
    async with session(database, way, tenants) as connection:
        assert await count(connection, "event_types", "name", name) == (way != "worker")
        for statement in (
            "update annex.event_types set category = 'x'",
            "delete from annex.event_types",
            "insert into annex.event_types (name, category) values ('x', 'x')",
            "select annex.put_event_type('x', '', 'x', false, '', '', null, null)",
        ):
            with pytest.raises(Denied):
                async with connection.transaction():
                    await connection.execute(statement)
