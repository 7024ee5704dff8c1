"""Tables that have grown are analyzed, so that no session keeps a plan for an empty one."""

from tests.conftest import TestDatabase
from tests.database.conftest import Connection

REFRESH = "select annex.refresh_statistics()"
GROW = """
with made as (
  insert into auth.users (id) select gen_random_uuid() from generate_series(1, $1::integer)
  returning id
)
insert into annex.profiles (user_id) select id from made
"""


async def flush(connection: Connection) -> None:
    """Let the counters of a session be seen by the others, which they are a second later else."""
    await connection.execute("select pg_stat_force_next_flush()")
    await connection.execute("select 1")


async def known(admin: Connection, table: str) -> int:
    """Return how many rows the planner thinks that a table has; -1 if it was never analyzed."""
    return int(
        await admin.fetchval(
            "select reltuples from pg_class where oid = ('annex.' || $1::text)::regclass", table
        )
    )


async def analyzed(admin: Connection, relation: str) -> set[str]:
    """Return the columns of a table, or the expressions of an index, that have statistics."""
    found = await admin.fetch(
        "select attname from pg_stats where schemaname = 'annex' and tablename = $1", relation
    )
    return {row[0] for row in found}


async def test_a_table_is_analyzed_whenever_it_has_doubled(own_database: TestDatabase) -> None:
    async with (
        own_database.connect("postgres") as admin,
        own_database.connect("annex_worker") as worker,
    ):
        await admin.execute("alter table annex.profiles set (autovacuum_enabled = false)")
        await flush(admin)
        await worker.fetchval(REFRESH)
        before = await known(admin, "profiles")
        assert before < 300
        await admin.execute(GROW, 300)
        await flush(admin)
        assert await worker.fetchval(REFRESH) == 1
        assert await known(admin, "profiles") == 300
        await flush(worker)
        # A few more, and one that changes often, change nothing.
        await admin.execute(GROW, 100)
        for _ in range(300):
            await admin.execute("update annex.log_state set head = head + 1")
        await flush(admin)
        assert await worker.fetchval(REFRESH) == 0
        await admin.execute(GROW, 400)
        await flush(admin)
        assert await worker.fetchval(REFRESH) == 1
        assert await known(admin, "profiles") == 800


async def test_a_plan_for_an_empty_table_ends_with_its_growth(own_database: TestDatabase) -> None:
    """The plan's index is any that has the column; of a grown table, only one will do."""
    async with (
        own_database.connect("postgres") as admin,
        own_database.connect("annex_worker") as worker,
    ):
        plan = "explain (costs off) execute look('00000000-0000-0000-0000-000000000000')"
        await admin.execute("set plan_cache_mode = force_generic_plan")
        await admin.execute("set enable_seqscan = off; set enable_bitmapscan = off")
        await admin.execute(
            "prepare look(uuid) as select from annex.notifications n where n.id = $1"
        )
        await admin.fetch(plan)
        await admin.execute(GROW, 300)
        await admin.execute("insert into annex.workspaces (slug, name) values ('grown', 'Grown')")
        await admin.execute(
            "insert into annex.notifications"
            " (workspace_id, user_id, event_id, type, actor, category, reason, title)"
            " select w.id, p.user_id, gen_random_uuid(), 'a.b', 'system', 'c', 'recipient', 'x'"
            " from annex.workspaces w, annex.profiles p, generate_series(1, 10)"
        )
        await admin.execute(
            "insert into annex.mails (workspace_id, notification_id, user_id, recipient)"
            " select workspace_id, id, user_id, 'ann@example.com'"
            " from annex.notifications limit 300"
        )
        await flush(admin)
        assert await worker.fetchval(REFRESH) >= 3
        assert {"user_id", "archived_at", "snoozed_until"} <= await analyzed(admin, "notifications")
        assert "body" not in await analyzed(admin, "notifications")
        assert {"sent_at", "failed_at"} <= await analyzed(admin, "mails")
        assert await analyzed(admin, "mails_waiting_idx") == {"mailbox"}
        lines = "\n".join(row[0] for row in await admin.fetch(plan))
        assert "notifications_pkey" in lines, lines
