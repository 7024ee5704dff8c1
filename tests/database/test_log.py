import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import TestDatabase, encode
from tests.database.conftest import (
    Claims,
    Connection,
    insert,
    key,
    new_event,
    new_user,
    new_workspace,
)

TAIL = "select pos, event_id from annex.tail($1, $2)"
READ = "select * from annex.read_events($1)"
OPEN = "select epoch, head, retained_from from annex.open_log($1, $2)"
PUBLISH = "select event_id from annex.publish_events($1, $2)"


class Log(NamedTuple):
    """A log that nobody else writes, and a workspace to publish in."""

    database: TestDatabase
    admin: Connection
    worker: Connection
    workspace: UUID
    key: Claims

    def writer(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """Open a session that publishes."""
        return self.database.connect("annex_api", self.key)

    async def publish(self, writer: Connection) -> UUID:
        """Publish an event."""
        batch = encode([{"type": "test.made", "source": "test"}])
        made: UUID = await writer.fetchval(PUBLISH, self.workspace, batch)
        return made

    async def read(self, after: int, rows: int = 1000) -> list[tuple[int, UUID]]:
        """Read on from a position."""
        return [tuple(row) for row in await self.worker.fetch(TAIL, after, rows)]


@pytest.fixture
async def log(database: TestDatabase, admin: Connection) -> AsyncIterator[Log]:
    workspace = await new_workspace(admin, await new_user(admin))
    claims = await key(admin, workspace, "events:publish")
    # Begin anew, also without the events that the workspace itself drew.
    await admin.execute("truncate annex.pending, annex.log, annex.events")
    await admin.execute("update annex.log_state set head = 0")
    async with database.connect("annex_worker") as worker:
        yield Log(database, admin, worker, workspace, claims)


async def test_positions_count_from_one_in_the_order_of_writing(log: Log) -> None:
    async with log.writer() as writer:
        made = [await log.publish(writer) for _ in range(5)]
    assert await log.read(0) == list(enumerate(made, 1))


async def test_reading_again_gives_the_same(log: Log) -> None:
    async with log.writer() as writer:
        await log.publish(writer)
    assert await log.read(0) == await log.read(0) != []


async def test_reading_begins_after_the_position(log: Log) -> None:
    async with log.writer() as writer:
        made = [await log.publish(writer) for _ in range(5)]
    assert await log.read(3) == [(4, made[3]), (5, made[4])]
    assert await log.read(5) == []


async def test_a_read_gives_at_most_so_many_and_the_next_goes_on(log: Log) -> None:
    async with log.writer() as writer:
        made = [await log.publish(writer) for _ in range(5)]
    first, rest = await log.read(0, 2), await log.read(2)
    assert (len(first), first + rest) == (2, list(enumerate(made, 1)))


async def test_the_rows_of_a_read_are_the_events(log: Log) -> None:
    async with log.writer() as writer:
        made = await log.publish(writer)
    (row,) = await log.worker.fetch("select * from annex.tail(0)")
    assert tuple(row) == (1, made, log.workspace, None, None)
    event = await log.admin.fetchrow("select * from annex.events where event_id = $1", made)
    assert await log.worker.fetch(READ, [made]) == [event]


async def test_a_personal_event_stays_personal_in_the_log(log: Log) -> None:
    owned = {"workspace_id": log.workspace, "user_id": uuid4()}
    event = await new_event(log.admin, log.workspace, user_id=owned["user_id"])
    await insert(log.admin, "pending", "event_id", event_id=event, is_personal=True, **owned)
    assert await log.read(0) == [(1, event)]
    assert await log.admin.fetchval("select user_id from annex.log") == owned["user_id"]


FLOOD = """
with made as (
  insert into annex.events (event_id, workspace_id, user_id, type, source, actor)
  select annex.uuid7(), $1, $2, 'test.personal', 'test', 'system' from generate_series(1, $3)
  returning event_id, workspace_id, user_id
)
insert into annex.pending (event_id, workspace_id, user_id, is_personal)
select event_id, workspace_id, user_id, true from made
"""
PERSONAL, ROWS = 100_000, 1000


async def test_a_flood_of_personal_events_delays_nobody_else(log: Log) -> None:
    await log.admin.execute(FLOOD, log.workspace, uuid4(), PERSONAL)
    async with log.writer() as writer, log.database.connect("annex_worker") as other:
        heads, seen = [0, 0], list[list[tuple[int, UUID]]]([[], []])
        for _ in range(10):
            made = await log.publish(writer)
            # Two tails at once may each add a batch; no more than that is before the new one.
            for n, worker in enumerate((log.worker, other)):
                batch = [tuple(r) for r in await worker.fetch(TAIL, heads[n], ROWS)]
                heads[n] = batch[-1][0]
                seen[n] += batch
            assert all(made in [event for _, event in rows] for rows in seen)
        while batch := [tuple(r) for r in await log.worker.fetch(TAIL, heads[0], ROWS)]:
            heads[0] = batch[-1][0]
            seen[0] += batch
    assert [pos for pos, _ in seen[0]] == list(range(1, PERSONAL + 11))
    lane = "select event_id from annex.events where user_id is null order by event_id"
    shared = [row[0] for row in await log.admin.fetch(lane)]
    known = set(shared)
    assert [event for _, event in seen[0] if event in known] == shared


async def pend(log: Log, *lanes: UUID | None) -> list[UUID]:
    """Put events in line without their rows, personal to somebody or not, in this order."""
    events = [uuid4() for _ in lanes]
    for event, whose in zip(events, lanes, strict=True):
        await insert(
            log.admin,
            "pending",
            "event_id",
            event_id=event,
            workspace_id=log.workspace,
            user_id=whose,
            is_personal=whose is not None,
        )
    return events


@pytest.mark.parametrize(
    ("personal", "shared", "taken"),
    [(10, 10, (3, 3)), (10, 2, (4, 2)), (1, 10, (1, 5)), (10, 0, (6, 0)), (0, 10, (0, 6))],
)
async def test_each_lane_fills_half_a_batch_and_what_the_other_leaves(
    personal: int, shared: int, taken: tuple[int, int], log: Log
) -> None:
    first = await pend(log, *[uuid4()] * personal)
    second = await pend(log, *[None] * shared)
    moved = [event for _, event in await log.read(0, 6)]
    assert moved == first[: taken[0]] + second[: taken[1]]


async def test_within_a_lane_positions_follow_the_ids(log: Log) -> None:
    whose = uuid4()
    made = await pend(log, *[whose if n % 3 else None for n in range(60)])
    head, order = 0, list[UUID]()
    while batch := await log.read(head, 7):
        head = batch[-1][0]
        order += [event for _, event in batch]
    for lane in (made[::3], [event for n, event in enumerate(made) if n % 3]):
        assert [event for event in order if event in lane] == lane


async def test_who_has_a_batch_to_read_yet_does_not_add_another(log: Log) -> None:
    await pend(log, *[None] * 30)
    async with log.database.connect("annex_worker") as other:
        for after in (0, 10, 20):
            first = [tuple(row) for row in await other.fetch(TAIL, after, 10)]
            await log.read(0, 10)
            assert await log.admin.fetchval("select head from annex.log_state") == after + 10
            assert [pos for pos, _ in first] == list(range(after + 1, after + 11))


async def test_what_commits_late_is_not_lost_though_its_id_is_lower(log: Log) -> None:
    async with log.writer() as slow, log.writer() as fast:
        transaction = slow.transaction()
        await transaction.start()
        late = await log.publish(slow)
        early = await log.publish(fast)
        assert await log.read(0) == [(1, early)]
        await transaction.commit()
    assert await log.read(1) == [(2, late)]


async def test_a_writer_that_rolled_back_leaves_no_gap(log: Log) -> None:
    async with log.writer() as writer:
        first = await log.publish(writer)
        transaction = writer.transaction()
        await transaction.start()
        await log.publish(writer)
        await transaction.rollback()
        last = await log.publish(writer)
    assert await log.read(0) == [(1, first), (2, last)]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_a_snapshot_older_than_the_lock_is_refused(isolation: str, log: Log) -> None:
    await pend(log, None)
    async with log.worker.transaction():
        await log.worker.execute(f"set transaction isolation level {isolation}")
        with pytest.raises(asyncpg.InvalidTransactionStateError):
            await log.read(0)


async def test_positions_of_an_open_transaction_are_nobody_elses(log: Log) -> None:
    async with log.writer() as writer:
        made = await log.publish(writer)
    async with log.database.connect("annex_worker") as other:
        transaction = log.worker.transaction()
        await transaction.start()
        assert await log.read(0) == [(1, made)]
        assert await other.fetch(TAIL, 0, 10) == []
        await transaction.rollback()
        assert [tuple(row) for row in await other.fetch(TAIL, 0, 10)] == [(1, made)]


async def test_a_read_that_finds_nothing_writes_nothing(log: Log) -> None:
    async with log.worker.transaction():
        assert await log.read(0) == []
        assert await log.worker.fetchval("select pg_current_xact_id_if_assigned()") is None


async def test_sequencers_at_work_together_give_dense_positions_and_all_read_the_same(
    log: Log,
) -> None:
    async def write(rounds: int) -> None:
        async with log.writer() as writer:
            for n in range(rounds):
                transaction = writer.transaction()
                await transaction.start()
                await log.publish(writer)
                await asyncio.sleep(n % 3 / 1000)
                await (transaction.rollback() if n % 10 == 9 else transaction.commit())

    async def follow() -> list[UUID]:
        seen: list[UUID] = []
        async with (
            log.database.connect("annex_worker") as worker,
            log.database.connect("postgres") as admin,
        ):
            while True:
                is_last = written.is_set() and not await admin.fetchval(waiting)
                rows = await worker.fetch(TAIL, len(seen), 7)
                assert [row["pos"] for row in rows] == [len(seen) + n + 1 for n in range(len(rows))]
                seen += [row["event_id"] for row in rows]
                if is_last and not rows:
                    return seen

    waiting = "select count(*) from annex.pending"
    written = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow()) for _ in range(3)]
        await asyncio.gather(*[write(50) for _ in range(6)])
        written.set()
    first, *others = [follower.result() for follower in followers]
    assert all(other == first for other in others)
    committed = "select event_id from annex.events where type = 'test.made'"
    assert sorted(first) == sorted(row[0] for row in await log.admin.fetch(committed))
    assert len(first) == 6 * 45
    assert await log.admin.fetchval("select head from annex.log_state") == len(first)


async def test_sequencing_and_reading_apart_give_what_a_tail_gives(log: Log) -> None:
    made = await pend(log, None, uuid4(), None)
    sequence, read = "select annex.sequence($1)", "select * from annex.read_log($1, $2)"
    assert await log.worker.fetch(read, 0, 10) == []
    assert [await log.worker.fetchval(sequence, 2) for _ in range(3)] == [2, 1, 0]
    rows = await log.worker.fetch(read, 0, 10)
    assert {row["event_id"] for row in rows} == set(made)
    assert [row["pos"] for row in rows] == [1, 2, 3]
    assert await log.worker.fetch(read, 1, 1) == rows[1:2]
    assert await log.worker.fetch("select * from annex.tail(0)") == rows


async def test_the_log_says_whose_rights_an_event_changes(log: Log) -> None:
    owned = {"event_id": uuid4(), "workspace_id": log.workspace}
    await insert(log.admin, "pending", "event_id", rights_of="user:1", **owned)
    (row,) = await log.worker.fetch("select * from annex.tail(0)")
    assert row["rights_of"] == "user:1"


async def test_one_session_is_the_sequencer_and_the_others_do_not_wait(log: Log) -> None:
    await pend(log, None)
    async with log.database.connect("annex_worker") as other, other.transaction():
        assert await other.fetchval("select annex.sequence()") == 1
        await pend(log, None)
        assert await log.worker.fetchval("select annex.sequence()") == 0


async def test_a_transactions_own_order_is_kept(log: Log) -> None:
    async with log.writer() as writer, writer.transaction():
        made = [await log.publish(writer) for _ in range(5)]
    assert [event for _, event in await log.read(0)] == made


async def test_a_copy_of_the_database_opens_a_new_epoch(own_database: TestDatabase) -> None:
    # As every database of these tests is one, made from a template.
    async with own_database.connect("annex_worker") as worker:
        assert await worker.fetchval(OPEN, 0, 0) == 2


@pytest.mark.parametrize("identity", ["system_identifier", "timeline", "database_oid"])
async def test_an_epoch_ends_once_when_server_or_database_is_another(
    identity: str, log: Log
) -> None:
    async with log.writer() as writer:
        await log.publish(writer)
    await log.read(0)
    (before,) = await log.worker.fetch(OPEN, 0, 0)
    await log.admin.execute(f"update annex.log_state set {identity} = {identity} + 1")
    for _ in range(2):
        (after,) = await log.worker.fetch(OPEN, 0, 0)
        assert dict(after) == {**before, "epoch": before["epoch"] + 1}


async def test_an_epoch_ends_once_when_the_head_is_behind_what_was_seen_in_it(log: Log) -> None:
    epoch = await log.worker.fetchval(OPEN, 0, 0)
    for _ in range(2):
        assert await log.worker.fetchval(OPEN, epoch, 1) == epoch + 1


async def test_a_head_seen_in_another_epoch_says_nothing(log: Log) -> None:
    epoch = await log.worker.fetchval(OPEN, 0, 0)
    assert await log.worker.fetchval(OPEN, epoch - 1, 1) == epoch


async def test_a_deleted_event_keeps_its_position(log: Log) -> None:
    async with log.writer() as writer:
        made = [await log.publish(writer) for _ in range(2)]
    await log.admin.execute("delete from annex.events where event_id = $1", made[0])
    assert await log.read(0) == list(enumerate(made, 1))
    assert [row["event_id"] for row in await log.worker.fetch(READ, made)] == made[1:]


async def test_an_epoch_ends_once_however_many_notice(log: Log) -> None:
    await log.admin.execute("update annex.log_state set timeline = timeline + 1")
    async with log.database.connect("annex_worker") as other:
        transaction = log.worker.transaction()
        await transaction.start()
        epoch = await log.worker.fetchval(OPEN, 0, 0)
        waiting = asyncio.create_task(other.fetchval(OPEN, 0, 0))
        await asyncio.sleep(0.05)
        await transaction.commit()
        assert await waiting == epoch


async def test_opening_the_same_log_again_writes_nothing(log: Log) -> None:
    await log.worker.execute(OPEN, 0, 0)
    async with log.worker.transaction():
        await log.worker.execute(OPEN, 0, 0)
        assert await log.worker.fetchval("select pg_current_xact_id_if_assigned()") is None


async def test_expired_answers_are_purged_oldest_first_and_the_others_stay(log: Log) -> None:
    await log.admin.execute(
        "insert into annex.idempotency_keys"
        " select 'user:1', 'POST /', n::text, repeat('x', 32)::bytea, 201, '{}', '',"
        " now() + n * interval '1 hour' from generate_series(-3, 2) n where n <> 0"
    )
    purge = "select annex.purge_idempotency_keys($1)"
    keys = "select key from annex.idempotency_keys order by expires_at"
    assert await log.worker.fetchval(purge, 2) == 2
    assert [row["key"] for row in await log.admin.fetch(keys)] == ["-1", "1", "2"]
    assert [await log.worker.fetchval(purge, 2) for _ in range(2)] == [1, 0]
    assert [row["key"] for row in await log.admin.fetch(keys)] == ["1", "2"]
