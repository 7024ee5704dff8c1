"""`make bench-inbox`: how long an event takes to its users' streams, and a fan-out to all."""

import asyncio
import contextlib
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
from uuid import UUID

import asyncpg
import httpx
import msgspec
import psutil  # type: ignore[import-untyped]
import rich_click as click
from httpx_sse import aconnect_sse

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
STREAM = "/api/v1/stream/notifications"
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


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class Bench:
    """A server and a worker in processes of their own, and streams of users."""

    def __init__(self, admin: Any, settings: Settings, url: str, workspace: UUID) -> None:
        self.admin, self.settings, self.url, self.workspace = admin, settings, url, workspace
        self.users = [user_id(n) for n in range(READERS)]
        self.sent: dict[str, float] = {}
        self.waits: list[float] = []
        self.large: str | None = None
        """The event that goes to all; its way is none of the waits."""
        self.expected = 0

    async def read(self, user: UUID, ready: asyncio.Event) -> None:
        """Note when each notification comes."""
        token = mint_token(self.settings, str(user))
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60) as client,
            aconnect_sse(client, "GET", STREAM) as source,
        ):
            async for message in source.aiter_sse():
                ready.set()
                if message.event == "message":
                    item = message.json()["data"]["notification"]
                    if item["event_id"] == self.large:
                        continue
                    self.waits.append(1000 * (time.perf_counter() - self.sent[item["event_id"]]))

    async def publish(self, rate: float, seconds: float) -> None:
        """Publish at a rate, each event to ten users, in a transaction of its own."""
        drawn, began, n = random.Random(1), time.perf_counter(), 0
        while (now := time.perf_counter()) - began < seconds:
            if began + n / rate > now:
                await asyncio.sleep(began + n / rate - now)
            users = drawn.sample(self.users, RECIPIENTS)
            at = time.perf_counter()
            event = await self.admin.fetchval(PUBLISH, self.workspace, users, "{}")
            self.sent[str(event)] = at
            self.expected += RECIPIENTS
            n += 1

    async def arrived(self, seconds: float = 60) -> None:
        """Wait until all that was sent has come."""
        async with asyncio.timeout(seconds):
            while len(self.waits) < self.expected:
                await asyncio.sleep(0.05)


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
    with EmbeddedPostgres(folder, settings={"max_connections": "60"}) as postgres:
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
        workspace = await admin.fetchval("select id from annex.workspaces where slug = $1", slug(0))
        with (
            process(settings, log, "serve", "--port", "0") as serve,
            process(settings, folder / "worker.log", "worker") as worker,
        ):
            async with asyncio.timeout(60):
                while "Annex serves" not in log.read_text():
                    await asyncio.sleep(0.1)
            url = log.read_text().partition("Annex serves ")[2].split()[0]
            made = Bench(admin, settings, url, workspace)
            ready = [asyncio.Event() for _ in made.users]
            readers = [
                asyncio.create_task(made.read(*pair))
                for pair in zip(made.users, ready, strict=True)
            ]
            await asyncio.gather(*(r.wait() for r in ready))
            postmaster = postmaster_of(folder)
            yield made, {"serve": serve, "worker": worker, "postgres": postmaster}
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        await admin.close()


def used(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Say what each has used, with its children."""
    return {name: cpu_seconds([p, *p.children(recursive=True)]) for name, p in processes.items()}


def tell(name: str, made: Bench, before: dict[str, float], after: dict[str, float]) -> None:
    """Print what was measured, and where the time went."""
    waits = made.waits
    if waits:
        click.echo(
            f"{name}: {len(waits)} notifications, median {statistics.median(waits):.1f} ms,"
            f" p99 {percentile(waits, 0.99):.1f} ms, highest {max(waits):.1f} ms"
        )
    spent = ", ".join(f"{k} {after[k] - before[k]:.2f} s" for k in after)
    click.echo(f"  CPU: {spent}")


async def measure(folder: Path, rate: float, seconds: float, members: int) -> None:
    """Run both parts."""
    async with bench(folder) as (made, processes):
        await made.publish(rate, 2)  # what is planned and cached once
        await made.arrived()
        made.waits.clear()
        made.expected = 0
        before = used(processes)
        await made.publish(rate, seconds)
        await made.arrived()
        tell(f"{rate:.0f} events/s x {RECIPIENTS} recipients", made, before, used(processes))

        await made.admin.execute("alter table annex.members disable trigger members_record")
        await made.admin.execute(MEMBERS, made.workspace, members)
        await made.admin.execute(FOLLOW, made.workspace)
        await made.admin.execute("analyze")
        made.waits.clear()
        made.expected = 0
        before, began = used(processes), time.perf_counter()
        large = await made.admin.fetchval(
            "select annex.publish($1, 'bench.large', topics => array['everybody'])", made.workspace
        )
        made.large = str(large)
        # Queued a moment after it was published, and gone when all have been looked at.
        done = (
            "select exists (select from annex.notifications where event_id = $1)"
            " and not exists (select from annex.fanouts where event_id = $1)"
        )
        while not await made.admin.fetchval(done, large):
            await made.publish(10, 0.25)
        took = time.perf_counter() - began
        told = await made.admin.fetchval(
            "select count(*) from annex.notifications where event_id = $1", large
        )
        assert told == members + READERS
        await made.arrived()
        click.echo(f"one event to {members + READERS:,} subscribers: {took:.1f} s")
        tell("  others meanwhile, 10 events/s", made, before, used(processes))


@click.command()
@click.option("--rate", default=200.0, help="Events a second.")
@click.option("--seconds", default=20.0, help="How long.")
@click.option("--members", default=100_000, help="Subscribers of the large event.")
def main(rate: float, seconds: float, members: int) -> None:
    """Measure the inbox: publishing to notification, and a large fan-out beside it."""
    (ROOT / ".data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".data", prefix="bench-inbox-") as folder:
        Path(folder).chmod(0o755)
        asyncio.run(measure(Path(folder), rate, seconds, members))


if __name__ == "__main__":
    main()
