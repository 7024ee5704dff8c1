"""`annex worker` as a process of its own: told to stop, it finishes what it has begun."""

import asyncio
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from app.database.pools import Database
from app.worker import mails, notification_mails
from app.worker.letters import Letters
from tests.conftest import Callers, TestDatabase, new_tenant, running, settings_for
from tests.controllers.test_invitations import issue
from tests.database.conftest import fan_out
from tests.faults.processes import environment, program_running
from tests.realtime.reader import until
from tests.worker.mailbox import mailbox, settings_of

RESTING = """
select bool_and(state = 'idle') and count(*) > 0 from pg_stat_activity
where datname = current_database() and usename = 'annex_worker'
"""


def worker(log: Path, environ: dict[str, str]) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run the command; its output goes to a file."""
    return program_running(log, environ, str(Path(sys.executable).parent / "annex"), "worker")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_is_told_to_stop_finishes_its_batch_and_begins_no_other(
    own_database: TestDatabase, tmp_path: Path, number: int
) -> None:
    emails = [f"{uuid4().hex[:8]}@example.org" for _ in range(12)]
    async with mailbox() as box, running(own_database, **settings_of(box)) as live:
        callers = Callers(live)
        tenant = await new_tenant(callers)
        await issue(tenant.owner, tenant, *emails)
        box.pause = 1
        log, environ = tmp_path / "log", environment(settings_for(own_database, **settings_of(box)))
        with worker(log, environ) as child:
            # A mail is on its way: the server has yet to answer.
            await until(lambda: box.begun > 0, 30)
            child.send_signal(number)
            await until(lambda: child.poll() is not None, 20)
            assert child.returncode == 0, log.read_text()
        assert "Traceback" not in log.read_text()
        async with own_database.connect("postgres") as admin:
            mails = await admin.fetch(
                "select * from annex.mails where workspace_id = $1", UUID(tenant.id)
            )
        await callers.close()
    sent = {m["recipient"] for m in mails if m["sent_at"]}
    assert sent == {r.recipients[0] for r in box.received}
    assert 0 < len(sent) < len(emails)
    assert [m for m in mails if m["lease_id"] or m["error"]] == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["invitation", "notification"])
async def test_a_worker_killed_when_a_mail_was_taken_sends_it_once_more_and_no_more(
    own_database: TestDatabase, tmp_path: Path, kind: str
) -> None:
    async with mailbox() as box:
        given = settings_of(box, public_url="https://api.example.com")
        fast = {**given, "notification_mail_seconds": 0}
        async with running(own_database, **fast) as live, Database(live.settings) as pools:
            callers = Callers(live)
            tenant = await new_tenant(callers)
            await notification_mails.queue(live.settings, pools)
            if kind == "invitation":
                await issue(tenant.owner, tenant, "jane@example.org")
            else:
                key = await callers.key(tenant.id, "events:publish")
                event = {"type": "test.made", "recipients": [str(tenant.owner.user_id)]}
                made = await key.client.post(f"{tenant.path}/events", json=event)
                await live.app.runtime.tail.catch_up()
                async with own_database.connect("postgres") as admin:
                    await fan_out(admin, UUID(made.json()["id"]))
                    # The command's projector would fan it out again: it begins where the log ends.
                    await admin.execute(
                        "insert into annex.readers (name, pos)"
                        " select 'projector', max(pos) from annex.log"
                    )
                await notification_mails.queue(live.settings, pools)
            environ = environment(settings_for(own_database, **given))
            with worker(tmp_path / "log", environ) as child:

                def take() -> str:
                    child.kill()
                    child.wait()
                    return "250 OK"

                box.data, box.drop = take, True
                await until(lambda: len(box.received) == 1, 60)
            box.data, box.drop = (lambda: "250 OK"), False

            async def send() -> None:
                await mails.send_due(live.settings, Letters.read(), pools)
                templates = notification_mails.Templates.read()
                await notification_mails.send_due(live.settings, templates, pools)

            async with own_database.connect("postgres") as admin:
                outbox = "select sent_at is not null as is_sent, attempts from annex.mails"
                assert [tuple(m) for m in await admin.fetch(outbox)] == [(False, 1)]
                # As long as the dead one's lease lasts nobody sends.
                await send()
                assert len(box.received) == 1
                await admin.execute("update annex.mails set leased_until = now()")
                await send()
                await send()
                assert [tuple(m) for m in await admin.fetch(outbox)] == [(True, 2)]
            await callers.close()
    first, second = box.received
    assert first.recipients == second.recipients
    assert first.message["Message-ID"] == second.message["Message-ID"]


async def test_a_worker_that_rests_ends_at_once(own_database: TestDatabase, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with worker(log, environment(settings_for(own_database))) as child:
        await until(lambda: "Annex works" in log.read_text(), 30)
        async with asyncio.timeout(30), own_database.connect("postgres") as admin:
            while not await admin.fetchval(RESTING):
                await asyncio.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        await until(lambda: child.poll() is not None, 5)
        assert child.returncode == 0, log.read_text()
