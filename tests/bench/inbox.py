"""`make bench-inbox`: how long an event takes to its users' streams, and a fan-out to all.

Events are published when they are due, whatever became of those before, and a wait begins then. So
a server that slows its publishers down cannot hide it.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import msgspec
import psutil  # type: ignore[import-untyped]
import rich_click as click
import uvloop

from app.auth.keys import Key
from app.dev.demo import Secrets, demo_settings, mint_token, new_signing_key
from app.dev.postgres import EmbeddedPostgres
from app.settings import Settings
from tests.bench.processes import cpu_seconds, postmaster_of
from tests.bench.rows import fill, slug, user_id

ROOT = Path(__file__).parent.parent.parent
DATABASE = "bench"
READERS = 100
RECIPIENTS = 10
WRITERS = 16
"""Connections that publish."""
P99_MS, LARGE_SECONDS, OTHERS_MS = 150.0, 30.0, 1000.0
"""What is aimed at: publishing to notification; 100,000 subscribers; the others meanwhile."""
STREAM = (
    "GET /api/v1/stream/notifications HTTP/1.1\r\nHost: {host}\r\n"
    "Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
)
PUBLISH = "select annex.publish($1, 'bench.made', recipients => $2, data => $3::text::jsonb)"
MEMBERS = """
with made as (
  insert into auth.users (id) select gen_random_uuid() from generate_series(1, $2) returning id
), known as (
  insert into annex.profiles (user_id) select id from made returning user_id
)
insert into annex.members (workspace_id, user_id, role)
select $1, id, 'viewer' from made, (select count(*) from known) k
"""
FOLLOW = """
insert into annex.subscriptions (workspace_id, topic, user_id, reason)
select $1, 'everybody', user_id, 'added' from annex.members where workspace_id = $1
"""
SEGMENTS = 50
"""Files of the log that a server in use has, to write over; to make one stops all for 70 ms."""
NEXT_SEGMENT = "select pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()"
SESSIONS = """
select 'postgres: ' || coalesce(nullif(application_name, ''), backend_type) as name,
  array_agg(pid) as pids
from pg_stat_activity group by 1 order by 1
"""


async def leave(_: object) -> None:
    """Do nothing to a connection that is given back."""


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class Stream(asyncio.Protocol):
    """Reads a stream, at a tenth of the CPU that a client library takes: it shares the cores.

    Each message is a part of one chunk (RFC 9112, section 7.1), whose length is not looked at.
    """

    def __init__(self, request: str, arrivals: list[tuple[bytes, float]]) -> None:
        self.request = request.encode()
        self.arrivals = arrivals
        self.rest = b""
        self.transport: Any = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        *messages, self.rest = (self.rest + data).split(b"\n\n")
        for message in messages:
            if b"\nevent: " not in message:
                self.arrivals.append((message.rpartition(b"\ndata: ")[2], now))
            elif not self.opened.done():
                self.opened.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(self.rest.decode()))


class Bench:
    """A server and a worker in processes of their own, writers, and streams of users."""

    def __init__(
        self, admin: Any, writers: Any, settings: Settings, url: str, workspace: UUID
    ) -> None:
        self.admin, self.writers = admin, writers
        self.settings, self.url, self.workspace = settings, url, workspace
        self.users = [user_id(n) for n in range(READERS)]
        self.due: dict[str, float] = {}
        """When each event should have been published."""
        self.arrivals: list[tuple[bytes, float]] = []
        """What came, and when; read after all has come."""
        self.expected = 0
        self.rate = 0.0

    async def open(self, user: UUID) -> Stream:
        """Open a user's stream, which notes when each notification comes."""
        server, token = urlsplit(self.url), mint_token(self.settings, str(user))
        request = STREAM.format(host=server.netloc, token=token)
        _, stream = await asyncio.get_running_loop().create_connection(
            lambda: Stream(request, self.arrivals), server.hostname or "", server.port or 0
        )
        await stream.opened
        return stream

    async def publish(self, rate: float, seconds: float) -> None:
        """Publish at a rate, each event to ten users, in a transaction of its own."""
        drawn, began = random.Random(1), time.perf_counter()
        writing = set[asyncio.Task[None]]()
        for n in range(int(rate * seconds)):
            due = began + n / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writing.add(asyncio.create_task(self.write(due, drawn.sample(self.users, RECIPIENTS))))
        await asyncio.gather(*writing)
        self.rate = len(writing) / (time.perf_counter() - began)

    async def write(self, due: float, users: list[UUID]) -> None:
        """Publish an event."""
        event = await self.writers.fetchval(PUBLISH, self.workspace, users, "{}")
        self.due[str(event)] = due
        self.expected += RECIPIENTS

    async def arrived(self, seconds: float = 60) -> list[float]:
        """Wait until all that was published has come; returns how many milliseconds each took."""
        async with asyncio.timeout(seconds):
            while len(self.arrivals) < self.expected:
                await asyncio.sleep(0.05)
        waits = []
        for data, at in self.arrivals:
            event = json.loads(data)["data"]["notification"]["event_id"]
            if event in self.due:  # the large one is none of these
                waits.append(1000 * (at - self.due[event]))
        self.arrivals.clear()
        self.due.clear()
        self.expected = 0
        return waits


@contextlib.contextmanager
def process(settings: Settings, log: Path, *command: str) -> Iterator[psutil.Process]:
    """Run a command of ours until the end."""
    given = {k: v for k, v in msgspec.structs.asdict(settings).items() if v not in (None, [])}
    said = {
        f"ANNEX_{k.upper()}": ",".join(v) if isinstance(v, list) else str(v)
        for k, v in given.items()
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", "from app.cli import main; main()", *command],
            cwd=ROOT,
            env=kept | said,
            stdout=output,
            stderr=output,
        )
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait()


@contextlib.asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[tuple[Bench, dict[str, psutil.Process]]]:
    """Start everything, with a stream for each reader."""
    settings_of_server = {"max_connections": "60", "min_wal_size": "1GB"}
    with EmbeddedPostgres(folder, settings=settings_of_server) as postgres:
        await fill(postgres, DATABASE, events=1, users=READERS, workspaces=1)
        drawn = Secrets("s" * 40, "j" * 40, "", str(Key.make("op")), new_signing_key())
        settings = demo_settings(
            drawn,
            api_url=postgres.url("annex_api", DATABASE),
            worker_url=postgres.url("annex_worker", DATABASE),
            log_level="warning",
            max_streams_per_address=10_000,
            max_connections_per_address=10_000,
        )
        log = folder / "serve.log"
        admin = await asyncpg.connect(postgres.url("postgres", DATABASE))
        for _ in range(SEGMENTS):
            await admin.execute(NEXT_SEGMENT)
        await admin.execute("checkpoint")
        writers = await asyncpg.create_pool(
            postgres.url("postgres", DATABASE),
            min_size=WRITERS,
            max_size=WRITERS,
            server_settings={"application_name": "publishers"},
            # Kept as they are: asyncpg's own way is four statements more for each event.
            reset=leave,
        )
        workspace = await admin.fetchval("select id from annex.workspaces where slug = $1", slug(0))
        with (
            process(settings, log, "serve", "--port", "0") as serve,
            process(settings, folder / "worker.log", "worker") as worker,
        ):
            async with asyncio.timeout(60):
                while "Annex serves" not in log.read_text():
                    await asyncio.sleep(0.1)
            url = log.read_text().partition("Annex serves ")[2].split()[0]
            made = Bench(admin, writers, settings, url, workspace)
            streams = [await made.open(user) for user in made.users]
            postmaster = postmaster_of(folder)
            yield made, {
                "serve": serve,
                "worker": worker,
                "postgres": postmaster,
                "bench": psutil.Process(),
            }
            for stream in streams:
                stream.transport.abort()
        await writers.close()
        await admin.close()


async def used(made: Bench, processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Say what each has used, with its children; of Postgres, what each kind of session has."""
    spent = {
        name: cpu_seconds([p] if name == "bench" else [p, *p.children(recursive=True)])
        for name, p in processes.items()
    }
    for row in await made.admin.fetch(SESSIONS):
        for pid in row["pids"]:
            with contextlib.suppress(psutil.NoSuchProcess):
                spent[row["name"]] = spent.get(row["name"], 0) + cpu_seconds([psutil.Process(pid)])
    return spent


def tell(name: str, waits: list[float], before: dict[str, float], after: dict[str, float]) -> None:
    """Print what was measured, and where the time went."""
    click.echo(
        f"{name}: {len(waits)} notifications, median {statistics.median(waits):.1f} ms,"
        f" p99 {percentile(waits, 0.99):.1f} ms, highest {max(waits):.1f} ms"
    )
    spent = ", ".join(
        f"{k} {used:.2f} s" for k in after if (used := after[k] - before.get(k, 0.0)) >= 0.01
    )
    each = 1e6 * (after["postgres"] - before["postgres"]) / len(waits)
    click.echo(f"  CPU: {spent}; of Postgres {each:.0f} us a notification")


async def measure(folder: Path, rate: float, seconds: float, members: int) -> list[str]:
    """Run all parts; returns which aims were missed."""
    missed = []
    async with bench(folder) as (made, processes):
        # So that no table doubles while it is measured, at which all sessions plan anew.
        await made.publish(rate, 1.5 * seconds)
        await made.arrived()
        await made.admin.execute("analyze")
        for wanted in (10.0, rate):
            before = await used(made, processes)
            await made.publish(wanted, seconds)
            waits = await made.arrived()
            name = f"{made.rate:.0f} events/s x {RECIPIENTS} recipients"
            tell(name, waits, before, await used(made, processes))
            if percentile(waits, 0.99) > P99_MS or made.rate < 0.98 * wanted:
                missed.append(f"{wanted:.0f} events/s with a p99 of {P99_MS:.0f} ms")
        if members:
            missed += await measure_large(made, processes, members)
    return missed


async def measure_large(
    made: Bench, processes: dict[str, psutil.Process], members: int
) -> list[str]:
    """Publish one event to all, and others beside it; returns which aims were missed."""
    await made.admin.execute("alter table annex.members disable trigger members_record")
    await made.admin.execute(MEMBERS, made.workspace, members)
    await made.admin.execute(FOLLOW, made.workspace)
    await made.admin.execute("analyze")
    before, began = await used(made, processes), time.perf_counter()
    large = await made.admin.fetchval(
        "select annex.publish($1, 'bench.large', topics => array['everybody'])", made.workspace
    )
    made.expected += READERS
    # Queued a moment after it was published, and gone when all have been looked at.
    done = (
        "select exists (select from annex.notifications where event_id = $1)"
        " and not exists (select from annex.fanouts where event_id = $1)"
    )
    while not await made.admin.fetchval(done, large):
        await made.publish(10, 0.5)
    took, size = time.perf_counter() - began, members + READERS
    told = await made.admin.fetchval(
        "select count(*) from annex.notifications where event_id = $1", large
    )
    assert told == size
    after, waits = await used(made, processes), await made.arrived()
    each = 1e6 * (after["postgres"] - before["postgres"]) / (size + len(waits))
    click.echo(f"one event to {size:,} subscribers: {took:.1f} s, Postgres {each:.0f} us for each")
    tell("  others meanwhile, 10 events/s", waits, before, after)
    missed = []
    if took > LARGE_SECONDS * size / 100_000:
        missed.append(f"{size:,} subscribers in {LARGE_SECONDS * size / 100_000:.0f} s")
    if max(waits) > OTHERS_MS:
        missed.append(f"others within {OTHERS_MS:.0f} ms")
    return missed


@click.command()
@click.option("--rate", default=200.0, help="Events a second.")
@click.option("--seconds", default=20.0, help="How long.")
@click.option("--members", default=100_000, help="Subscribers of the large event; 0 for none.")
def main(rate: float, seconds: float, members: int) -> None:
    """Measure the inbox: publishing to notification, and a large fan-out beside it.

    Ends with 1 if an aim was missed.
    """
    (ROOT / ".data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".data", prefix="bench-inbox-") as folder:
        Path(folder).chmod(0o755)
        missed = uvloop.run(measure(Path(folder), rate, seconds, members))
    if missed:
        raise click.ClickException(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
