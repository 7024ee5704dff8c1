"""`annex worker --port`: a process of its own that tells its health and its numbers."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from app.worker.housekeeping import tasks_of
from tests.app.test_metrics import scrape
from tests.conftest import NO_TLS, SECRETS, TestDatabase, execute, settings_for
from tests.faults.processes import PATCHED, environment, program_running
from tests.realtime.reader import until

PROJECTOR = 'annex_task_restarts_total{task="reader projector"}'
WAKEUP = 'annex_task_restarts_total{task="wakeup of readers"}'
QUICK = {
    "app.supervision.DOWN_SECONDS": 0.5,
    "app.supervision.SETTLED_SECONDS": 3.0,
    "app.supervision.BACKOFF": (0.1, 0.2),
}
"""A task is down soon. A slow machine needs less than SETTLED_SECONDS for a try that fails."""


def command(
    log: Path, settings: Settings, *arguments: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Run `annex worker`; its output goes to a file."""
    program = (sys.executable, "-c", PATCHED, repr(QUICK), "worker", *arguments)
    return program_running(log, environment(settings), *program)


@contextlib.asynccontextmanager
async def serving(database: TestDatabase, log: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Serve on a free port; the process has to end well when it is told to."""
    settings, read = settings_for(database, stop_seconds=60), log.read_text
    with command(log, settings, "--port", "0") as child:
        await until(lambda: "Annex works" in read() or child.poll() is not None, 60)
        url = read().partition("at http://")[2].split(";")[0]
        headers = {"Authorization": f"Bearer {SECRETS.operator_key}"}
        async with httpx.AsyncClient(
            base_url=f"http://{url}", headers=headers, verify=NO_TLS, timeout=30
        ) as client:
            yield client
        child.send_signal(signal.SIGTERM)
        # Much sooner than a server with the same settings would.
        await until(lambda: child.poll() is not None, 30)
        assert child.returncode == 0, read()


async def says(client: httpx.AsyncClient, status: int, text: str) -> None:
    """Ask for the worker's readiness until the answer has this status and this text."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.get("/health/ready")
            if answer.status_code == status and text in answer.text:
                return
            await asyncio.sleep(0.05)


async def restarted(client: httpx.AsyncClient, task: str, count: float) -> None:
    """Wait until a task was begun again so many times."""
    async with asyncio.timeout(60):
        while (await scrape(client)).get(task, 0) < count:
            await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_a_worker_tells_which_task_is_down_and_when_it_is_back(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    right = "execute on function annex.sequence(integer)"
    async with serving(own_database, tmp_path / "log") as client:
        assert (await client.get("/health")).json()["status"] == "ok"
        await says(client, 200, "ok")
        assert PROJECTOR in await scrape(client)
        await execute(own_database.url("postgres"), f"revoke {right} from annex_worker")
        await says(client, 503, "A background task does not run: reader projector.")
        await restarted(client, PROJECTOR, 2)
        # For a platform, the process itself needs no restart.
        assert (await client.get("/health")).status_code == 200
        await execute(own_database.url("postgres"), f"grant {right} to annex_worker")
        await says(client, 200, "ok")


@pytest.mark.timeout(180)
async def test_a_worker_whose_connections_were_ended_goes_on_and_counts_it(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    end = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and usename in ('annex_api', 'annex_worker')
    """
    async with serving(own_database, tmp_path / "log") as client:
        await says(client, 200, "ok")
        async with own_database.connect("postgres") as admin:
            async with asyncio.timeout(60):
                # Until the one that listens is among them.
                while (await scrape(client))[WAKEUP] == 0:
                    await admin.execute(end)
                    await asyncio.sleep(0.2)
        await says(client, 200, "ok")


@pytest.mark.timeout(180)
async def test_a_worker_counts_nothing_of_streams_and_its_numbers_need_an_operator(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    async with serving(own_database, tmp_path / "log") as client:
        told = set(await scrape(client))
        missing = await client.get("/metrics", headers={"Authorization": ""})
        assert (missing.status_code, missing.json()["code"]) == (401, "missing_credentials")
        assert (await client.get(missing.json()["type"])).status_code == 200
        assert (await client.get("/api/v1/me")).status_code == 404
    # A worker has no tail: a lag that only grows would be an alarm.
    assert [name for name in told if name.startswith(("annex_stream", "annex_tail"))] == []
    assert told >= {"annex_fanout_lag_seconds", "process_cpu_seconds_total"}


async def test_a_worker_on_a_port_in_use_says_so(database: TestDatabase, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with command(log, settings_for(database), "--port", str(port)) as child:
            await until(lambda: child.poll() is not None, 60)
            assert child.returncode == 1
    assert log.read_text() == (
        f"annex: Port {port} on 127.0.0.1 cannot be used (address already in use); stop what runs "
        "there or choose another with --port (`make run PORT=8010`).\n"
    )


async def test_templates_that_cannot_be_used_stop_a_worker_with_a_port(
    database: TestDatabase, tmp_path: Path
) -> None:
    (tmp_path / "invitation.en.txt").write_text("Subject: $nonsense\n\nA mail.")
    given = {"smtp_url": "smtp://127.0.0.1:1", "mail_from": "a@example.org"}
    given |= {"app_url": "https://app.example.org", "mail_templates": str(tmp_path)}
    with command(tmp_path / "log", settings_for(database, **given), "--port", "0") as child:
        await until(lambda: child.poll() is not None, 60)
        assert child.returncode == 1
    assert (tmp_path / "log").read_text().startswith("annex: ")


async def test_each_task_of_a_server_that_runs_the_worker_has_a_name_of_its_own(
    database: TestDatabase,
) -> None:
    settings = settings_for(database)
    app = create_app(settings, beside=tasks_of(settings))
    async with app.lifespan():
        names = [task.name for task in app.runtime.tasks]
    assert "reader projector" in names
    assert sorted(names) == sorted(set(names))
