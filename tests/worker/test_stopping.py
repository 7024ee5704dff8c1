"""`annex worker` as a process of its own: told to stop, it finishes what it has begun."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.conftest import ROOT, Callers, TestDatabase, new_tenant, running, settings_for
from tests.controllers.test_invitations import issue
from tests.faults.processes import environment
from tests.realtime.reader import until
from tests.worker.mailbox import mailbox, settings_of

RESTING = """
select bool_and(state = 'idle') and count(*) > 0 from pg_stat_activity
where datname = current_database() and usename = 'annex_worker'
"""


@contextmanager
def worker(log: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command; its output goes to a file."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
    with log.open("wb") as output:
        child = subprocess.Popen(
            [str(Path(sys.executable).parent / "annex"), "worker"],
            cwd=ROOT,
            env=clean | environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


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


async def test_a_worker_that_rests_ends_at_once(own_database: TestDatabase, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with worker(log, environment(settings_for(own_database))) as child:
        await until(lambda: "keeps house" in log.read_text(), 30)
        async with asyncio.timeout(30), own_database.connect("postgres") as admin:
            while not await admin.fetchval(RESTING):
                await asyncio.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        await until(lambda: child.poll() is not None, 5)
        assert child.returncode == 0, log.read_text()
