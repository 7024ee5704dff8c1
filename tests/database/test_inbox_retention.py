"""Which notifications are deleted, and that counts and clients follow."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog

from app.database.pools import Database
from app.worker.housekeeping import tidy, trim_inboxes
from tests.conftest import TestDatabase, settings_for
from tests.database.conftest import Connection, fan_out, insert, join, new_user, new_workspace
from tests.database.test_fanout import member, publish

EXPIRE = "select * from annex.expire_notifications($1, $2, $3)"
TRIM = "select annex.trim_inbox($1, $2, 'events:read', $3)"
STATES: dict[str, dict[str, str]] = {
    "unread": {},
    "read": {"seen_at": "now()", "read_at": "now()"},
    "archived": {"archived_at": "now()"},
    "snoozed": {"snoozed_until": "now() + interval '1 day'"},
}
NOW = timedelta()


@pytest.fixture
async def workspace(admin: Connection) -> UUID:
    return await new_workspace(admin, await new_user(admin))


@pytest.fixture
async def worker(database: TestDatabase) -> AsyncIterator[Connection]:
    async with database.connect("annex_worker") as connection:
        yield connection


async def add(
    admin: Connection,
    workspace: UUID,
    user: UUID,
    age: timedelta,
    state: str = "unread",
    arrived: timedelta | None = None,
) -> UUID:
    """Add an item of an age to an inbox, and count it; `arrived` is when it last came back."""
    made = datetime.now(UTC) - age
    floor = await admin.fetchval("select annex.uuid7_floor($1)", made)
    columns = STATES[state]
    item: UUID = await admin.fetchval(
        "insert into annex.notifications (id, workspace_id, user_id, event_id, type, actor,"
        f" category, reason, title, arrived_at{''.join(f', {c}' for c in columns)})"
        " values ($1, $2, $3, gen_random_uuid(), 'test.made', 'system', 'general', 'recipient',"
        f" 'Title', $4{''.join(f', {v}' for v in columns.values())}) returning id",
        UUID(int=floor.int | uuid4().int & (1 << 62) - 1),
        workspace,
        user,
        made if arrived is None else datetime.now(UTC) - arrived,
    )
    await admin.execute(
        "insert into annex.inboxes as i"
        " (user_id, workspace_id, permission, active, unseen, unread, snoozed, archived)"
        " select n.user_id, n.workspace_id, n.permission, c[1], c[2], c[3], c[4], c[5]"
        " from annex.notifications n, annex.counts_of(n) c where n.id = $1"
        " on conflict (user_id, workspace_id, permission) do update set"
        " active = i.active + excluded.active, unseen = i.unseen + excluded.unseen,"
        " unread = i.unread + excluded.unread, snoozed = i.snoozed + excluded.snoozed,"
        " archived = i.archived + excluded.archived",
        item,
    )
    return item


async def left(admin: Connection, user: UUID) -> set[UUID]:
    """Return the items that a user has; holds their inboxes to them."""
    rows = await admin.fetch(
        "select n.id, n.workspace_id, annex.counts_of(n) as counts from annex.notifications n"
        " where n.user_id = $1",
        user,
    )
    inboxes = await admin.fetch(
        "select workspace_id, array[active, unseen, unread, snoozed, archived] as counts"
        " from annex.inboxes where user_id = $1",
        user,
    )
    for inbox in inboxes:
        own = [row["counts"] for row in rows if row["workspace_id"] == inbox["workspace_id"]]
        assert inbox["counts"] == [sum(c[n] for c in own) for n in range(5)]
    return {row["id"] for row in rows}


async def told(admin: Connection, user: UUID) -> list[Any]:
    """Return what the personal events told a user of deleted items, in order."""
    rows = await admin.fetch(
        "select data from annex.events where user_id = $1"
        " and type = 'annex.notification.deleted' order by event_id",
        user,
    )
    return [json.loads(row[0]) for row in rows]


async def expire(worker: Connection, days: int, rows: int = 1000) -> list[int]:
    """Expire until there is no more; returns how many went with each batch."""
    after, batches = None, list[int]()
    while True:
        [row] = await worker.fetch(EXPIRE, after, days, rows)
        after = row["last_id"]
        batches.append(row["expired"])
        if row["is_last"]:
            return batches


@pytest.mark.parametrize("state", STATES)
async def test_an_item_goes_by_its_age_and_not_by_its_state_but_for_a_snoozed_one(
    admin: Connection, worker: Connection, workspace: UUID, state: str
) -> None:
    who = await member(admin, workspace)
    old = await add(admin, workspace, who, timedelta(days=366), state)
    young = await add(admin, workspace, who, timedelta(days=364), state)
    assert sum(await expire(worker, 365)) == (state != "snoozed")
    assert await left(admin, who) == ({young} if state != "snoozed" else {old, young})


async def test_an_item_that_came_back_is_as_old_as_its_return(
    admin: Connection, worker: Connection, workspace: UUID
) -> None:
    who = await member(admin, workspace)
    back = await add(admin, workspace, who, timedelta(days=400), arrived=timedelta(days=1))
    await add(admin, workspace, who, timedelta(days=400), arrived=timedelta(days=366))
    await expire(worker, 365)
    assert await left(admin, who) == {back}


async def test_a_snoozed_item_comes_back_and_has_its_time_anew(
    admin: Connection, worker: Connection, workspace: UUID
) -> None:
    who = await member(admin, workspace)
    item = await add(admin, workspace, who, timedelta(days=400), "snoozed")
    await admin.execute(
        "update annex.notifications set snoozed_until = now() - interval '1 second' where id = $1",
        item,
    )
    # Due, and not yet woken.
    await expire(worker, 365)
    assert await left(admin, who) == {item}
    assert await worker.fetchval("select woken from annex.wake_notifications()") >= 1
    await expire(worker, 365)
    assert await left(admin, who) == {item}


async def test_each_inbox_is_told_once_a_batch_which_items_went_and_its_counts(
    admin: Connection, worker: Connection, workspace: UUID
) -> None:
    who, other = await member(admin, workspace), await new_workspace(admin, await new_user(admin))
    await join(admin, other, who, "viewer")
    gone = [await add(admin, workspace, who, timedelta(days=400)) for _ in range(3)]
    await add(admin, workspace, who, NOW)
    elsewhere = await add(admin, other, who, timedelta(days=400), "archived")
    await expire(worker, 365)
    messages = {m["inbox"]["workspace_id"]: m for m in await told(admin, who)}
    assert len(messages) == len(await told(admin, who)) == 2
    assert {*messages[str(workspace)]["deleted"]} == {*map(str, gone)}
    assert messages[str(workspace)]["inbox"]["unread"] == 1
    assert messages[str(other)]["deleted"] == [str(elsewhere)]
    assert messages[str(other)]["inbox"]["archived"] == 0


async def test_a_batch_is_bounded_and_goes_on_where_it_stopped(
    admin: Connection, worker: Connection, workspace: UUID
) -> None:
    users = [await member(admin, workspace) for _ in range(3)]
    for who in users:
        for n in range(5):
            await add(admin, workspace, who, timedelta(days=400 + n))
    snoozed = [await add(admin, workspace, u, timedelta(days=500), "snoozed") for u in users]
    batches = await expire(worker, 365, rows=4)
    # What stays is looked at and passed.
    assert max(batches) <= 4
    assert sum(batches) == 15
    assert [await left(admin, who) for who in users] == [{item} for item in snoozed]


async def test_an_inbox_in_use_is_left_until_the_next_time(
    admin: Connection, worker: Connection, database: TestDatabase, workspace: UUID
) -> None:
    busy, idle = await member(admin, workspace), await member(admin, workspace)
    kept = await add(admin, workspace, busy, timedelta(days=400))
    await add(admin, workspace, idle, timedelta(days=400))
    await admin.execute("update annex.limits set value = 0 where name = 'notifications_per_inbox'")
    async with database.connect("postgres") as other, other.transaction():
        lock = "select from annex.profiles where user_id = $1 for no key update"
        await other.execute(lock, busy)
        await worker.execute("set lock_timeout = '100ms'")
        assert sum(await expire(worker, 365)) == 1
        assert await worker.fetchval(TRIM, busy, workspace, 10) == 0
        assert await left(admin, busy) == {kept}
        assert await left(admin, idle) == set()
    limit = "update annex.limits set value = 10000 where name = 'notifications_per_inbox'"
    await admin.execute(limit)
    assert sum(await expire(worker, 365)) == 1


async def test_a_user_whose_items_cannot_go_stops_no_other(
    admin: Connection, worker: Connection, workspace: UUID, database: TestDatabase
) -> None:
    # The first one in every order.
    bad, *good = sorted([await member(admin, workspace) for _ in range(3)])
    for who in (bad, *good):
        await add(admin, workspace, who, timedelta(days=400))
    spoil = "update annex.inboxes set unseen = $2, unread = $2 where user_id = $1"
    await admin.execute(spoil, bad, 0)
    [row] = await worker.fetch(EXPIRE, None, 365, 1000)
    assert (row["expired"], row["failed"]) == (2, [bad])
    assert [await left(admin, who) for who in good] == [set(), set()]
    for who in good:
        await add(admin, workspace, who, timedelta(days=1))
    limit = "update annex.limits set value = $1 where name = 'notifications_per_inbox'"
    await admin.execute(limit, 0)
    try:
        async with Database(settings_for(database)) as pools, pools.worker.lend() as driver:
            with structlog.testing.capture_logs() as logs:
                assert await trim_inboxes(driver) >= 2
    finally:
        await admin.execute(limit, 10_000)
    assert [await left(admin, who) for who in good] == [set(), set()]
    assert [str(bad)] in [entry["user_ids"] for entry in logs]
    await admin.execute(spoil, bad, 1)
    assert sum(await expire(worker, 365)) == 1


async def test_of_a_full_inbox_the_oldest_go_archived_ones_first(
    admin: Connection, worker: Connection, workspace: UUID
) -> None:
    noisy, quiet = workspace, await new_workspace(admin, await new_user(admin))
    who = await member(admin, noisy)
    await join(admin, quiet, who, "viewer")
    hours = [timedelta(hours=n) for n in range(10)]
    active = [await add(admin, noisy, who, age) for age in hours[:4]]
    archived = [await add(admin, noisy, who, age, "archived") for age in hours[:3]]
    snoozed = await add(admin, noisy, who, hours[9], "snoozed")
    elsewhere = [await add(admin, quiet, who, age) for age in hours[5:8]]
    await admin.execute("update annex.limits set value = 3 where name = 'notifications_per_inbox'")
    full = await worker.fetch("select * from annex.full_inboxes() where user_id = $1", who)
    assert [(r["workspace_id"], r["permission"]) for r in full] == [(noisy, "events:read")]
    assert await worker.fetchval(TRIM, who, noisy, 2) == 2
    assert await left(admin, who) == {*active, archived[0], snoozed, *elsewhere}
    assert await worker.fetchval(TRIM, who, noisy, 1000) == 2
    assert await left(admin, who) == {*active[:3], snoozed, *elsewhere}
    assert await worker.fetchval(TRIM, who, noisy, 1000) == 0
    await admin.execute(
        "update annex.limits set value = 10000 where name = 'notifications_per_inbox'"
    )


async def test_a_workspace_that_is_being_purged_tells_nothing_of_its_items(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who = await member(admin, workspace)
    item = await add(admin, workspace, who, timedelta(hours=1), "snoozed")
    await admin.execute("delete from annex.inboxes where user_id = $1", who)
    await admin.execute("update annex.notifications set snoozed_until = now() where id = $1", item)
    async with database.connect("annex_worker") as session:
        await session.execute("select annex.wake_notifications()")
    told_of = "select count(*) from annex.events where user_id = $1"
    assert await admin.fetchval(told_of, who) == 0


async def test_housekeeping_expires_and_trims_in_batches(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.worker.housekeeping.NOTIFICATIONS", 2)
    monkeypatch.setattr("app.worker.housekeeping.INBOXES", 1)
    async with (
        own_database.connect("postgres") as admin,
        Database(settings_for(own_database)) as pools,
    ):
        workspace = await new_workspace(admin, await new_user(admin))
        who = await member(admin, workspace)
        for n in range(5):
            await add(admin, workspace, who, timedelta(days=31 + n))
        kept = {await add(admin, workspace, who, timedelta(days=n)) for n in range(4)}
        for n in range(5):
            await add(admin, workspace, who, timedelta(days=20 + n))
        await admin.execute(
            "update annex.limits set value = 4 where name = 'notifications_per_inbox'"
        )
        # Two more: each has its turn, however many there are before it.
        others = [await member(admin, workspace) for _ in range(2)]
        for other in others:
            for n in range(6):
                await add(admin, workspace, other, timedelta(days=n))
        await admin.execute(
            "insert into annex.fanouts (event_id, failed_at) values"
            " (gen_random_uuid(), now() - interval '31 days'), ($1, now() - interval '29 days')",
            workspace,
        )
        await tidy(pools, notification_days=30)
        assert await left(admin, who) == kept
        assert [len(await left(admin, other)) for other in others] == [4, 4]
        # What was given up is forgotten without another failure.
        assert await admin.fetchval("select array_agg(event_id) from annex.fanouts") == [workspace]


async def test_a_mail_that_waits_goes_with_its_item(
    admin: Connection, worker: Connection, workspace: UUID
) -> None:
    who = await member(admin, workspace)
    item = await add(admin, workspace, who, timedelta(days=400))
    await insert(
        admin,
        "mails",
        workspace_id=workspace,
        notification_id=item,
        user_id=who,
        recipient="jane@example.com",
    )
    await expire(worker, 365)
    assert await admin.fetch("select from annex.mails where user_id = $1", who) == []


async def test_what_is_old_is_found_without_reading_the_rest(
    admin: Connection, worker: Connection, workspace: UUID
) -> None:
    who = await member(admin, workspace)
    events = [await publish(admin, workspace, recipients=[who]) for _ in range(3)]
    await fan_out(admin, *events)
    async with admin.transaction():
        # As the function sets it: of a few rows that were analyzed, all would be read else.
        await admin.execute("set local enable_seqscan = off; set local enable_bitmapscan = off")
        plan = await admin.fetchval(
            "explain (format json) select n.id, n.user_id from annex.notifications n"
            " where n.id > '00000000-0000-0000-0000-000000000000'"
            " and n.id < annex.uuid7_floor(now() - interval '365 days') order by n.id limit 1000"
        )
    assert "notifications_pkey" in plan
    assert await expire(worker, 365) == [0]
