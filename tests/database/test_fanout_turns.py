"""Whose turn it is to be fanned out: tenants in turn, however much one of them has queued."""

from uuid import UUID

import pytest

from tests.database.conftest import Connection, join, new_user, new_workspace
from tests.database.test_fanout import first, member, publish, told

QUEUE = "select annex.queue_fanouts($1)"
DUE = "select annex.due_fanouts($1, $2)"


@pytest.fixture(autouse=True)
async def nothing_queued(admin: Connection) -> None:
    await admin.execute("delete from annex.fanouts")


async def workspaces(admin: Connection, count: int) -> list[UUID]:
    """Make workspaces of one creator."""
    owner = await new_user(admin)
    return [await new_workspace(admin, owner) for _ in range(count)]


async def events(admin: Connection, *workspaces: UUID, each: int) -> list[UUID]:
    """Publish events in workspaces, round by round, and queue them for fan-out."""
    people = {w: await member(admin, w) for w in workspaces}
    made = [
        await publish(admin, w, recipients=[people[w]]) for _ in range(each) for w in workspaces
    ]
    await admin.execute(QUEUE, made)
    return made


async def due(admin: Connection, count: int, is_begun: bool = False) -> list[UUID]:
    """Return the events whose turn is next, in their order."""
    found: list[UUID] = await admin.fetchval(DUE, is_begun, count)
    return found


async def test_tenants_take_turns_and_all_workspaces_of_a_creator_are_one(
    admin: Connection,
) -> None:
    [quiet] = await workspaces(admin, 1)
    many = await events(admin, *await workspaces(admin, 4), each=30)
    few = await events(admin, quiet, each=3)
    assert await due(admin, 8) == [
        many[0], few[0], many[1], few[1], many[2], few[2], many[3], many[4],
    ]  # fmt: skip


async def test_who_comes_late_waits_for_a_page_and_not_for_a_queue(admin: Connection) -> None:
    many = await events(admin, *await workspaces(admin, 2), each=50)
    for _ in range(2):
        page = await due(admin, 20)
        assert {*page} <= {*many}
        await admin.execute("select annex.deliver($1)", page)
    [quiet] = await workspaces(admin, 1)
    for _ in range(3):
        # Each time anew: who had a turn and has nothing queued does not go behind the others.
        [late] = await events(admin, quiet, each=1)
        page = await due(admin, 20)
        assert late in page[:2]
        await admin.execute("select annex.deliver($1)", page)
        assert len(await told(admin, late)) == 1
    # What is queued behind its own stays behind it.
    more = await events(admin, *await workspaces(admin, 1), each=1)
    assert (await due(admin, 2))[-1:] != many[-1:]
    assert more[0] in await due(admin, 2)


async def test_a_page_is_delivered_in_the_order_of_its_turns(admin: Connection) -> None:
    [noisy], [quiet] = await workspaces(admin, 1), await workspaces(admin, 1)
    people = [await member(admin, noisy) for _ in range(3)]
    for person in people:
        await join(admin, quiet, person, "viewer")
    many = [await publish(admin, noisy, recipients=people) for _ in range(5)]
    last = await publish(admin, quiet, recipients=people)
    await admin.execute(QUEUE, [*many, last])
    await admin.execute("select annex.deliver($1)", await due(admin, 50))
    # A page may end after a second: the last event published is not the last one served.
    arrived = await admin.fetch(
        "select event_id from annex.notifications where user_id = $1 order by arrived_at", people[0]
    )
    assert [row[0] for row in arrived] == [many[0], last, *many[1:]]


async def test_what_is_left_of_large_events_takes_turns_by_tenant(admin: Connection) -> None:
    [noisy], [quiet] = await workspaces(admin, 1), await workspaces(admin, 1)
    crowd = [await member(admin, noisy) for _ in range(45)]
    for person in crowd:
        await join(admin, quiet, person, "viewer")
    many = [await publish(admin, noisy, recipients=crowd) for _ in range(12)]
    large = await publish(admin, quiet, recipients=crowd)
    await admin.execute(QUEUE, [*many, large])
    await admin.execute("select annex.deliver($1, 10)", await due(admin, 50))
    for turn in range(2, 6):
        page = await due(admin, 4, is_begun=True)
        assert large in page[:2]
        await admin.execute("select annex.deliver($1, 10)", page)
        assert len(await told(admin, large)) == min(turn * 10, 45)
    assert sum([len(await told(admin, e)) for e in many]) < 12 * 30


async def test_what_failed_takes_half_of_the_turns_and_of_these_by_tenant(
    admin: Connection,
) -> None:
    [quiet] = await workspaces(admin, 1)
    failed = await events(admin, *await workspaces(admin, 1), each=20)
    [late] = await events(admin, quiet, each=1)
    await admin.execute("update annex.fanouts set is_begun = true, attempts = 1")
    begun = await events(admin, *await workspaces(admin, 1), each=8)
    await admin.execute("update annex.fanouts set is_begun = true where attempts = 0")
    page = await due(admin, 10, is_begun=True)
    assert {*page} == {*failed[:4], late, *begun[:5]}
    assert await due(admin, 10) == []
    row = await first(admin, "select annex.next_turn(gen_random_uuid(), false) as turn")
    assert row["turn"] == 0


async def test_the_next_turns_are_found_by_an_index_whatever_is_queued(
    admin: Connection,
) -> None:
    await admin.execute(
        "insert into annex.fanouts (event_id, tenant, turn)"
        " select gen_random_uuid(), md5((n % 50)::text)::uuid, n / 50"
        " from generate_series(1, 20000) n"
    )
    read = (
        "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0) from pg_stat_xact_user_tables"
        " where relname = 'fanouts'"
    )
    async with admin.transaction():
        before = await admin.fetchval(read)
        assert len(await due(admin, 50)) == 50
        turn = "select annex.next_turn(md5('7')::uuid, false)"
        assert await admin.fetchval(turn) == 400
        assert await admin.fetchval(read) - before < 200
