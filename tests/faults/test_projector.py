"""kill -9 of the projector at any moment: no item is lost, and none is doubled."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import ROOT, TestDatabase, settings_for
from tests.database.conftest import new_user, new_workspace
from tests.faults.processes import environment
from tests.faults.seed import SCALE, SEED
from tests.inbox.conftest import settled

MEMBERS = """
with made as (
  insert into auth.users (id) select gen_random_uuid() from generate_series(1, $2) returning id
), known as (
  insert into annex.profiles (user_id) select id from made returning user_id
), joined as (
  insert into annex.members (workspace_id, user_id, role)
  select $1, id, 'viewer' from made, (select count(*) from known) k returning user_id
)
insert into annex.subscriptions (workspace_id, topic, user_id, reason)
select $1, case when random() < 0.5 then 'odd' else 'even' end, user_id, 'added'
from joined, (select count(*) from joined) j
"""
DOUBLED = """
select count(*) from (
  select from annex.notifications group by user_id, event_id having count(*) > 1
) d
"""
MISSING = """
select count(*) from annex.events e join annex.subscriptions s on s.topic = any (e.topics)
where e.user_id is null and not exists (
  select from annex.notifications n where n.user_id = s.user_id and n.event_id = e.event_id
)
"""
DRIFTED = """
select count(*) from annex.inboxes i
join lateral (
  select count(*) as items from annex.notifications n where n.user_id = i.user_id
) n on true
where i.active <> n.items or i.unread <> n.items
"""
UNTOLD = """
select (select count(*) from annex.notifications)
  - (select count(distinct data #>> '{notification,id}') from annex.events
    where type = 'annex.notification.created')
"""


class Worker:
    """`annex worker` in a process of its own."""

    def __init__(self, database: TestDatabase, log: Path) -> None:
        settings = settings_for(database, log_level="warning")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-c", "from app.cli import main; main()", "worker"],
                cwd=ROOT,
                env=kept | environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """End it as a crash does."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


@pytest.mark.timeout(600)
async def test_a_killed_projector_loses_and_doubles_nothing(
    own_database: TestDatabase, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    drawn, kills, in_transaction = random.Random(SEED), 5 if SCALE == 1 else 50, 0
    log, attempts = tmp_path / "worker.log", 0
    async with own_database.connect("postgres") as admin:
        workspace: UUID = await new_workspace(admin, await new_user(admin))
        await admin.execute("alter table annex.members disable trigger members_record")
        await admin.execute(MEMBERS, workspace, 1200)
        # As many as there have to be, and more until one has hit a page that is half done.
        while attempts < kills or (in_transaction == 0 and attempts < 10 * kills):
            attempts += 1
            for topic in drawn.sample(["odd", "even", "none"], 2):
                await admin.execute(
                    "select annex.publish($1, 'test.made', topics => array[$2])", workspace, topic
                )
            worker = Worker(own_database, log)
            try:
                before = await admin.fetchval("select count(*) from annex.notifications")
                # Somewhere within its work: after it has begun, and before it can be done.
                async with asyncio.timeout(60):
                    while await admin.fetchval(
                        "select count(*) from annex.notifications"
                    ) == before and await admin.fetchval(
                        "select exists (select from annex.fanouts)"
                        " or exists (select from annex.pending)"
                    ):
                        await asyncio.sleep(0.005)
                await asyncio.sleep(drawn.random() * 0.3)
                in_transaction += await admin.fetchval(
                    "select exists (select from pg_stat_activity where usename = 'annex_worker'"
                    " and datname = current_database() and xact_start is not null"
                    " and query ~ 'annex[.](queue_fanouts|deliver)|annex.readers')"
                )
            finally:
                worker.kill()
        worker = Worker(own_database, log)
        try:
            await settled(own_database, 120)
        finally:
            worker.kill()
        assert await admin.fetchval("select count(*) from annex.notifications") > 1200
        for wrong in (DOUBLED, MISSING, DRIFTED, UNTOLD):
            assert await admin.fetchval(wrong) == 0, wrong
    assert in_transaction > 0
    record_property("kills", attempts)
    # As of some milliseconds before each kill: a transaction may have ended meanwhile.
    record_property("kills_that_an_open_transaction_was_seen_before", in_transaction)
    assert "Traceback" not in log.read_text()
