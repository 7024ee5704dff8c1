"""Two transactions that each saw a state in which they were right: one truth is left."""

import asyncio
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import TestDatabase
from tests.database.conftest import (
    OPERATOR,
    Claims,
    Connection,
    fan_out,
    insert,
    join,
    new_key,
    new_user,
    new_workspace,
    user,
)

LEVELS = ("read committed", "repeatable read")
LOCKED = """
select count(*) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock'
"""
OWNERS = """
select count(*) from annex.members
where workspace_id = $1 and role = 'owner' and status = 'active'
"""


class Step(NamedTuple):
    """A call that somebody makes in a transaction of their own."""

    claims: Claims | None
    """None for a session of the database's own."""
    sql: str
    arguments: tuple[Any, ...]


async def code_of(connection: Connection, step: Step) -> str:
    """Make a call; returns `done`, the problem's code, or Postgres' reason."""
    try:
        await connection.execute(step.sql, *step.arguments)
    except asyncpg.PostgresError as error:
        return getattr(error, "constraint_name", None) or type(error).__name__
    return "done"


async def race(
    database: TestDatabase, admin: Connection, level: str, first: Step, second: Step
) -> tuple[str, str]:
    """Begin both, make the first call, then the second while the first has not committed."""

    def opened(step: Step) -> Any:
        role = "postgres" if step.claims is None else "annex_api"
        return database.connect(role, step.claims)

    async with opened(first) as one, opened(second) as two:
        for connection in (one, two):
            await connection.execute(f"begin isolation level {level}")
            await connection.fetchval("select count(*) from annex.members")  # takes the snapshot
        before = await code_of(one, first)
        late = asyncio.create_task(code_of(two, second))
        async with asyncio.timeout(5):
            while not late.done() and not await admin.fetchval(LOCKED):
                await asyncio.sleep(0.005)
        await one.execute("commit" if before == "done" else "rollback")
        after = await late
        await two.execute("commit" if after == "done" else "rollback")
    return before, after


UPDATE = "select annex.update_member($1, $2, $3)"
SUSPEND = "select annex.update_member($1, $2, null, 'suspended')"
REMOVE = "select annex.remove_member($1, $2)"
ACTS = {
    "leaves": lambda w, me, other: Step(user(me), REMOVE, (w, me)),
    "steps down": lambda w, me, other: Step(user(me), UPDATE, (w, me, "admin")),
    "removes": lambda w, me, other: Step(user(me), REMOVE, (w, other)),
    "demotes": lambda w, me, other: Step(user(me), UPDATE, (w, other, "viewer")),
    "suspends": lambda w, me, other: Step(user(me), SUSPEND, (w, other)),
    "goes in SQL": lambda w, me, other: Step(
        None, "delete from annex.members where workspace_id = $1 and user_id = $2", (w, me)
    ),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("second", ACTS)
@pytest.mark.parametrize("first", ACTS)
async def test_of_two_owners_one_stays(
    first: str, second: str, level: str, database: TestDatabase, admin: Connection
) -> None:
    a, b = await new_user(admin), await new_user(admin)
    workspace = await new_workspace(admin, a)
    await join(admin, workspace, b, "owner")
    codes = await race(
        database, admin, level, ACTS[first](workspace, a, b), ACTS[second](workspace, b, a)
    )
    assert codes[0] == "done"
    assert await admin.fetchval(OWNERS, workspace) >= 1, codes
    others = ("removes", "demotes", "suspends")
    expected = {"last_owner"}
    if (first in others) != (second in others):
        # Both act on the same one: the second comes too late, without harm.
        expected = {"done", "not_found", "not_grantable"}
    if level != "read committed":
        expected.add("SerializationError")
    assert codes[1] in expected, codes


async def test_with_a_deleted_account_the_last_owner_still_stays(
    database: TestDatabase, admin: Connection
) -> None:
    a, b = await new_user(admin), await new_user(admin)
    workspace = await new_workspace(admin, a)
    await join(admin, workspace, b, "owner")
    gone = Step(None, "delete from auth.users where id = $1", (a,))
    leaves = Step(user(b), REMOVE, (workspace, b))
    assert await race(database, admin, LEVELS[0], gone, leaves) == ("done", "last_owner")
    assert await admin.fetchval(OWNERS, workspace) == 1


@pytest.mark.parametrize("count", [2, 5])
async def test_many_owners_leave_at_once_and_one_stays(
    count: int, database: TestDatabase, admin: Connection
) -> None:
    owners = [await new_user(admin) for _ in range(count)]
    workspace = await new_workspace(admin, owners[0])
    for owner in owners[1:]:
        await join(admin, workspace, owner, "owner")

    async def leave(owner: UUID) -> str:
        async with database.connect("annex_api", user(owner)) as connection:
            return await code_of(connection, Step(None, REMOVE, (workspace, owner)))

    codes = await asyncio.gather(*map(leave, owners))
    assert sorted(codes) == ["done"] * (count - 1) + ["last_owner"]


async def test_so_many_join_as_there_are_seats(database: TestDatabase, admin: Connection) -> None:
    workspace = await new_workspace(admin, await new_user(admin), member_limit=4)
    newcomers = [await new_user(admin) for _ in range(10)]

    async def enter(newcomer: UUID) -> str:
        async with database.connect("postgres") as connection:
            sql = (
                "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'viewer')"
            )
            return await code_of(connection, Step(None, sql, (workspace, newcomer)))

    codes = await asyncio.gather(*map(enter, newcomers))
    assert sorted(codes) == ["done"] * 3 + ["limit_reached"] * 7


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("is_given_first", [True, False])
async def test_a_role_is_given_or_deleted_and_never_both(
    is_given_first: bool, level: str, database: TestDatabase, admin: Connection
) -> None:
    owner, member = await new_user(admin), await new_user(admin)
    workspace = await new_workspace(admin, owner)
    await join(admin, workspace, member, "viewer")
    await insert(
        admin,
        "roles",
        workspace_id=workspace,
        key="guest",
        name="G",
        permissions=["workspace:read"],
    )
    give = Step(user(owner), UPDATE, (workspace, member, "guest"))
    delete = Step(user(owner), "select annex.delete_role($1, 'guest')", (workspace,))
    steps = (give, delete) if is_given_first else (delete, give)
    codes = await race(database, admin, level, *steps)
    late = "role_in_use" if is_given_first else "unknown_role"
    assert codes[0] == "done"
    assert codes[1] in (late, "SerializationError")
    dangling = (
        "select count(*) from annex.members m where m.workspace_id = $1 and m.role = 'guest'"
        " and not exists (select from annex.roles r where r.workspace_id = $1 and r.key = 'guest')"
    )
    assert await admin.fetchval(dangling, workspace) == 0


OFFERS = {
    "join_rules": "select annex.create_join_rule($1, 'domain', $2 || '.example', 'guest')",
    "invitations": "select annex.create_invitations("
    "$1, null, array[decode(repeat($2, 2), 'hex')], 'guest', 1, 1, false, 1)",
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("is_offered_first", [True, False])
@pytest.mark.parametrize("table", OFFERS)
async def test_a_role_is_offered_or_deleted_and_never_both(
    table: str, is_offered_first: bool, level: str, database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    guest: dict[str, Any] = {"key": "guest", "name": "G", "permissions": ["workspace:read"]}
    await insert(admin, "roles", workspace_id=workspace, **guest)
    offer = Step(OPERATOR, OFFERS[table], (workspace, uuid4().hex))
    delete = Step(user(owner), "select annex.delete_role($1, 'guest')", (workspace,))
    steps = (offer, delete) if is_offered_first else (delete, offer)
    first, second = await race(database, admin, level, *steps)
    assert first == "done"
    assert second in ("done" if is_offered_first else "unknown_role", "SerializationError")
    open_ones = " and status = 'pending'" if table == "invitations" else ""
    dangling = (
        f"select count(*) from annex.{table} o where o.workspace_id = $1 and o.role = 'guest'"
        f"{open_ones} and not exists (select from annex.roles r where r.workspace_id = $1"
        " and r.key = 'guest')"
    )
    assert await admin.fetchval(dangling, workspace) == 0


@pytest.mark.parametrize("level", LEVELS)
async def test_a_key_is_replaced_once(
    level: str, database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    key = await new_key(admin, workspace)

    def rotate() -> Step:
        sql = "select annex.rotate_api_key($1, $2, $3, $4, 60)"
        return Step(user(owner), sql, (workspace, key, uuid4().hex[:12], bytes(32)))

    codes = await race(database, admin, level, rotate(), rotate())
    assert codes[0] == "done"
    assert codes[1] in ("conflict", "SerializationError")
    count = "select count(*) from annex.api_keys where workspace_id = $1"
    assert await admin.fetchval(count, workspace) == 2


async def test_a_key_is_not_rotated_past_its_revocation(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    key = await new_key(admin, workspace)
    revoke = Step(user(owner), "select annex.revoke_api_key($1, $2)", (workspace, key))
    sql = "select annex.rotate_api_key($1, $2, $3, $4, 60)"
    rotate = Step(user(owner), sql, (workspace, key, uuid4().hex[:12], bytes(32)))
    assert await race(database, admin, LEVELS[0], revoke, rotate) == ("done", "conflict")


async def test_two_make_a_role_of_one_name(database: TestDatabase, admin: Connection) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    sql = "select annex.put_role($1, 'guest', 'G', '{workspace:read}', is_new => true)"
    step = Step(user(owner), sql, (workspace,))
    assert await race(database, admin, LEVELS[0], step, step) == ("done", "precondition_failed")


async def test_two_calls_that_swap_subscribers_do_not_wait_in_a_circle(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    one, two = await new_user(admin), await new_user(admin)
    for member in (one, two):
        await join(admin, workspace, member, "viewer")
    swap = "select * from annex.set_subscribers($1, 't', $2, $3)"
    for _ in range(5):
        await admin.execute("delete from annex.subscriptions where workspace_id = $1", workspace)
        async with database.connect("annex_api", user(owner)) as session:
            await session.execute(swap, workspace, [one, two], [])
        codes = await race(
            database,
            admin,
            "read committed",
            Step(user(owner), swap, (workspace, [one], [two])),
            Step(user(owner), swap, (workspace, [two], [one])),
        )
        assert codes == ("done", "done")


async def test_fan_out_marks_and_subscribers_never_wait_in_a_circle(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    members = [await new_user(admin) for _ in range(8)]
    for member in members:
        await join(admin, workspace, member, "viewer")

    async def repeat(role: str, claims: Claims | None, sql: str, *calls: tuple[Any, ...]) -> None:
        async with database.connect(role, claims) as session:
            for n in range(40):
                await session.execute(sql, *calls[n % len(calls)])

    swap = "select * from annex.set_subscribers($1, 't', $2, $3)"
    halves = (members[:5], members[5:])
    publish = "select annex.publish($1, 'test.made', topics => array['t'], recipients => $2)"
    marks = "select annex.mark_notifications('read', now())"

    async def deliver() -> None:
        async with database.connect("annex_worker") as worker:
            for n in range(40):
                event = await admin.fetchval(publish, workspace, members[n % 8 :: -1])
                await fan_out(worker, event)

    await asyncio.gather(
        deliver(),
        repeat("annex_api", user(owner), swap, (workspace, *halves), (workspace, *halves[::-1])),
        repeat("annex_api", user(owner), swap, (workspace, *halves[::-1]), (workspace, *halves)),
        *(repeat("annex_api", user(m), marks, ()) for m in members[:4]),
    )
    assert not await admin.fetchval(
        "select count(*) from annex.inboxes i where i.unread <> (select count(*)"
        " from annex.notifications n where n.user_id = i.user_id and n.read_at is null"
        " and n.workspace_id = i.workspace_id)"
    )
