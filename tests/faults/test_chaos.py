"""Everything at once: API and worker killed, Postgres crashed, a pooler in between, mixed load.

In CI a few faults in a drawn order; `make chaos` goes on with other ones for as long as it is told.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.doctor import visit
from app.settings import Settings
from tests import conftest
from tests.app.test_transaction_pooler import PGBOUNCER
from tests.conftest import ROOT, Running, Tenant, TestDatabase, settings_for
from tests.faults.conftest import Crashable
from tests.faults.load import load_and_readers
from tests.faults.mixed import Mixed
from tests.faults.processes import Process, environment
from tests.faults.seed import SCALE, SEED
from tests.faults.test_processes import BY, Post
from tests.ports import free_port
from tests.realtime.reader import calling, elsewhere, until
from tests.worker.mailbox import Mailbox, mailbox, settings_of

FAULTS = 6 * SCALE
EVENTS, POSTS = 40, 4
"""How much must be done between two faults: by SQL and over HTTP."""
POSTERS = 4
RECOVERY_SECONDS = 60.0
WAITING = """
select h.pending_since is not null, h.mail_due_since is not null,
  exists (select from annex.mails m where m.sent_at is null and m.failed_at is null),
  exists (select from annex.fanouts f),
  exists (select from annex.readers r where r.pos < h.head)
from annex.health() h
"""
"""Whether something still waits for the sequencer, or for the worker: mails, fan-outs, readers."""
CONFIG = """
[databases]
* = host=127.0.0.1 port={postgres}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 20
server_login_retry = 1
max_client_conn = 300
logfile = {folder}/log
"""


class Pooler:
    """A PgBouncer that can be killed and started again at its port."""

    def __init__(self, folder: Path, postgres: int) -> None:
        self.folder, self.port = folder, free_port()
        config = CONFIG.format(postgres=postgres, port=self.port, folder=folder)
        (folder / "pgbouncer.ini").write_text(config)
        (folder / "users.txt").write_text('"annex_api" ""\n"annex_worker" ""\n')
        folder.chmod(0o777)
        self.start()

    def start(self) -> None:
        assert PGBOUNCER is not None
        # It refuses to run as root, whoever runs the tests.
        user = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
        self.child = subprocess.Popen(
            [PGBOUNCER, "-q", str(self.folder / "pgbouncer.ini")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **user,  # type: ignore[call-overload]
        )

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def url(self, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/postgres"


@contextlib.contextmanager
def pooler(postgres: Crashable) -> Iterator[Pooler]:
    """Run a transaction pooler before the server."""
    if PGBOUNCER is None:
        pytest.skip("no pgbouncer: install the package pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="annex-", dir="/tmp"))
    made = Pooler(folder, postgres.port)
    try:
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Deployment:
    """Two API processes and a worker behind the pooler; each comes back to its address."""

    def __init__(
        self, database: TestDatabase, pooled: Pooler, folder: Path, mails: Mailbox
    ) -> None:
        self.database, self.folder, self.mails = database, folder, mails
        self.options: dict[str, Any] = {
            **settings_of(mails, max_mails_per_workspace=100_000),
            "database_url": pooled.url("annex_api"),
            "worker_database_url": pooled.url("annex_worker"),
            "transaction_pooler": True,
        }
        self.settings: Settings = settings_for(database, log_level="warning", **self.options)
        self.ports = [free_port(), free_port()]
        self.servers = [self.serve(port) for port in self.ports]
        self.worker = self.work()

    def serve(self, port: int) -> Process:
        return Process(self.database, self.folder, port=port, **self.options)

    def work(self) -> "subprocess.Popen[bytes]":
        """Start `annex worker`."""
        with (self.folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker"],
                cwd=ROOT,
                env={k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
                | environment(self.settings),
                stdout=log,
                stderr=log,
            )

    async def kill_server(self, which: int) -> None:
        self.servers[which].kill()
        self.servers[which] = self.serve(self.ports[which])

    async def kill_worker(self) -> None:
        self.worker.kill()
        self.worker.wait()
        self.worker = self.work()

    def revive(self) -> None:
        """Start again what could not start, as a supervisor does: a start needs the database."""
        for which, server in enumerate(self.servers):
            if server.child.poll() is not None:
                self.servers[which] = self.serve(self.ports[which])
        if self.worker.poll() is not None:
            self.worker = self.work()

    async def keep(self) -> None:
        """Revive for as long as the test goes on."""
        while True:
            await asyncio.sleep(0.5)
            self.revive()

    def check_logs(self) -> None:
        """Expect no traceback of any process, those that were killed or replaced included."""
        for log in [*self.folder.glob("serve-*.log"), self.folder / "worker.log"]:
            said = log.read_text(errors="replace")
            assert "Traceback" not in said, said

    def end(self) -> None:
        for server in self.servers:
            server.kill()
        self.worker.kill()
        self.worker.wait()


@contextlib.asynccontextmanager
async def deployed(
    crashable: Crashable, folder: Path
) -> AsyncIterator[tuple[Deployment, Pooler, list[Running]]]:
    """Deploy, and keep alive what ends."""
    database = TestDatabase(crashable, "postgres")
    async with mailbox() as mails:
        with pooler(crashable) as pooled:
            made = Deployment(database, pooled, folder, mails)
            keeping: asyncio.Task[None] | None = None
            try:
                places = [await server.started(90) for server in made.servers]
                keeping = asyncio.create_task(made.keep())
                yield made, pooled, places
                made.check_logs()
            finally:
                if keeping is not None:  # or it would bring back what is ended now
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
                made.end()


@pytest.mark.timeout(600)
async def test_what_was_acknowledged_stays_and_nothing_is_stuck(
    crashable: Crashable, tmp_path: Path
) -> None:
    drawn = random.Random(SEED)
    acknowledged: list[str] = []
    is_over = asyncio.Event()

    async def post(clients: list[httpx.AsyncClient], tenant: Tenant, name: int) -> None:
        for n in range(1_000_000):
            if is_over.is_set():
                return
            made = Post(f"{name}-{n}", drawn.choice(BY))
            await made.insist(clients, tenant)
            acknowledged.append(made.n)
            await asyncio.sleep(0.02)

    async with deployed(crashable, tmp_path) as (deployment, pooled, places):

        async def crash(number: signal.Signals) -> None:
            crashable.crash(number)
            await asyncio.sleep(drawn.random())
            crashable.start()

        async def cut_pooler() -> None:
            pooled.kill()
            await asyncio.sleep(drawn.random())
            pooled.start()

        faults: list[Callable[[], Awaitable[None]]] = [
            lambda: deployment.kill_server(0),
            lambda: deployment.kill_server(1),
            deployment.kill_worker,
            lambda: crash(signal.SIGQUIT),
            lambda: crash(signal.SIGKILL),
            cut_pooler,
        ]
        async with (
            load_and_readers(deployment.database, places, pause_seconds=0.2) as (load, _),
            contextlib.AsyncExitStack() as stack,
        ):
            callers = [await stack.enter_async_context(calling(place)) for place in places]
            tenant = await conftest.new_tenant(callers[0])
            clients: list[httpx.AsyncClient] = [elsewhere(tenant, c).owner.client for c in callers]
            mixed = await Mixed.of(tenant, callers)
            mixing = asyncio.create_task(mixed.work(SEED))
            posting = [
                asyncio.create_task(post([*clients[n % 2 :], *clients], tenant, n))
                for n in range(POSTERS)
            ]
            # Each fault once before any comes again, in a drawn order.
            for fault in [f for _ in range(FAULTS // 6) for f in drawn.sample(faults, 6)]:
                wanted = len(acknowledged) + POSTS
                assert not mixing.done(), mixing
                await load.more(EVENTS, RECOVERY_SECONDS)
                await until(lambda: len(acknowledged) >= wanted, RECOVERY_SECONDS)  # noqa: B023
                await asyncio.sleep(drawn.random() * 0.2)
                await fault()
            await load.more(EVENTS, RECOVERY_SECONDS)
            is_over.set()
            mixed.is_over = True
            await asyncio.gather(*posting, mixing)

        await nothing_waits(deployment)
        async with deployment.database.connect("postgres") as admin:
            found = await admin.fetch(
                "select e.data ->> 'n' from annex.log l join annex.events e using (event_id)"
                " where e.source = 'post'"
            )
        await mixed.check(deployment.database, deployment.mails)
    assert Counter(row[0] for row in found) == Counter(acknowledged)


async def nothing_waits(deployment: Deployment) -> None:
    """After a while every process is ready, and the doctor finds no work that waits."""

    async def is_well() -> bool:
        async with httpx.AsyncClient(timeout=5) as client:
            for port in deployment.ports:
                try:
                    answer = await client.get(f"http://127.0.0.1:{port}/health/ready")
                except httpx.TransportError:
                    return False
                if answer.is_error:
                    return False
        async with deployment.database.connect("postgres") as connection:
            row = await connection.fetchrow(WAITING)
        return row is not None and not any(row)

    async with asyncio.timeout(RECOVERY_SECONDS):
        while not await is_well():
            await asyncio.sleep(0.2)
    results = await visit.visit(deployment.settings)
    wrong = [r for r in results if r.finding is not None and r.finding.level == "error"]
    assert {r.check for r in wrong} <= {"key set"}, wrong  # there is no Supabase here
