"""`make bench-writers`: what publishing costs the writer, against a plain insert into events."""

import asyncio
import contextlib
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import psutil  # type: ignore[import-untyped]
import rich_click as click
import uvloop

from app.database.pools import Pool
from app.dev.postgres import EmbeddedPostgres
from app.realtime.cursors import Cursors
from app.realtime.feeds import Feed
from app.realtime.hub import Hub
from app.realtime.tail import BATCH, Tail
from app.server import settle
from tests.bench.processes import cpu_seconds, pgbench
from tests.bench.rows import fill, slug, user_id

ROOT = Path(__file__).parent.parent.parent
DATABASE = "bench"
TAILS = 2
# The same values both ways; the workspace is pgbench's variable.
VALUES = {
    "type": "'invoice.paid'",
    "data": '\'{"amount": 1999, "currency": "EUR", "lines": [{"sku": "A-1", "count": 2}]}\'',
    "topics": "'{project:42}'",
    "subject": "'invoice:7'",
    "source": "'billing'",
}
PLAIN = (
    f"insert into annex.events (workspace_id, actor, {', '.join(VALUES)})"
    f" values (:workspace, 'user:7', {', '.join(VALUES.values())})"
)
GIVEN = ", ".join(f"{name} => {value}" for name, value in VALUES.items())
PUBLISH = f"select annex.publish(:workspace, {GIVEN})"
BASELINE = "plain insert"
BACKEND = "annex.publish, own backend"
"""A session of one's own without claims."""
USER = "annex.publish, signed-in user"
WAYS = {BASELINE: PLAIN, BACKEND: PUBLISH, USER: PUBLISH}
# fsync is what a production server waits for; without it the processors alone decide.
SERVERS: Mapping[str, Mapping[str, str]] = {"durable": {}, "fsync=off": {"fsync": "off"}}
# One more thing with each: where the time of annex.publish goes.
STEPS = {
    "a round trip alone": "select 1",
    "an id": "select annex.uuid7()",
    # pgbench would take what follows a colon for a variable, in quotes as well.
    "a permission": "select annex.has_permission(:workspace, 'events' || chr(58) || 'publish')",
    BASELINE: PLAIN,
    "with the row in pending": f"with made as ({PLAIN} returning event_id)"
    " insert into annex.pending (event_id, workspace_id)"
    " select event_id, :workspace::uuid from made",
    "the same in a definer function": f"select public.bench_add(:workspace, {GIVEN})",
    BACKEND: PUBLISH,
    USER: PUBLISH,
}
# What a backend of one's own would do: a login that may insert, under policies as everybody.
WRITER = """
do $$ begin create role bench_writer login; exception when duplicate_object then null; end $$;
grant usage on schema annex to bench_writer;
grant insert, select on annex.events to bench_writer;
grant insert on annex.pending to bench_writer;
grant execute on all functions in schema annex to bench_writer;
create policy bench_events on annex.events to bench_writer using (true) with check (true);
create policy bench_pending on annex.pending to bench_writer with check (true);
create function public.bench_add(
  workspace_id uuid, type text, data jsonb, topics text[], subject text, source text
) returns uuid language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare id uuid := annex.uuid7();
begin
  insert into annex.events (event_id, workspace_id, actor, type, data, topics, subject, source)
  values (id, bench_add.workspace_id, 'user:7', bench_add.type, bench_add.data, bench_add.topics,
    bench_add.subject, bench_add.source);
  insert into annex.pending (event_id, workspace_id) values (id, bench_add.workspace_id);
  return id;
end
$$;
alter function public.bench_add owner to annex_owner;
grant execute on function public.bench_add to bench_writer;
"""
RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
DONE = re.compile(r"^number of transactions actually processed: ([0-9]+)", re.MULTILINE)


class Turn(NamedTuple):
    """What one way did in one round."""

    rate: float
    """Transactions a second."""
    postgres_us: float
    """CPU time of all of Postgres, the tails' sessions included, a transaction."""
    wal_bytes: float
    """Write-ahead log, a transaction."""
    left: int
    """Events that no tail had taken at the end."""


class Bench:
    """A migrated server, and a login that writes in one of several ways."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path, admin: Any, ws: UUID) -> None:
        self.postgres = postgres
        self.admin = admin
        self.workspace = ws
        pid = (folder / "cluster" / "postmaster.pid").read_text().splitlines()[0]
        self.postmaster = psutil.Process(int(pid))
        # Without a space, at which PGOPTIONS would be split.
        claims = {"role": "authenticated", "sub": str(user_id(0)), "aal": "aal1"}
        packed = json.dumps(claims, separators=(",", ":"))
        self.claims = {"PGOPTIONS": f"-c request.jwt.claims={packed}"}

    async def turn(self, way: str, clients: int, seconds: int) -> Turn:
        """Let clients repeat a statement, each time in a transaction of its own.

        All but the own backend's are a signed-in user's, though only two steps look at that.
        """
        statement = {**STEPS, **WAYS}[way]
        # One by one: together they would wait for a tail that waits for them.
        for table in ("pending", "log", "events"):
            await self.admin.execute(f"truncate annex.{table}")
        await self.admin.execute("checkpoint")
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(statement + ";\n")
            script.flush()
            wal = await self.admin.fetchval("select pg_current_wal_insert_lsn()")
            before = await self.cpu_seconds()
            process = await asyncio.create_subprocess_exec(
                str(pgbench()),
                *("-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2))),
                *("-T", str(seconds), "-D", f"workspace={self.workspace}"),
                *("-f", script.name, self.postgres.url("bench_writer", DATABASE)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **({} if way == BACKEND else self.claims)},
            )
            output, errors = await process.communicate()
        found = output.decode()
        if process.returncode or not RATE.search(found):
            raise click.ClickException(errors.decode())
        used = await self.cpu_seconds() - before
        left, written = await self.admin.fetchrow(
            "select (select count(*) from annex.pending),"
            " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)",
            wal,
        )
        rate, done = float(RATE.findall(found)[0]), int(DONE.findall(found)[0])
        return Turn(rate, used / done * 1e6, float(written) / done, left)

    async def cpu_seconds(self) -> float:
        """Add up what the server's processes have used, those that ended included.

        Waits until the last sessions have ended: one that ends meanwhile would be missed.
        """
        writing = "select exists (select from pg_stat_activity where usename = 'bench_writer')"
        while await self.admin.fetchval(writing):
            await asyncio.sleep(0.05)
        while True:
            known = self.postmaster.children()
            living = cpu_seconds(known)
            ended = self.postmaster.cpu_times()
            await asyncio.sleep(0.05)
            if self.postmaster.children() == known:
                return float(ended.children_user + ended.children_system + living)


@contextlib.asynccontextmanager
async def prepared(name: str, settings: Mapping[str, str]) -> AsyncIterator[Bench]:
    """Start a server with these settings, and throw it away."""
    folder = ROOT / ".data" / f"bench-writers-{os.getpid()}-{name}"
    try:
        with EmbeddedPostgres(folder, settings={**settings, "max_wal_size": "4GB"}) as postgres:
            await fill(postgres, DATABASE, 1000, 32)
            admin = await asyncpg.connect(postgres.url("postgres", DATABASE))
            try:
                await admin.execute(WRITER)
                workspace = await admin.fetchval(
                    "select id from annex.workspaces where slug = $1", slug(0)
                )
                yield Bench(postgres, folder, admin, workspace)
            finally:
                await admin.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def tailing(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Run the app's own log tails in a process of their own."""
    url = postgres.url("annex_worker", DATABASE)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.writers", "--tails", url],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise click.ClickException("The tails did not start.")
            yield
        finally:
            process.terminate()


async def tail(url: str) -> None:
    """Follow the log until ended, as processes of the app do that nobody reads from."""
    # Each reads on one connection and is woken on another.
    pool = Pool("WORKER_DATABASE_URL", url, 2 * TAILS)
    tails = [Tail(pool, Hub(Cursors(bytes(32)))) for _ in range(TAILS)]
    async with asyncio.TaskGroup() as tasks:
        for each in tails:
            for task in each.tasks():
                tasks.create_task(task.keep())
        for each in tails:
            await each.catch_up(60)
        settle()
        print("ready", flush=True)  # noqa: T201


async def compare(bench: Bench, rounds: int, seconds: int, clients: int) -> dict[str, list[Turn]]:
    """Let the ways take turns, each round in the other order."""
    turns: dict[str, list[Turn]] = {way: [] for way in WAYS}
    for way in WAYS:
        await bench.turn(way, clients, 1)
    for n in range(rounds):
        for way in list(WAYS)[:: -1 if n % 2 else 1]:
            turns[way].append(await bench.turn(way, clients, seconds))
    return turns


async def climb(bench: Bench, rounds: int, seconds: int) -> dict[str, list[Turn]]:
    """Measure each step by one client, without tails."""
    turns: dict[str, list[Turn]] = {step: [] for step in STEPS}
    for _ in range(rounds):
        for step in STEPS:
            turns[step].append(await bench.turn(step, 1, seconds))
    return turns


async def read(bench: Bench, events: int = 100_000) -> list[str]:
    """Measure what a tail's reads cost, as rows of Markdown: by what they bring."""
    for table in ("pending", "log", "events"):
        await bench.admin.execute(f"truncate annex.{table}")
    start = await bench.admin.fetchval("select head from annex.log_state")
    statement = PUBLISH.replace(":workspace", "$1::uuid")
    await bench.admin.execute(f"{statement} from generate_series(1, $2)", bench.workspace, events)
    pool = Pool("WORKER_DATABASE_URL", bench.postgres.url("annex_worker", DATABASE), 1)
    lines = []
    async with pool.lend() as driver:
        backend, python = psutil.Process(driver.get_server_pid()), psutil.Process()

        async def follow(head: int, size: int, *, is_followed: bool) -> int:
            """Read to the end; returns the reads."""
            hub = Hub(Cursors(bytes(32)))
            hub.head = head
            follower = Tail(pool, hub, notifies=False)
            if is_followed:
                hub.channel(Feed("workspace", bench.workspace))
            reads = 0
            while await follower.read(driver, size):
                reads += 1
            return reads

        await follow(start, BATCH, is_followed=False)  # gives the positions
        await bench.admin.execute("vacuum annex.pending")
        for size, is_followed in itertools.product((5, 20, 200), (False, True)):
            before = [cpu_seconds([p]) for p in (backend, python)]
            reads = await follow(start, size, is_followed=is_followed)
            used = [
                (cpu_seconds([p]) - b) / reads * 1e6
                for p, b in zip((backend, python), before, strict=True)
            ]
            lines.append(
                f"| {size} | {'yes' if is_followed else 'no'} | {used[0]:.0f} us | {used[1]:.0f} us"
                f" | {used[0] / size:.1f} us | {used[1] / size:.1f} us |"
            )
    pool.close()
    return lines


def ratios(turns: dict[str, list[Turn]], way: str) -> tuple[float, float, float]:
    """Return a way's rate by that of inserting: of the medians, and the rounds' range."""
    base, mine = ([t.rate for t in turns[name]] for name in (BASELINE, way))
    each = [a / b for a, b in zip(mine, base, strict=True)]
    return statistics.median(mine) / statistics.median(base), min(each), max(each)


def rows(turns: dict[str, list[Turn]]) -> list[str]:
    """Write medians as rows of Markdown."""
    lines = []
    for name, mine in turns.items():
        rate, cpu, wal, left = (statistics.median(column) for column in zip(*mine, strict=True))
        low, high = min(t.rate for t in mine), max(t.rate for t in mine)
        lines.append(
            f"| {name} | {rate:,.0f} | {low:,.0f}-{high:,.0f} | {cpu:.0f} us | {wal:,.0f}"
            f" | {left:,.0f} |"
        )
    return lines


async def run(rounds: int, seconds: int, clients: int) -> None:
    """Measure everything, and show it as Markdown, one table after the other."""

    def tell(title: str, turns: dict[str, list[Turn]]) -> None:
        columns = "a second | range | Postgres' CPU each | WAL bytes each | left pending |"
        lines = [f"{title}:", "", f"| | {columns}", "|---|---|---|---|---|---|", *rows(turns), ""]
        if set(turns) == set(WAYS):
            lines += [
                "{}: {:.2f} ({:.2f}-{:.2f}).".format(way, *ratios(turns, way))
                for way in (BACKEND, USER)
            ]
        click.echo("\n".join([*lines, f"Load {os.getloadavg()[0]:.1f}.", ""]))

    for name, settings in SERVERS.items():
        async with prepared(name, settings) as bench:
            with tailing(bench.postgres):
                turns = await compare(bench, rounds, seconds, clients)
            tell(f"{name}, {clients} clients, {TAILS} tails", turns)
            turns = await compare(bench, rounds, seconds, clients)
            tell(f"{name}, {clients} clients, no tail", turns)
            if settings:
                tell(f"{name}, one client, no tail", await climb(bench, rounds, seconds))
                columns = (
                    "followed | Postgres' CPU a read | the process' | an event | the process' |"
                )
                lines = [f"| events a read | {columns}", "|---|---|---|---|---|---|"]
                click.echo("\n".join([*lines, *await read(bench), ""]))
    click.echo(f"{os.cpu_count()} cores, Python {platform.python_version()}, {date.today()}.")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--rounds", default=5, show_default=True, help="Rounds, each with every way.")
@click.option("--seconds", default=5, show_default=True, help="Measured in one turn.")
@click.option("--clients", default=32, show_default=True, help="Writers at once.")
@click.option("--tails", hidden=True)
def writers(rounds: int, seconds: int, clients: int, tails: str | None) -> None:
    """Measure what publishing costs the writer."""
    if tails:
        uvloop.run(tail(tails))
    else:
        asyncio.run(run(rounds, seconds, clients))


if __name__ == "__main__":
    writers()
