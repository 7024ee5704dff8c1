"""An item that is snoozed comes back by itself as a new one; nobody silences another."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import TestDatabase, encode
from tests.database.conftest import Connection, fan_out, insert, new_user, new_workspace, user
from tests.database.test_fanout import first, member, publish, subscribe, told

SNOOZE = """
select n.* from annex.change_notification($1, snoozed_until => $2, is_snooze_given => true) n
"""
WAKE = "select woken from annex.wake_notifications($1)"
COUNTS = "select active, unseen, unread, snoozed, archived from annex.inboxes where user_id = $1"


@pytest.fixture
async def workspace(admin: Connection) -> UUID:
    return await new_workspace(admin, await new_user(admin))


async def snoozed(
    admin: Connection, database: TestDatabase, workspace: UUID, seconds: float
) -> tuple[UUID, UUID]:
    """Make an item that was read and is snoozed for a while from now; returns user and item."""
    who = await member(admin, workspace)
    await fan_out(admin, await publish(admin, workspace, recipients=[who]))
    item = await admin.fetchval("select id from annex.notifications where user_id = $1", who)
    async with database.connect("annex_api", user(who)) as session:
        await session.execute("select annex.change_notification($1, is_read => true)", item)
        until = datetime.now(UTC) + timedelta(seconds=3600)
        row = await first(session, SNOOZE, item, until)
    assert row["snoozed_until"] == until
    # What only time could do.
    await admin.execute(
        "update annex.notifications set snoozed_until = now() + make_interval(secs => $2)"
        " where id = $1",
        item,
        seconds,
    )
    return who, item


async def shown(admin: Connection, item: UUID) -> Any:
    """Return an item's row."""
    return await first(admin, "select * from annex.notifications where id = $1", item)


async def counts(admin: Connection, who: UUID) -> tuple[int, ...]:
    """Return the counts of a user's one inbox."""
    return tuple(await first(admin, COUNTS, who))


async def wake(database: TestDatabase, rows: int = 500) -> int:
    """Wake what is due, as the worker does every second."""
    woken = 0
    async with database.connect("annex_worker") as worker:
        while batch := await worker.fetchval(WAKE, rows):
            woken += batch
    return woken


async def test_until_its_time_an_item_stays_away(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who, item = await snoozed(admin, database, workspace, 60)
    assert await counts(admin, who) == (0, 0, 0, 1, 0)
    before = await shown(admin, item)
    await wake(database)
    assert await shown(admin, item) == before


async def test_when_its_time_has_come_an_item_is_new_again_and_its_user_is_told(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who, item = await snoozed(admin, database, workspace, -1)
    asleep = await shown(admin, item)
    assert await wake(database) == 1
    awake = await shown(admin, item)
    assert (awake["snoozed_until"], awake["seen_at"], awake["read_at"]) == (None, None, None)
    assert awake["arrived_at"] > asleep["arrived_at"]
    assert awake["version"] == asleep["version"] + 1
    assert await counts(admin, who) == (1, 1, 1, 0, 0)
    last = await first(
        admin, "select * from annex.events where user_id = $1 order by event_id desc limit 1", who
    )
    told = json.loads(last["data"])
    assert last["type"] == "annex.notification.changed"
    assert told["notification"]["id"] == str(item)
    assert told["notification"]["snoozed_until"] is None
    assert (told["inbox"]["active"], told["inbox"]["unread"], told["inbox"]["snoozed"]) == (1, 1, 0)
    # Once.
    assert await wake(database) == 0
    assert await shown(admin, item) == awake


async def test_a_woken_item_of_who_is_out_of_the_workspace_stays_out_of_sight(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who, item = await snoozed(admin, database, workspace, -1)
    await admin.execute("update annex.members set status = 'suspended' where user_id = $1", who)
    await wake(database)
    async with database.connect("annex_api", user(who)) as session:
        assert await session.fetch("select from annex.notifications") == []
    await admin.execute("update annex.members set status = 'active' where user_id = $1", who)
    async with database.connect("annex_api", user(who)) as session:
        [row] = await session.fetch("select id, snoozed_until from annex.notifications")
    assert tuple(row) == (item, None)


async def test_who_takes_an_item_back_or_archives_it_is_not_woken(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    for change in (
        "snoozed_until => null, is_snooze_given => true",
        "is_archived => true",
    ):
        who, item = await snoozed(admin, database, workspace, 60)
        async with database.connect("annex_api", user(who)) as session:
            await session.execute(f"select annex.change_notification($1, {change})", item)
        row = await shown(admin, item)
        assert row["snoozed_until"] is None
        assert row["read_at"] is not None
        assert (await counts(admin, who))[3] == 0
        await wake(database)
        assert await shown(admin, item) == row


async def test_many_are_woken_in_batches_each_once(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    made = [await snoozed(admin, database, workspace, -n) for n in range(1, 6)]
    assert await wake(database, rows=2) == 5
    for who, item in made:
        assert (await shown(admin, item))["snoozed_until"] is None
        assert await counts(admin, who) == (1, 1, 1, 0, 0)


async def test_who_has_much_snoozed_takes_one_turn_after_the_other(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who, item = await snoozed(admin, database, workspace, -3600)
    await admin.execute(
        "insert into annex.notifications (workspace_id, user_id, event_id, type, actor, category,"
        " reason, title, snoozed_until)"
        " select workspace_id, user_id, event_id, type, actor, category, reason, title,"
        " now() - interval '1 hour'"
        " from annex.notifications, generate_series(1, 119) where id = $1",
        item,
    )
    await admin.execute("update annex.inboxes set snoozed = 120 where user_id = $1", who)
    _, last = await snoozed(admin, database, workspace, -1)
    async with database.connect("annex_worker") as worker:
        assert await worker.fetchval(WAKE, 2) == 2
        assert (await counts(admin, who))[3] == 119
        assert (await shown(admin, last))["snoozed_until"] is None
        # And holds the inbox for so long and no longer.
        assert [await worker.fetchval(WAKE, 500) for _ in range(4)] == [50, 50, 19, 0]
    assert await counts(admin, who) == (120, 120, 120, 0, 0)


async def test_a_user_snoozes_so_many_and_no_more(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who, item = await snoozed(admin, database, workspace, 3600)
    await fan_out(admin, await publish(admin, workspace, recipients=[who]))
    [(new,)] = await admin.fetch(
        "select id from annex.notifications where user_id = $1 and id <> $2", who, item
    )
    # Of all workspaces and permissions together.
    elsewhere = await new_workspace(admin, who)
    inbox = {"user_id": who, "workspace_id": elsewhere, "permission": "events:audit"}
    await insert(admin, "inboxes", "user_id", snoozed=998, **inbox)
    until = datetime.now(UTC) + timedelta(seconds=7200)
    async with database.connect("annex_api", user(who)) as session:
        await session.execute(SNOOZE, new, until)
        [more] = [await publish(admin, workspace, recipients=[who])]
        await fan_out(admin, more)
        third = await admin.fetchval(
            "select id from annex.notifications where user_id = $1 and event_id = $2", who, more
        )
        with pytest.raises(Exception, match="no more may be") as refused:
            await session.execute(SNOOZE, third, until)
        assert refused.value.constraint_name == "limit_reached"  # type: ignore[attr-defined]
        # What is snoozed may be put off further, and everything else goes on.
        await session.execute(SNOOZE, new, until + timedelta(seconds=60))
        await session.execute("select annex.change_notification($1, is_read => true)", third)


async def test_an_item_that_cannot_come_back_stops_no_other(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    (bad, broken), (good, item) = [await snoozed(admin, database, workspace, -n) for n in (2, 1)]
    # As drift would leave it: the counts say that nothing is snoozed, and may not go below.
    await admin.execute("update annex.inboxes set snoozed = 0 where user_id = $1", bad)
    async with database.connect("annex_worker") as worker:
        row = await first(worker, "select * from annex.wake_notifications()")
    assert row["woken"] >= 1
    assert broken in row["put_off"]
    assert (await shown(admin, item))["snoozed_until"] is None
    assert await counts(admin, good) == (1, 1, 1, 0, 0)
    left = await shown(admin, broken)
    assert left["snoozed_until"] > await admin.fetchval("select now() + interval '9 minutes'")
    await admin.execute("update annex.inboxes set snoozed = 1 where user_id = $1", bad)
    await admin.execute(
        "update annex.notifications set snoozed_until = now() where id = $1", broken
    )
    assert await wake(database) == 1


async def test_an_item_that_cannot_even_be_put_off_stops_no_other(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    (_, broken), (good, item) = [await snoozed(admin, database, workspace, -n) for n in (2, 1)]
    await admin.execute(f"""
        create function public.refuse() returns trigger language plpgsql as $$
        begin
          raise exception 'no';
        end
        $$;
        create trigger refuse before update on annex.notifications for each row
        when (old.id = '{broken}') execute function public.refuse()
    """)
    try:
        async with database.connect("annex_worker") as worker:
            row = await first(worker, "select * from annex.wake_notifications()")
        assert row["put_off"] == [broken]
        assert (await shown(admin, item))["snoozed_until"] is None
        assert await counts(admin, good) == (1, 1, 1, 0, 0)
    finally:
        await admin.execute("drop function public.refuse() cascade")
    assert await wake(database) == 1


async def test_what_somebody_plants_for_others_silences_nobody(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    one, two = await member(admin, workspace), await member(admin, workspace)
    elsewhere = await new_workspace(admin, two)
    await subscribe(admin, workspace, one)
    off = encode({"*": {"in_app": False}})
    # Two's own words, here and in a workspace of their own, and its default: none is about one.
    await insert(admin, "preferences", user_id=two, categories=off)
    await insert(admin, "preferences", user_id=two, workspace_id=workspace, categories=off)
    await insert(admin, "preferences", workspace_id=elsewhere, categories=off)
    await subscribe(admin, workspace, two, is_muted=True)
    event = await publish(admin, workspace, topics=["t"])
    await fan_out(admin, event)
    assert await told(admin, event) == {one}
    # And by SQL nobody writes a row of another's, in any role that a request has.
    for role in ("annex_api", "authenticated"):
        async with database.connect("postgres") as session:
            await session.execute(f"set session authorization {role}")
            await session.execute(
                "select set_config('request.jwt.claims', $1, false)", encode(user(two))
            )
            for statement in (
                "insert into annex.preferences (user_id, categories) values ($1, '{}')",
                "insert into annex.subscriptions (workspace_id, topic, user_id, is_muted, reason)"
                " select workspace_id, 'x', $1, true, 'added' from annex.members limit 1",
                "update annex.subscriptions set is_muted = true where user_id = $1",
                "update annex.preferences set categories = '{}' where user_id = $1",
                "delete from annex.subscriptions where user_id = $1",
            ):
                with pytest.raises(Exception, match="permission denied"):
                    await session.execute(statement, one)
