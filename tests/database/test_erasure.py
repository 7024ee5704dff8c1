"""A user who is erased leaves nothing behind but what is a workspace's own."""

import asyncio
import json
from uuid import UUID, uuid4

import pytest

from tests.conftest import TestDatabase, encode
from tests.database.conftest import Connection, fan_out, insert, join, new_user, new_workspace, user
from tests.database.test_fanout import publish, subscribe

CANARY = "canary-7f3a"
TABLES = """
select c.relname::text from pg_class c
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
"""
ERASE = "delete from auth.users where id = $1"
FINISH = "select annex.finish_erasures($1)"
PERSONAL = "select count(*) from annex.events where user_id = $1"


@pytest.fixture
async def workspace(admin: Connection) -> UUID:
    return await new_workspace(admin, await new_user(admin))


async def tables_with(admin: Connection, text: str) -> set[str]:
    """Return the tables of which a row holds a text, in any column."""
    found = set()
    for (table,) in await admin.fetch(TABLES):
        is_there = f"select exists (select from annex.{table} t where t::text like $1)"
        if await admin.fetchval(is_there, f"%{text}%"):
            found.add(table)
    return found


async def sequence(database: TestDatabase) -> None:
    """Give positions to all that waits."""
    async with database.connect("annex_worker") as worker:
        while await worker.fetchval("select annex.sequence()"):
            pass


async def an_hour_passes(admin: Connection, who: UUID) -> None:
    """Let an erasure be long ago."""
    await admin.execute(
        "update annex.erasures set erased_at = erased_at - interval '61 minutes'"
        " where user_id = $1",
        who,
    )


async def everything(
    admin: Connection, database: TestDatabase, workspace: UUID, is_sequenced: bool
) -> UUID:
    """Make a user who left a trace in every table that can hold one, with a text of their own."""
    who = uuid4()
    await admin.execute(
        "insert into auth.users (id, email) values ($1, $2)", who, f"{CANARY}@example.com"
    )
    await insert(
        admin, "profiles", "user_id", user_id=who, email=f"{CANARY}@example.com",
        display_name=CANARY,
    )  # fmt: skip
    await join(admin, workspace, who, "member")
    await subscribe(admin, workspace, who, topic=CANARY)
    await insert(
        admin, "preferences", workspace_id=workspace, user_id=who, categories=encode({CANARY: {}})
    )
    named = {"recipients": [who], "group_key": "g"}
    await fan_out(
        admin,
        await publish(admin, workspace, **named),
        await publish(admin, workspace, **named),
        await publish(admin, workspace, recipients=[who], actor=f"user:{who}"),
    )
    item = await admin.fetchval(
        "update annex.notifications set title = $2 where user_id = $1 returning id", who, CANARY
    )
    async with database.connect("annex_api", user(who)) as session:
        await session.execute("select annex.change_notification($1, true)", item)
        await session.execute("select annex.mark_notifications('read', now())")
        await session.execute(
            "insert into annex.idempotency_keys"
            " (principal, route, key, fingerprint, status, body, expires_at)"
            " values (annex.principal(), 'r', 'k', $1, 200, $2, now() + interval '1 day')",
            bytes(32),
            CANARY.encode(),
        )
    await insert(
        admin, "mails", workspace_id=workspace, notification_id=item, user_id=who,
        recipient=f"{CANARY}@example.com",
    )  # fmt: skip
    await insert(
        admin, "unsubscribe_tokens", "user_id", token_hash=uuid4().bytes * 2,
        workspace_id=workspace, user_id=who, category="general",
    )  # fmt: skip
    await insert(admin, "retentions", "feed_id", feed_id=who, retained_from=1)
    if is_sequenced:
        await sequence(database)
    return who


@pytest.mark.parametrize("is_sequenced", [True, False])
async def test_nothing_of_a_person_is_left_in_any_table(
    admin: Connection, database: TestDatabase, workspace: UUID, is_sequenced: bool
) -> None:
    who = await everything(admin, database, workspace, is_sequenced)
    personal = {
        "events", "idempotency_keys", "inboxes", "log" if is_sequenced else "pending", "mails",
        "members", "notifications", "preferences", "profiles", "retentions", "subscriptions",
        "suppressions", "unsubscribe_tokens",
    }  # fmt: skip
    assert await tables_with(admin, str(who)) == personal
    assert await tables_with(admin, CANARY) >= {"events", "mails", "notifications", "profiles"}
    assert await admin.fetchval(PERSONAL, who) >= 4
    await admin.execute(ERASE, who)
    assert await tables_with(admin, CANARY) == set()
    assert await admin.fetchval(PERSONAL, who) == 0
    # Ids alone are left: in the log, and in what is the workspace's own.
    await sequence(database)
    assert await tables_with(admin, str(who)) == {"events", "erasures", "log", "retentions"}
    async with database.connect("annex_worker") as worker:
        assert await worker.fetchval(FINISH, 1000) == 0
        await an_hour_passes(admin, who)
        assert await worker.fetchval(FINISH, 1000) >= 4
    # Who joined, who left, and whom an event of the workspace's own named.
    assert await tables_with(admin, str(who)) == {"events"}
    trail = await admin.fetch(
        "select distinct type from annex.events e where e::text like $1", f"%{who}%"
    )
    assert {row[0] for row in trail} == {
        "annex.member.added", "annex.member.removed", "test.made"
    }  # fmt: skip


async def test_the_user_id_stands_where_this_test_looks(admin: Connection) -> None:
    rows = await admin.fetch(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p')"
        " and not c.relispartition and a.attname = 'user_id'"
    )
    # Whoever adds a table with a user's id says what becomes of it.
    assert {row[0] for row in rows} == {
        "erasures", "events", "inboxes", "invitations", "log", "mails", "members",
        "notifications", "pending", "preferences", "profiles", "removals", "subscriptions",
        "suppressions", "unsubscribe_tokens",
    }  # fmt: skip


async def test_an_erasure_is_short_and_the_worker_deletes_the_rest(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who = await new_user(admin)
    await admin.execute(
        "with made as ("
        "  insert into annex.events (workspace_id, user_id, type, source, actor)"
        "  select $1, $2, 'test.made', 'annex', 'system' from generate_series(1, 10500)"
        "  returning event_id)"
        " insert into annex.pending (event_id, workspace_id, user_id, is_personal)"
        " select event_id, $1, $2, true from made",
        workspace,
        who,
    )
    newest = await admin.fetchval(
        "select event_id from annex.events where user_id = $1 order by event_id desc offset 9999"
        " limit 1",
        who,
    )
    await sequence(database)
    await admin.execute(ERASE, who)
    left = await admin.fetch("select event_id from annex.events where user_id = $1", who)
    assert len(left) == 500
    assert max(row[0] for row in left) < newest
    async with database.connect("annex_worker") as worker:
        assert [await worker.fetchval(FINISH, 400) for _ in range(3)] == [400, 100, 0]
        await an_hour_passes(admin, who)
        steps = []
        while step := await worker.fetchval(FINISH, 4000):
            steps.append(step)
    assert steps == [4000, 4000, 2500]
    assert await tables_with(admin, str(who)) == set()


async def test_an_entry_that_waits_for_its_position_is_waited_for(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who = await new_user(admin)
    await sequence(database)
    await admin.execute(
        "select annex.append_event($1, 'annex.notification.created', 'x', '{}', user_id => $2)",
        workspace,
        who,
    )
    await admin.execute(ERASE, who)
    await an_hour_passes(admin, who)
    # Made before the user was erased, which is an hour ago now.
    await admin.execute(
        "update annex.pending set event_id = annex.uuid7_floor(now() - interval '2 hours')"
        " where user_id = $1",
        who,
    )
    async with database.connect("annex_worker") as worker:
        await worker.execute(FINISH, 1000)
        assert "erasures" in await tables_with(admin, str(who))
        await sequence(database)
        assert await worker.fetchval(FINISH, 1000) == 1
    assert await tables_with(admin, str(who)) == set()


async def test_what_is_written_to_a_user_meanwhile_is_erased_too(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who = await new_user(admin)
    await join(admin, workspace, who, "member")
    await fan_out(admin, await publish(admin, workspace, recipients=[who]))
    item = await admin.fetchval("select id from annex.notifications where user_id = $1", who)
    async with database.connect("annex_api", user(who)) as session:
        transaction = session.transaction()
        await transaction.start()
        await session.execute("select annex.change_notification($1, true, true)", item)
        erasing = asyncio.create_task(admin.execute(ERASE, who))
        async with database.connect("postgres") as other, asyncio.timeout(10):
            waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            while not await other.fetchval(waits):
                await asyncio.sleep(0.01)
            await transaction.commit()
            await erasing
            # And who is still signed in finds nothing to write to.
            with pytest.raises(Exception, match="no such notification"):
                await session.execute("select annex.change_notification($1, true, false)", item)
            assert await other.fetchval(PERSONAL, who) == 0


async def test_an_event_that_is_fanned_out_meanwhile_tells_nobody_who_is_erased(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who = await new_user(admin)
    await join(admin, workspace, who, "member")
    event = await publish(admin, workspace, recipients=[who])
    async with database.connect("postgres") as eraser, database.connect("annex_worker") as worker:
        transaction = eraser.transaction()
        await transaction.start()
        await eraser.execute(ERASE, who)
        await worker.execute("select annex.queue_fanouts($1)", [event])
        # The inbox is held by the erasure, and so the event waits.
        row = await worker.fetchrow("select * from annex.deliver($1, 500)", [event])
        assert row is not None
        assert row["held"] == [event]
        await transaction.commit()
        await fan_out(worker, event)
    assert await admin.fetchval(PERSONAL, who) == 0
    assert "notifications" not in await tables_with(admin, str(who))


async def test_other_users_keep_what_they_were_told(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    one, two = await new_user(admin), await new_user(admin)
    for who in (one, two):
        await join(admin, workspace, who, "member")
    await fan_out(admin, await publish(admin, workspace, recipients=[one, two]))
    await admin.execute(ERASE, one)
    await sequence(database)
    await an_hour_passes(admin, one)
    async with database.connect("annex_worker") as worker:
        await worker.execute(FINISH, 1000)
    assert await admin.fetchval(PERSONAL, two) == 1
    [(data,)] = await admin.fetch("select data from annex.events where user_id = $1", two)
    assert json.loads(data)["notification"]["type"] == "test.made"
    entries = "select count(*) from annex.log where user_id = $1"
    assert [await admin.fetchval(entries, who) for who in (one, two)] == [0, 1]
