"""The worker through PgBouncer in transaction mode."""

from tests.app.test_transaction_pooler import pgbouncer
from tests.conftest import TestDatabase
from tests.realtime.writers import Load
from tests.worker.recorder import Recorder, events_of, prepare, recorded
from tests.worker.test_runner import SEED, working


async def test_two_workers_behind_a_transaction_pooler_record_each_entry_once(
    own_database: TestDatabase,
) -> None:
    workspace = await prepare(own_database)
    load = Load(own_database, str(workspace), SEED, pause_seconds=0.01)
    with pgbouncer(own_database, servers=2) as pooled:
        settings = pooled.settings()
        async with (
            working(own_database, Recorder(), **settings),
            working(own_database, Recorder(), **settings),
        ):
            async with load.writing(8):
                await load.more(150)
            state = await recorded(own_database)
    state.check(await events_of(own_database))
