"""`make bench`: requests a second of one page, three ways, and the way from publish to stream."""

import asyncio
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import psutil  # type: ignore[import-untyped]
import rich_click as click

from app.auth.keys import Key
from app.dev.demo import Secrets, demo_settings, mint_token
from app.dev.postgres import THROWAWAY, EmbeddedPostgres
from app.schemas.events import EventPage
from tests.bench import latency
from tests.bench.chart import Chart, draw
from tests.bench.load import Plan, Tally
from tests.bench.processes import cpu_seconds, postmaster_of
from tests.bench.rows import fill, slug, user_id

ROOT = Path(__file__).parent.parent.parent
VARIANTS = {
    "hot": "Annex, hot path",
    "generic": "Annex, generic page",
    "fastapi-planned": "FastAPI, planned like Annex",
    "fastapi": "FastAPI + SQLAlchemy ORM",
}
BASELINE = "fastapi"
TITLE = "GET …/events?limit=20: requests a second, as a multiple; whiskers: range over rounds"
WARMUP_SECONDS = 1.0
START_SECONDS = 120.0
SECRETS = Secrets(
    secret_key="a secret key for the bench, long enough",
    jwt_secret="a jwt secret for the bench, long enough",
    api_key=str(Key("sk", "b" * 12, "b" * 32)),
    operator_key=str(Key("op", "b" * 12, "b" * 32)),
)


class Result(NamedTuple):
    """What one variant did in one round."""

    rate: float
    cpu_us: float
    """CPU time of the server process, a request."""
    postgres_us: float
    """CPU time of Postgres, a request."""
    client_share: float
    """Of one core, taken by the load generator."""


def say(line: str) -> None:
    """Show progress, apart from the results."""
    click.echo(line, err=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--rounds", default=5, show_default=True, help="Rounds, each with every variant.")
@click.option("--seconds", default=4.0, show_default=True, help="Measured in one turn.")
@click.option("--connections", default=32, show_default=True, help="Open at once, keep-alive.")
@click.option("--events", default=200_000, show_default=True, help="Rows in the log.")
@click.option("--published", default=20, show_default=True, help="Events for the latency; 0: none.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the ratios here, as SVG.")
def bench(
    rounds: int, seconds: float, connections: int, events: int, published: int, chart: Path | None
) -> None:
    """Measure `GET …/events?limit=20` on an embedded Postgres, in requests a second.

    Servers that give the same JSON for the same rows under the same row level security, one
    process each: Annex as it is (the hot path), Annex with the list on the page that all other
    lists use, and FastAPI with Pydantic and the SQLAlchemy ORM, once more with the planner's
    setting that Annex makes. They take turns, so that a busy machine disturbs all alike: what
    counts are the ratios, their range says how steady they are.

    Then `annex dev` shows how long an event takes from POST to an open stream.

    Takes about three minutes; needs nothing but the development environment.
    """
    folder = ROOT / ".data" / f"bench-{os.getpid()}"
    try:
        say(f"Postgres with {events:,} events …")
        settings = {**THROWAWAY, "max_connections": "100", "shared_buffers": "256MB"}
        with EmbeddedPostgres(folder / "requests", settings=settings) as postgres:
            asyncio.run(fill(postgres, "annex", events, connections))
            process = postmaster_of(folder / "requests")
            results, ceiling = compare(postgres, process, rounds, seconds, connections)
        times: list[float] = []
        if published:
            say(f"From publish to stream, {published} times …")
            times = latency.measure(folder / "latency", published)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(report(results, ceiling, times))
    if chart:
        bars = {name: ratio(results, v) for v, name in VARIANTS.items()}
        chart.write_text(draw([Chart(TITLE, bars)]))
        say(f"Drew {chart}.")


def compare(
    postgres: EmbeddedPostgres,
    postmaster: psutil.Process,
    rounds: int,
    seconds: float,
    connections: int,
) -> tuple[dict[str, list[Result]], Result]:
    """Start every server, see that they answer alike, and let them take turns."""
    settings = demo_settings(
        SECRETS,
        postgres.url("annex_api", "annex"),
        postgres.url("annex_worker", "annex"),
        log_level="warning",
        rate_limit_requests=1_000_000_000,
    )
    callers = [(slug(n), mint_token(settings, str(user_id(n)))) for n in range(connections)]
    requests = [request(*caller) for caller in callers]
    results: dict[str, list[Result]] = {v: [] for v in VARIANTS}
    with ExitStack() as stack:
        servers = {
            v: stack.enter_context(running(v, msgspec.json.encode(settings))) for v in VARIANTS
        }
        answer = check_answers([s.port for s in servers.values()], callers[0])
        for n in range(rounds):
            # Every variant comes first, second and third in turn.
            order = [*VARIANTS][n % len(VARIANTS) :] + [*VARIANTS][: n % len(VARIANTS)]
            for variant in order:
                plan = Plan(servers[variant].port, requests, seconds, WARMUP_SECONDS)
                results[variant].append(load(servers[variant], postmaster, plan))
            rates = (f"{VARIANTS[v]} {results[v][-1].rate:,.0f}/s" for v in VARIANTS)
            say(f"Round {n + 1} of {rounds}: {'; '.join(rates)}")
        say("The load generator alone …")
        canned = stack.enter_context(running("canned", answer))
        plan = Plan(canned.port, requests, seconds, WARMUP_SECONDS)
        return results, load(canned, postmaster, plan)


class Running(NamedTuple):
    """A server process."""

    port: int
    process: "subprocess.Popen[bytes]"


@contextmanager
def running(variant: str, given: bytes) -> Iterator[Running]:
    """Serve a variant in a process of its own, on a socket that is open from the start."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.servers", variant, str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            cwd=ROOT,
        )
        port = listener.getsockname()[1]
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    try:
        yield Running(port, process)
    finally:
        process.terminate()
        process.wait()


def request(workspace: str, token: str) -> bytes:
    """Write one caller's request."""
    return (
        f"GET /api/v1/workspaces/{workspace}/events?limit=20 HTTP/1.1\r\nHost: localhost\r\n"
        f"Accept: application/json\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


def check_answers(ports: Sequence[int], caller: tuple[str, str]) -> bytes:
    """Make sure that all answer the same JSON, page after page; returns an answer's bytes."""
    workspace, token = caller
    headers = {"Authorization": f"Bearer {token}"}
    cursor = None
    page = b""
    for limit in (7, 20, 20):
        params: dict[str, Any] = {"limit": limit, **({"cursor": cursor} if cursor else {})}
        answers = [
            httpx.get(
                f"http://127.0.0.1:{port}/api/v1/workspaces/{workspace}/events",
                params=params,
                headers=headers,
                timeout=START_SECONDS,
            ).raise_for_status()
            for port in ports
        ]
        first = answers[0].json()
        if any(a.json() != first for a in answers):
            raise SystemExit("The servers do not answer alike; there is nothing to compare.")
        if len(msgspec.json.decode(answers[0].content, type=EventPage).data) != limit:
            raise SystemExit("A page is not full; take more events.")
        cursor = first["page"]["next"]
        page = answers[0].content
    say(f"All answer the same JSON, {len(page):,} bytes.")
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page)


def load(server: Running, postmaster: psutil.Process, plan: Plan) -> Result:
    """Measure one server for a while."""
    watched = psutil.Process(server.process.pid)
    before = cpu_seconds([watched]), cpu_seconds(postmaster.children())
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
    )
    after = cpu_seconds([watched]), cpu_seconds(postmaster.children())
    tally = msgspec.json.decode(done.stdout, type=Tally)
    if tally.failures:
        raise SystemExit(f"{tally.failures} answers were no 200.")
    cpu_us, postgres_us = (
        (a - b) / (tally.warmup_answers + tally.answers) * 1e6
        for a, b in zip(after, before, strict=True)
    )
    rate, share = tally.answers / tally.seconds, tally.cpu_seconds / tally.seconds
    return Result(rate, cpu_us, postgres_us, share)


class Ratio(NamedTuple):
    """Against the baseline: of the medians, and the range over the rounds."""

    of_medians: float
    lowest: float
    highest: float


def ratio(results: dict[str, list[Result]], variant: str) -> Ratio:
    """Compare a variant's rates with the baseline's, round by round."""
    mine, base = ([r.rate for r in results[v]] for v in (variant, BASELINE))
    each = [a / b for a, b in zip(mine, base, strict=True)]
    return Ratio(statistics.median(mine) / statistics.median(base), min(each), max(each))


def report(results: dict[str, list[Result]], ceiling: Result, times: list[float]) -> str:
    """Write the results as Markdown."""
    lines = [
        "| way | requests/s | ratio | range over rounds | server's CPU a request | Postgres' |",
        "|---|---|---|---|---|---|",
    ]
    for variant, name in VARIANTS.items():
        mine = results[variant]
        rate = statistics.median(r.rate for r in mine)
        cpu = statistics.median(r.cpu_us for r in mine)
        sql = statistics.median(r.postgres_us for r in mine)
        r = ratio(results, variant)
        lines.append(
            f"| {name} | {rate:,.0f} | {r.of_medians:.2f} | {r.lowest:.2f}-{r.highest:.2f} "
            f"| {cpu:.0f} us | {sql:.0f} us |"
        )
    share = statistics.median(r.client_share for r in results["hot"])
    lines += [
        "",
        f"The load generator alone makes {ceiling.rate:,.0f} requests/s; against the hot path it "
        f"takes {share:.0%} of a core.",
    ]
    if times:
        lines.append(
            f"From publish to stream: p50 {statistics.median(times):.1f} ms, "
            f"max {max(times):.1f} ms over {len(times)} events."
        )
    lines.append(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, {date.today()}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    bench()
