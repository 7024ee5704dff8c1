"""`make bench`: requests a second against two peers and Postgres alone; from publish to stream."""

import asyncio
import os
import platform
import shutil
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import msgspec
import rich_click as click

from app.auth.keys import Key
from app.dev.demo import Secrets, demo_settings, mint_token
from app.dev.postgres import THROWAWAY, EmbeddedPostgres
from app.settings import Settings
from tests.bench import latency
from tests.bench.chart import Chart, draw
from tests.bench.load import Plan
from tests.bench.operations import READS, WRITES, Caller, Operation
from tests.bench.processes import postmaster_of
from tests.bench.rows import fill, slug, user_id
from tests.bench.turns import ROOT, WARMUP_SECONDS, Result, Running, limit, load, running

VARIANTS = {
    "annex": "Annex",
    "raw": "Litestar + raw asyncpg",
    "fastapi": "FastAPI + SQLAlchemy ORM",
}
DATABASE = "annex"
TITLE = "requests a second, as a multiple of FastAPI + ORM; whiskers: range over rounds"
START_SECONDS = 120.0
ROWS = (10_000, 100_000, 1_000_000)
PLACES = (1, 100, 10_000)
NOTIFICATIONS = 1000
"""Of each user."""
SERVER = {"max_connections": "200", "shared_buffers": "256MB", "max_wal_size": "4GB"}
SECRETS = Secrets(
    secret_key="a secret key for the bench, long enough",
    jwt_secret="a jwt secret for the bench, long enough",
    api_key=str(Key("sk", "b" * 12, "b" * 32)),
    operator_key=str(Key("op", "b" * 12, "b" * 32)),
)


class Asked(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    connections: int
    events: int


class Compared(NamedTuple):
    """What each way did with one operation."""

    title: str
    results: dict[str, list[Result]]
    limits: list[float]
    """What pgbench did with the same statement."""


def say(line: str) -> None:
    """Show progress, apart from the results."""
    click.echo(line, err=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--rounds", default=5, show_default=True, help="Rounds, each with every way.")
@click.option("--seconds", default=2.0, show_default=True, help="Measured in one turn.")
@click.option("--connections", default=32, show_default=True, help="Open at once, keep-alive.")
@click.option("--events", default=200_000, show_default=True, help="Rows in the log.")
@click.option("--published", default=20, show_default=True, help="Events for the latency; 0: none.")
@click.option("--only", multiple=True, type=click.Choice([*READS, *WRITES]), help="Operations.")
@click.option("--growth/--no-growth", default=True, help="Measure how cost grows with rows.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the ratios here, as SVG.")
def bench(
    rounds: int,
    seconds: float,
    connections: int,
    events: int,
    published: int,
    only: tuple[str, ...],
    growth: bool,
    chart: Path | None,
) -> None:
    """Measure reads and publishing on an embedded Postgres, in requests a second.

    Servers that do the same work for the same rows under the same row level security, one process
    each: Annex, Litestar with SQL by hand on asyncpg (the limit of this stack), and FastAPI with
    Pydantic and the SQLAlchemy ORM. They take turns, so that a busy machine disturbs all alike:
    what counts are the ratios, their range says how steady they are. pgbench runs the same
    statement without any server: the limit of Postgres.

    Then Annex reads among more and more rows, and `annex dev` shows how long an event takes from
    POST to an open stream.

    Takes about fifteen minutes; needs nothing but the development environment.
    """
    asked = Asked(rounds, seconds, connections, events)
    chosen = set(only) or {*READS, *WRITES}
    reads, writes = ([o for n, o in ops.items() if n in chosen] for ops in (READS, WRITES))
    folder = ROOT / ".data" / f"bench-{os.getpid()}"
    try:
        found = on_server(folder / "durable", {}, asked, [*reads, *writes], "")
        if writes:
            found += on_server(folder / "fast", THROWAWAY, asked, writes, ", fsync off")
        click.echo(report(found))
        if growth:
            click.echo(grow(folder / "growth", asked))
        if published:
            say(f"From publish to stream, {published} times …")
            times, checks, quick = latency.measure(folder / "latency", published)
            click.echo(
                f"\nFrom publish to stream: p50 {statistics.median(times):.1f} ms, "
                f"max {max(times):.1f} ms over {len(times)} events."
            )
            p50, p95 = (statistics.quantiles(checks, n=20)[n] for n in (9, 18))
            click.echo(
                f"20 permission questions at once: p50 {p50:.1f} ms, p95 {p95:.1f} ms, seen "
                f"by httpx; {quick:.1%} took the server at most 5 ms."
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, {date.today()}."
    )
    if chart:
        charts = [
            Chart(
                f"{c.title}: {TITLE}",
                {name: ratio(c.results, v, "fastapi") for v, name in VARIANTS.items()},
            )
            for c in found
        ]
        chart.write_text(draw(charts))
        say(f"Drew {chart}.")


def on_server(
    folder: Path, settings: Any, asked: Asked, operations: Sequence[Operation], suffix: str
) -> list[Compared]:
    """Fill a Postgres of these settings, start every server, and let them take turns."""
    say(f"Postgres with {asked.events:,} events{suffix} …")
    with (
        EmbeddedPostgres(folder, settings={**SERVER, **settings}) as postgres,
        ExitStack() as stack,
    ):
        asyncio.run(
            fill(postgres, DATABASE, asked.events, asked.connections, notifications=NOTIFICATIONS)
        )
        app_settings = settings_for(postgres)
        callers = asyncio.run(callers_in(postgres, app_settings, asked.connections))
        given = msgspec.json.encode(app_settings)
        servers = {v: stack.enter_context(running(v, given)) for v in VARIANTS}
        say("Each way answers the same, page after page …")
        page = check_answers([s.port for s in servers.values()], callers[0])
        found = [compare(o, suffix, servers, postgres, folder, callers, asked) for o in operations]
        if not suffix:
            canned = stack.enter_context(running("canned", page))
            requests = [READS["events"].request(c) for c in callers]
            plan = Plan(canned.port, requests, asked.seconds, WARMUP_SECONDS)
            alone = load(canned, postmaster_of(folder), plan)
            say(f"The load generator alone makes {alone.rate:,.0f} requests/s.")
        return found


def settings_for(postgres: EmbeddedPostgres) -> Settings:
    """Make the settings that every server is started with."""
    return demo_settings(
        SECRETS,
        postgres.url("annex_api", DATABASE),
        postgres.url("annex_worker", DATABASE),
        log_level="warning",
        rate_limit_requests=1_000_000_000,
        max_connections_per_address=1_000_000,
        max_statements_per_principal=1_000,
        max_events_per_minute=1_000_000_000,
        max_event_bytes_per_minute=10**15,
    )


async def callers_in(
    postgres: EmbeddedPostgres, settings: Settings, count: int, workspaces: int = 8
) -> list[Caller]:
    """Make a token for each user, and find an event that they may read.

    Workspaces are named by their ids, as programs name them.
    """
    admin = await asyncpg.connect(postgres.url("postgres", DATABASE))
    newest = (
        "select w.id, e.event_id from annex.events e join annex.workspaces w on w.id ="
        " e.workspace_id where w.slug = $1 order by e.event_id desc limit 1"
    )
    callers = []
    for n in range(count):
        user = str(user_id(n))
        claims = msgspec.json.encode({"role": "authenticated", "sub": user, "aal": "aal1"}).decode()
        token = mint_token(settings, user)
        found = await admin.fetchrow(newest, slug(n, workspaces))
        assert found is not None
        callers.append(Caller(token, claims, str(found[0]), found[1]))
    await admin.close()
    return callers


def compare(
    operation: Operation,
    suffix: str,
    servers: dict[str, Running],
    postgres: EmbeddedPostgres,
    folder: Path,
    callers: Sequence[Caller],
    asked: Asked,
) -> Compared:
    """Let the servers take turns with one operation, each first in turn, and then pgbench."""
    requests = [operation.request(c) for c in callers]
    results: dict[str, list[Result]] = {v: [] for v in VARIANTS}
    limits = []
    url, postmaster = postgres.url("annex_api", DATABASE), postmaster_of(folder)
    for n in range(asked.rounds):
        order = [*VARIANTS][n % len(VARIANTS) :] + [*VARIANTS][: n % len(VARIANTS)]
        for variant in order:
            plan = Plan(servers[variant].port, requests, asked.seconds, WARMUP_SECONDS)
            results[variant].append(load(servers[variant], postmaster, plan))
        limits.append(limit(operation, callers[0], url, asked.connections, asked.seconds))
    found = Compared(operation.name + suffix, results, limits)
    rates = (f"{VARIANTS[v]} {median_rate(results[v]):,.0f}/s" for v in VARIANTS)
    say(f"{found.title}: {'; '.join(rates)}; pgbench {statistics.median(limits):,.0f}/s")
    return found


def check_answers(ports: Sequence[int], caller: Caller) -> bytes:
    """Make sure that all answer the same JSON, page after page; returns an answer's bytes."""

    def ask(path: str, below: str = "/api/v1/workspaces") -> list[Any]:
        answers = [
            httpx.get(
                f"http://127.0.0.1:{port}{below}{path}",
                headers={"Authorization": f"Bearer {caller.token}"},
                timeout=START_SECONDS,
            ).raise_for_status()
            for port in ports
        ]
        # A stream's cursor has a nonce.
        found = [{**a.json(), "stream_cursor": None} for a in answers]
        if any(f != found[0] for f in found):
            raise click.ClickException(f"The servers do not answer alike: {path}")
        return [found[0], answers[0].content]

    for operation in READS.values():
        ask(operation.path(caller), operation.below)
    path, page = f"/{caller.ws}/events?limit=20", b""
    for _ in range(3):
        found, page = ask(path)
        if len(found["data"]) != 20 or found["page"]["next"] is None:
            raise click.ClickException("A page is not full; take more events.")
        path = f"/{caller.ws}/events?limit=20&cursor={found['page']['next']}"
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page)


def grow(folder: Path, asked: Asked) -> str:
    """Let Annex read among more and more rows and workspaces; returns Markdown."""
    lines = [
        "| events | workspaces | operation | requests/s | server's CPU a request | Postgres' |",
        "|---|---|---|---|---|---|",
    ]
    sizes = [(rows, 8) for rows in ROWS] + [(100_000, places) for places in PLACES]
    for n, (rows, places) in enumerate(sizes):
        say(f"{rows:,} events in {places:,} workspaces …")
        at = folder / str(n)
        with EmbeddedPostgres(at, settings={**SERVER, **THROWAWAY}) as postgres:
            asyncio.run(fill(postgres, DATABASE, rows, asked.connections, places))
            settings = settings_for(postgres)
            callers = asyncio.run(callers_in(postgres, settings, asked.connections, places))
            with running("annex", msgspec.json.encode(settings)) as server:
                for operation in (READS["events"], READS["event"], WRITES["publish"]):
                    requests = [operation.request(c) for c in callers]
                    plan = Plan(server.port, requests, asked.seconds, WARMUP_SECONDS)
                    found = [load(server, postmaster_of(at), plan) for _ in range(3)]
                    cpu = statistics.median(r.cpu_us for r in found)
                    sql = statistics.median(r.postgres_us for r in found)
                    lines.append(
                        f"| {rows:,} | {places:,} | {operation.name} | {median_rate(found):,.0f} "
                        f"| {cpu:.0f} us | {sql:.0f} us |"
                    )
        shutil.rmtree(at, ignore_errors=True)
    return "\n".join(["", *lines])


class Ratio(NamedTuple):
    """Against another way: of the medians, and the range over the rounds."""

    of_medians: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.of_medians:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


def median_rate(results: Sequence[Result]) -> float:
    """Return the median of the rounds' rates."""
    return statistics.median(r.rate for r in results)


def ratio(results: dict[str, list[Result]], variant: str, base: str) -> Ratio:
    """Compare a variant's rates with another's, round by round."""
    mine, others = ([r.rate for r in results[v]] for v in (variant, base))
    each = [a / b for a, b in zip(mine, others, strict=True)]
    return Ratio(statistics.median(mine) / statistics.median(others), min(each), max(each))


def report(found: Sequence[Compared]) -> str:
    """Write the results as Markdown: the ratios first, then each way's figures."""
    lines = [
        "| operation | Annex/s | of FastAPI + ORM | of raw asyncpg | pgbench/s |",
        "|---|---|---|---|---|",
    ]
    for c in found:
        lines.append(
            f"| {c.title} | {median_rate(c.results['annex']):,.0f} "
            f"| {ratio(c.results, 'annex', 'fastapi')} | {ratio(c.results, 'annex', 'raw')} "
            f"| {statistics.median(c.limits):,.0f} |"
        )
    lines += [
        "",
        "| operation | way | requests/s | server's CPU a request | Postgres' |",
        "|---|---|---|---|---|",
    ]
    for c in found:
        for variant, name in VARIANTS.items():
            mine = c.results[variant]
            cpu = statistics.median(r.cpu_us for r in mine)
            sql = statistics.median(r.postgres_us for r in mine)
            lines.append(
                f"| {c.title} | {name} | {median_rate(mine):,.0f} | {cpu:.0f} us | {sql:.0f} us |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    bench()
