"""Events expire: in which order, up to where, and what a reader is told of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.database.pools import Database
from app.worker.housekeeping import tidy
from tests.conftest import TestDatabase, settings_for
from tests.database.conftest import (
    Connection,
    insert,
    join,
    new_key,
    new_user,
    new_workspace,
)

EXPIRE = "select workspace_id, is_last, expired from annex.expire_events($1, $2, $3)"
FLOOR = "select annex.uuid7_floor($1)"
LEFT = "select pos from annex.log where workspace_id = $1 order by pos"
MONTH_LIKE = "select count(*) from pg_class where oid = to_regclass($1)"


class Old(NamedTuple):
    """A log of its own that is filled by hand with events of any age."""

    database: TestDatabase
    admin: Connection
    worker: Connection
    owner: UUID

    async def workspace(self, days: int | None = None) -> UUID:
        """Make a workspace without an event; `days` is its limit."""
        made = await new_workspace(self.admin, self.owner, event_retention_days=days)
        await self.admin.execute("delete from annex.pending")
        return made

    async def add(self, workspace: UUID, *ages: float, user: UUID | None = None) -> list[int]:
        """Append events of so many days ago to the log, with a key each; returns the positions."""
        positions = []
        for days in ages:
            floor = await self.admin.fetchval(FLOOR, datetime.now(UTC) - timedelta(days=days))
            event = UUID(int=floor.int | uuid4().int & (1 << 62) - 1)
            owned = {"workspace_id": workspace, "event_id": event}
            named = {"source": "test", "key": str(event)}
            columns = {"type": "test.made", "actor": "system", "user_id": user}
            await insert(self.admin, "events", "event_id", **columns, **named, **owned)
            await insert(self.admin, "event_keys", "event_id", **named, **owned)
            pos: int = await self.admin.fetchval(
                "update annex.log_state set head = head + 1 returning head"
            )
            await insert(self.admin, "log", "event_id", pos=pos, user_id=user, **owned)
            positions.append(pos)
        return positions

    async def expire(self, days: int | None = None, rows: int = 1000) -> list[int]:
        """Expire until there is no more; returns how many went with each batch."""
        after, batches = None, list[int]()
        while True:
            (row,) = await self.worker.fetch(EXPIRE, after, days, rows)
            after = row["workspace_id"]
            batches.append(row["expired"])
            if row["is_last"]:
                return batches

    async def left(self, workspace: UUID) -> list[int]:
        """Return the positions that a workspace has; holds events and keys against them."""
        kept = [row["pos"] for row in await self.admin.fetch(LEFT, workspace)]
        for table in ("events", "event_keys"):
            rows = await self.admin.fetch(
                f"select 1 from annex.{table} join annex.log using (event_id)"
                f" where {table}.workspace_id = $1 and {table}.key is not null",
                workspace,
            )
            counted = f"select count(*) from annex.{table} where workspace_id = $1 and key <> ''"
            assert len(rows) == len(kept) == await self.admin.fetchval(counted, workspace)
        return kept

    async def retained_from(self, feed: UUID) -> int | None:
        """Return how far a feed has expired: a workspace's or a user's."""
        found: int | None = await self.admin.fetchval(
            "select retained_from from annex.retentions where feed_id = $1", feed
        )
        return found


@pytest.fixture
async def old(own_database: TestDatabase) -> AsyncIterator[Old]:
    async with (
        own_database.connect("postgres") as admin,
        own_database.connect("annex_worker") as worker,
    ):
        yield Old(own_database, admin, worker, await new_user(admin))


@pytest.fixture
async def pools(own_database: TestDatabase) -> AsyncIterator[Database]:
    """The pools, as the app makes them."""
    async with Database(settings_for(own_database)) as made:
        yield made


async def test_what_is_older_than_the_workspaces_limit_goes_with_its_keys(old: Old) -> None:
    workspace = await old.workspace(7)
    made = await old.add(workspace, 30, 8, 6.9, 0)
    assert await old.expire() == [2]
    assert await old.left(workspace) == made[2:]
    assert await old.retained_from(workspace) == made[2]


async def test_without_a_limit_everything_stays(old: Old) -> None:
    workspace = await old.workspace()
    made = await old.add(workspace, 4000, 1)
    assert await old.expire() == [0]
    assert await old.left(workspace) == made
    assert await old.retained_from(workspace) is None


@pytest.mark.parametrize(("own", "all_", "kept"), [(None, 10, 1), (20, 10, 1), (5, 10, 0)])
async def test_the_shorter_limit_counts(own: int | None, all_: int, kept: int, old: Old) -> None:
    workspace = await old.workspace(own)
    made = await old.add(workspace, 15, 7)
    await old.expire(all_)
    assert await old.left(workspace) == made[2 - kept :]


async def test_a_workspace_that_is_gone_has_the_installations_limit(old: Old) -> None:
    gone = uuid4()
    made = await old.add(gone, 15, 7)
    assert await old.expire() == [0]
    await old.expire(10)
    assert await old.left(gone) == made[1:]


async def test_personal_events_expire_as_well(old: Old) -> None:
    workspace = await old.workspace(7)
    made = await old.add(workspace, 9, 8, 1, user=old.owner)
    made += await old.add(workspace, 8, 1)
    assert await old.expire() == [3]
    assert await old.left(workspace) == [made[2], made[4]]
    assert await old.retained_from(workspace) == made[3] + 1
    assert await old.retained_from(old.owner) == made[1] + 1


async def test_personal_events_expire_after_30_days_without_any_limit(old: Old) -> None:
    workspace, gone = await old.workspace(), uuid4()
    made = await old.add(workspace, 40, 31, 29, user=old.owner)
    others = await old.add(workspace, 400)
    orphans = await old.add(gone, 31, user=old.owner)
    assert await old.expire() == [3]
    assert await old.left(workspace) == [made[2], *others]
    assert await old.left(gone) == []
    assert await old.retained_from(old.owner) == orphans[0] + 1
    # Nor does a limit of years keep them, while a shorter one ends them sooner.
    longer, shorter = await old.workspace(3650), await old.workspace(5)
    kept = await old.add(longer, 31, 20, user=old.owner)
    await old.add(shorter, 20, user=old.owner)
    await old.expire(days=3650)
    assert await old.left(longer) == kept[1:]
    assert await old.left(shorter) == []


async def test_an_event_stays_until_every_reader_has_read_it(old: Old) -> None:
    workspace = await old.workspace(7)
    made = await old.add(workspace, 9, 8, 8, 1)
    move = (
        "insert into annex.readers (name, pos) values ($1, $2)"
        " on conflict (name) do update set pos = excluded.pos, updated_at = now()"
    )
    await old.worker.execute(move, "mails", made[1])
    await old.worker.execute(move, "projector", made[0])
    await old.expire()
    assert await old.left(workspace) == made[1:]
    await old.worker.execute(move, "projector", made[3])
    await old.expire()
    assert await old.left(workspace) == made[2:]


async def test_a_reader_that_has_not_moved_for_a_week_is_not_waited_for(old: Old) -> None:
    workspace = await old.workspace(7)
    made = await old.add(workspace, 9, 1)
    silent = "update annex.readers set updated_at = now() - make_interval(hours => $1)"
    await insert(old.admin, "readers", "name", name="projector", pos=0)
    await old.worker.execute(silent, 7 * 24 - 1)
    await old.expire()
    assert await old.left(workspace) == made
    await old.worker.execute(silent, 7 * 24 + 1)
    await old.expire()
    assert await old.left(workspace) == made[1:]


async def test_a_workspace_keeps_what_another_one_lets_go(old: Old) -> None:
    keeps, lets_go = await old.workspace(), await old.workspace(1)
    kept = await old.add(keeps, 9, 9)
    await old.add(lets_go, 9, 9)
    await old.expire()
    assert await old.left(keeps) == kept
    assert await old.left(lets_go) == []
    assert await old.retained_from(keeps) is None


async def test_a_batch_is_bounded_and_the_next_goes_on_where_it_stopped(old: Old) -> None:
    workspaces = [await old.workspace(1) for _ in range(3)]
    for workspace in workspaces:
        await old.add(workspace, *[9] * 5, 0)
    assert await old.expire(rows=4) == [4, 4, 4, 3]
    assert [len(await old.left(workspace)) for workspace in workspaces] == [1, 1, 1]


async def test_an_old_event_behind_a_newer_one_waits_for_it(old: Old) -> None:
    # Its transaction was open for long. Deleted alone, it would leave a hole behind the readers.
    workspace = await old.workspace(7)
    made = await old.add(workspace, 8, 6, 9)
    await old.expire()
    assert await old.left(workspace) == made[1:]
    assert await old.retained_from(workspace) == made[0] + 1


async def test_how_far_is_moved_with_what_is_deleted(old: Old) -> None:
    workspace = await old.workspace(7)
    made = await old.add(workspace, 9, 8, 1)
    transaction = old.worker.transaction()
    await transaction.start()
    await old.worker.execute(EXPIRE, None, None, 1000)
    assert await old.left(workspace) == made
    assert await old.retained_from(workspace) is None
    await transaction.rollback()
    assert await old.left(workspace) == made
    assert await old.retained_from(workspace) is None


async def test_the_whole_log_is_retained_from_its_first_entry(old: Old) -> None:
    whole = "select retained_from from annex.log_state"
    keeps, lets_go = await old.workspace(), await old.workspace(1)
    (first,) = await old.add(lets_go, 9)
    await old.expire()
    assert await old.admin.fetchval(whole) == first + 1
    (second,) = await old.add(keeps, 9)
    await old.add(lets_go, 9)
    await old.expire()
    assert await old.admin.fetchval(whole) == second


async def test_one_at_a_time_expires_and_the_others_do_not_wait(old: Old) -> None:
    await old.add(await old.workspace(7), 9)
    async with old.database.connect("annex_worker") as other:
        async with other.transaction():
            await other.execute(EXPIRE, None, None, 1000)
            assert await old.worker.fetch(EXPIRE, None, None, 1000) == []
        assert await old.worker.fetch(EXPIRE, None, None, 1000) != []


async def test_a_key_may_be_used_again_when_its_event_has_expired(old: Old) -> None:
    workspace = await old.workspace(7)
    await old.add(workspace, 9)
    key = await old.admin.fetchval("select key from annex.event_keys")
    publish = "select annex.publish($1, 'test.made', source => 'test', key => $2)"
    known = await old.admin.fetchval(publish, workspace, key)
    await old.expire()
    assert await old.admin.fetchval(publish, workspace, key) != known


async def test_where_nothing_expires_hardly_anything_is_read(old: Old) -> None:
    workspace = await old.workspace(7)
    await old.admin.execute(
        "insert into annex.log (pos, event_id, workspace_id, user_id)"
        " select n, annex.uuid7(), $1, case when n % 2 = 0 then $2::uuid end"
        " from generate_series(1, 40000) n",
        workspace,
        old.owner,
    )
    await old.admin.execute("analyze annex.log")
    await old.expire()
    await old.admin.execute("select pg_stat_force_next_flush()")
    await old.worker.execute("select pg_stat_force_next_flush()")
    read = "select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'log'"
    scans = "select seq_tup_read from pg_stat_user_tables where relname = 'log'"
    before, seen = await old.admin.fetchval(read), await old.admin.fetchval(scans)
    assert await old.expire() == [0]
    await old.worker.execute("select pg_stat_force_next_flush()")
    await old.worker.fetchval("select 1")
    assert await old.admin.fetchval(read) - before < 500
    assert await old.admin.fetchval(scans) == seen


async def test_housekeeping_expires_in_batches(
    old: Old, pools: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.worker.housekeeping.EVENTS", 2)
    mine, other = await old.workspace(7), await old.workspace()
    await old.add(mine, *[9] * 5, 1)
    await old.add(other, *[90] * 3, 9)
    await tidy(pools, 30)
    assert (len(await old.left(mine)), len(await old.left(other))) == (1, 1)


REFERRING = """
select conrelid::regclass::text, a.attname from pg_constraint c
join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
where c.contype = 'f' and c.confrelid = 'annex.workspaces'::regclass
"""


async def test_a_deleted_workspace_is_purged_after_its_grace(old: Old, pools: Database) -> None:
    mine, other, live = [await old.workspace() for _ in range(3)]
    for workspace in (mine, other, live):
        await new_key(old.admin, workspace)
        await old.add(workspace, 1)
        for _ in range(3):
            await join(old.admin, workspace, await new_user(old.admin), "viewer")
    delete = "update annex.workspaces set deleted_at = now() - $2::interval where id = $1"
    await old.admin.execute(delete, mine, timedelta(days=31))
    await old.admin.execute(delete, other, timedelta(days=29))
    async with old.database.connect("annex_worker") as worker:
        # In batches, as the worker does it.
        steps = [await worker.fetchval("select annex.purge_workspaces(30, 2)")]
        while steps[-1]:
            steps.append(await worker.fetchval("select annex.purge_workspaces(30, 2)"))
    assert sum(steps) > 5
    assert max(steps) <= 3  # two, and at last the workspace's own row
    await tidy(pools)
    referring = await old.admin.fetch(REFERRING)
    assert {table for table, _ in referring} >= {"annex.members", "annex.roles", "annex.api_keys"}
    for table, column in (*referring, ("annex.workspaces", "id")):
        count = f"select count(*) from {table} where {column} = $1"
        assert await old.admin.fetchval(count, mine) == 0, table
    for workspace, members in ((other, 4), (live, 4)):
        count = "select count(*) from annex.members where workspace_id = $1"
        assert await old.admin.fetchval(count, workspace) == members
    assert len(await old.left(mine)) >= 1


async def test_what_was_over_for_long_is_deleted_and_no_news(old: Old, pools: Database) -> None:
    workspace = await old.workspace()
    keys = [await new_key(old.admin, workspace) for _ in range(3)]
    await old.admin.execute(
        "update annex.api_keys set revoked_at = now() - interval '91 days' where id = $1", keys[0]
    )
    await old.admin.execute(
        "update annex.api_keys set expires_at = now() - interval '89 days' where id = $1", keys[1]
    )
    await old.admin.execute("alter table annex.invitations disable trigger user")
    await old.admin.execute(
        "insert into annex.invitations (workspace_id, email, role, status, expires_at, updated_at)"
        " select $1, n || '@example.com', 'viewer',"
        " case n when 1 then 'pending' else 'expired' end, now(),"
        " now() - case n when 2 then 89 else 91 end * interval '1 day'"
        " from generate_series(1, 5) n",
        workspace,
    )
    await old.admin.execute("alter table annex.invitations enable trigger user")
    count = "select count(*) from annex.events where workspace_id = $1"
    before = await old.admin.fetchval(count, workspace)
    await tidy(pools)
    left = await old.admin.fetch("select id from annex.api_keys where workspace_id = $1", workspace)
    assert {row[0] for row in left} == set(keys[1:])
    left = await old.admin.fetch(
        "select email from annex.invitations where workspace_id = $1 order by email", workspace
    )
    assert [row[0] for row in left] == ["1@example.com", "2@example.com"]
    # That the pending one has expired is news; that old ones are gone is none.
    assert await old.admin.fetchval(count, workspace) == before + 1


async def test_what_cannot_be_done_does_not_keep_the_rest_from_its_turn(
    old: Old, pools: Database
) -> None:
    workspace = await old.workspace(7)
    await old.add(workspace, 9)
    await old.admin.execute("drop function annex.roll_partitions")
    await tidy(pools)
    assert await old.left(workspace) == []


@pytest.fixture
async def past_month(old: Old) -> str:
    """The name of a partition that was made long ago."""
    first = datetime(2020, 3, 1, tzinfo=UTC)
    bounds = [await old.admin.fetchval(FLOOR, m) for m in (first, first.replace(month=4))]
    await old.admin.execute(
        "create table annex.events_2020_03 partition of annex.events"
        f" for values from ('{bounds[0]}') to ('{bounds[1]}')"
    )
    await old.admin.execute("alter table annex.events_2020_03 owner to annex_owner")
    return "annex.events_2020_03"


DROP = "select annex.drop_partitions()"


async def test_an_empty_month_of_the_past_is_dropped(old: Old, past_month: str) -> None:
    assert [await old.worker.fetchval(DROP) for _ in range(2)] == [1, 0]
    assert await old.admin.fetchval(MONTH_LIKE, past_month) == 0
    assert await old.worker.fetchval("select annex.roll_partitions()") == 0


async def test_a_month_goes_when_its_last_event_has_expired(old: Old, past_month: str) -> None:
    age = (datetime.now(UTC) - datetime(2020, 3, 5, tzinfo=UTC)).days
    await old.add(await old.workspace(), age)
    assert await old.worker.fetchval(DROP) == 0
    await old.expire(30)
    assert await old.worker.fetchval(DROP) == 1
    assert await old.admin.fetchval(MONTH_LIKE, past_month) == 0


async def test_a_writer_keeps_a_partition_from_being_dropped_and_does_not_wait_long(
    old: Old, past_month: str
) -> None:
    workspace = await old.workspace()
    async with old.database.connect("postgres") as writer:
        transaction = writer.transaction()
        await transaction.start()
        publish = "select annex.publish($1, 'test.made')"
        await writer.execute(publish, workspace)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await old.worker.execute(DROP)
        await writer.execute(publish, workspace)
        await transaction.commit()
    assert await old.worker.fetchval(DROP) == 1
    assert await old.admin.fetchval(MONTH_LIKE, past_month) == 0


async def test_rolling_does_not_wait_for_an_open_writer(old: Old) -> None:
    workspace = await old.workspace()
    async with old.database.connect("postgres") as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("select annex.publish($1, 'test.made')", workspace)
        assert await old.worker.fetchval("select annex.roll_partitions(4)") == 1
        await transaction.commit()


async def test_rolling_gives_up_soon_where_somebody_reads_for_long(old: Old) -> None:
    async with old.database.connect("postgres") as reader:
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("select count(*) from annex.events")
        async with asyncio.timeout(20):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await old.worker.execute("select annex.roll_partitions(4)")
        await transaction.rollback()
    assert await old.worker.fetchval("select annex.roll_partitions(4)") == 1


async def add_trail(old: Old, workspace: UUID, *ages: float) -> list[int]:
    """Append events of the audit trail: by turns drawn by Annex and for auditors alone."""
    positions = await old.add(workspace, *ages)
    await old.admin.execute(
        "update annex.events e set source = case when l.pos % 2 = 0 then 'annex' else e.source end,"
        " permission = case when l.pos % 2 = 1 then 'events:audit' end"
        " from annex.log l where l.event_id = e.event_id and l.pos = any ($1::bigint[])",
        positions,
    )
    await old.admin.execute(
        "update annex.event_keys k set source = e.source from annex.events e"
        " where e.event_id = k.event_id and k.source <> e.source"
    )
    return positions


async def test_a_workspaces_limit_does_not_shorten_its_audit_trail(old: Old) -> None:
    workspace = await old.workspace(1)
    gone = await add_trail(old, workspace, 400, 370)
    trail = await add_trail(old, workspace, 360, 30)
    others = await old.add(workspace, 20, 10)
    trail += await add_trail(old, workspace, 9, 8)
    fresh = await old.add(workspace, 0.5)
    assert sum(await old.expire()) == len(gone) + len(others)
    assert await old.left(workspace) == trail + fresh
    assert await old.retained_from(workspace) == others[-1] + 1
    assert await old.expire() == [0]


@pytest.mark.parametrize("rows", [1, 2, 3])
async def test_a_trail_longer_than_a_batch_does_not_stop_the_sweep(old: Old, rows: int) -> None:
    workspace = await old.workspace(1)
    trail = await add_trail(old, workspace, *[30.0] * 7)
    others = await old.add(workspace, 20, 10)
    trail += await add_trail(old, workspace, *[9.0] * 4)
    others += await old.add(workspace, 5)
    after = None
    for _ in range(40):
        (row,) = await old.worker.fetch(EXPIRE, after, None, rows)
        after = row["workspace_id"]
        if row["is_last"]:
            break
    else:
        raise AssertionError("it never comes to the end")
    assert await old.left(workspace) == trail
    # What was swept is not looked at again.
    assert await old.expire(rows=rows) == [0]


async def test_the_installations_limit_holds_for_the_audit_trail_too(old: Old) -> None:
    workspace = await old.workspace()
    made = await add_trail(old, workspace, 40, 20)
    assert sum(await old.expire(days=30)) == 1
    assert await old.left(workspace) == made[1:]


async def test_an_operator_may_keep_the_trail_longer_or_shorter(old: Old) -> None:
    workspace = await old.workspace(1)
    made = await add_trail(old, workspace, 40, 20)
    await old.admin.execute(
        "update annex.limits set value = 30 where name = 'audit_retention_days'"
    )
    assert sum(await old.expire()) == 1
    assert await old.left(workspace) == made[1:]
