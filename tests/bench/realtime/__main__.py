"""`make bench-realtime`: one server process with thousands of streams, against its peers."""

import asyncio
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]
import rich_click as click

from app.auth.keys import Key
from app.dev.demo import Secrets, demo_settings, mint_token
from app.dev.postgres import EmbeddedPostgres
from tests.bench.chart import Chart, draw
from tests.bench.processes import postmaster_of
from tests.bench.realtime import clients, measures, nchan, rows
from tests.bench.realtime.clients import Clients
from tests.bench.realtime.measures import (
    Broadcast,
    Following,
    Reconnect,
    Saturation,
    Server,
    Shutdown,
)
from tests.bench.realtime.publish import Http, Sql
from tests.bench.rows import user_id

ROOT = Path(__file__).parent.parent.parent.parent
NAMES = {
    "annex": "Annex",
    "nchan": "nchan (nginx)",
    "fastapi": "FastAPI StreamingResponse",
    "sse-starlette": "sse-starlette",
    "litestar": "Litestar channels",
    "bare": "bare uvloop, no framework",
}
SERVERS = ("annex", "nchan", "fastapi", "sse-starlette", "litestar", "bare")
MEASURES = ("saturation", "broadcast", "reconnect", "follow", "shutdown")
OF_ANNEX = ("reconnect", "follow", "shutdown")
SATURATED = 2_000
"""Connections while the server is saturated."""
TEAMS = 1_000
EVENTS_PER_SECOND = 1_020
"""Into the log, while each team's members follow."""
WRITERS = 16
START_SECONDS = 120.0
STOP_SECONDS = 60.0
SPARE_FILES = 500
LOG_LINES = 12
PACKAGES = ("uvicorn", "uvloop", "litestar", "fastapi", "sse-starlette")
SECRETS = Secrets(
    secret_key="a secret key for the bench, long enough",
    jwt_secret="a jwt secret for the bench, long enough",
    api_key=str(Key("sk", "b" * 12, "b" * 32)),
    operator_key=str(Key("op", "b" * 12, "b" * 32)),
)


class Results(msgspec.Struct):
    """What each server did, round by round."""

    saturation: dict[str, list[Saturation]] = {}
    broadcast: dict[str, list[Broadcast]] = {}
    reconnect: list[Reconnect] = []
    follow: list[Following] = []
    shutdown: list[Shutdown] = []


def say(line: str) -> None:
    """Show progress, apart from the results."""
    click.echo(line, err=True)


class Bench:
    """What all turns share."""

    def __init__(
        self,
        folder: Path,
        postgres: EmbeddedPostgres,
        connections: int,
        seconds: float,
        window: int,
    ) -> None:
        self.folder, self.seconds, self.window = folder, seconds, window
        self.connections = connections
        self.program = clients.build(ROOT / ".data")
        self.database = postgres.url("postgres", "annex")
        self.postmaster = postmaster_of(folder / "postgres")
        self.settings = demo_settings(
            SECRETS,
            postgres.url("annex_api", "annex"),
            postgres.url("annex_worker", "annex"),
            log_level="warning",
            rate_limit_requests=1_000_000_000,
            # All readers of the bench have one address.
            max_connections_per_address=1_000_000,
            max_events_per_minute=100_000_000,
            max_event_bytes_per_minute=10**12,
            max_streams_per_address=1_000_000,
            max_streams_per_workspace=1_000_000,
            max_streams_per_principal=1_000_000,
        )
        self.teams = min(TEAMS, connections // rows.READERS)
        self.results = Results()
        say(f"{connections:,} users, {self.teams:,} teams …")
        key = Key.read(SECRETS.api_key)
        asyncio.run(rows.fill(postgres, "annex", connections, self.teams, key))
        self.tokens = [mint_token(self.settings, str(user_id(n))) for n in range(connections)]

    def requests(self, name: str, count: int, *, in_teams: bool = False) -> Iterator[bytes]:
        """Write the requests of the first connections; Annex' each with its own user's token."""
        for n in range(count):
            if name == "annex":
                ws = f"team-{n // rows.READERS}" if in_teams else "everyone"
                path = f"/api/v1/workspaces/{ws}/stream"
                more = f"Authorization: Bearer {self.tokens[n]}\r\n"
            else:
                path, more = "/stream", ""
            yield (
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{more}\r\n"
            ).encode()

    @contextmanager
    def clients(self, name: str, count: int, *, in_teams: bool = False) -> Iterator[Clients]:
        """Run a load generator for the first connections."""
        requests = self.requests(name, count, in_teams=in_teams)
        with clients.connecting(self.program, self.folder, requests) as found:
            yield found

    @contextmanager
    def server(self, name: str) -> Iterator[Server]:
        """Start a server, and stop it; what it said is shown when the bench fails."""
        log = self.folder / "server.log"
        try:
            with log.open("w") as said, self.start(name, said) as server:
                with self.clients(name, 1) as one:
                    one.open(server.port)
                yield server
        except BaseException:
            for line in log.read_text().splitlines()[-LOG_LINES:]:
                say(f"    {NAMES[name]} said: {line}")
            raise

    @contextmanager
    def start(self, name: str, said: IO[str]) -> Iterator[Server]:
        """Start a server that writes to `said`, and stop it."""
        log = Path(said.name)
        if name == "nchan":
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES
            with nchan.running(self.folder / "nginx", files, said) as (port, worker):
                yield Server(name, port, worker, Http(port, "/publish"), lambda: 0, log)
            return
        with running(name, self.settings, said) as (process, port):
            found = psutil.Process(process.pid)
            yield Server(name, port, found, self.via(name, port), lambda: stop(process), log)

    def via(self, name: str, port: int) -> Http:
        """Say how an event is posted to a server."""
        if name != "annex":
            return Http(port, "/publish")
        return Http(
            port,
            "/api/v1/workspaces/everyone/events",
            {"Authorization": f"Bearer {SECRETS.api_key}"},
            '{"type":"bench.tick","source":"bench","data":',
            "}",
        )

    def sql(self, *, in_teams: bool = False) -> Sql:
        """Say how events are published in plain SQL."""
        if in_teams:
            return Sql(self.database, [rows.team_id(n) for n in range(self.teams)], WRITERS)
        return Sql(self.database, [rows.EVERYONE])

    def take_turn(self, name: str, wanted: Sequence[str]) -> None:
        """Measure a server once."""
        if "saturation" in wanted:
            self.saturate(name)
        if "broadcast" in wanted or (name == "annex" and "reconnect" in wanted):
            self.broadcast(name, name == "annex" and "reconnect" in wanted)
        if name == "annex" and ("follow" in wanted or "shutdown" in wanted):
            self.follow("shutdown" in wanted)

    def saturate(self, name: str) -> None:
        """Measure deliveries a second."""
        count = min(SATURATED, self.connections)
        with self.server(name) as server, self.clients(name, count) as found:
            via = self.sql() if name == "annex" else server.via
            done = measures.saturate(server, found, via, self.window, self.seconds)
        self.results.saturation.setdefault(name, []).append(done)
        say(
            f"  {NAMES[name]}: {done.per_second:,.0f} deliveries/s, {done.cpu_us:.1f} us of CPU "
            f"each, {done.events_a_read:.1f} a read"
        )

    def broadcast(self, name: str, reconnects: bool) -> None:
        """Measure a broadcast a second, and how all come back."""
        ticks = max(3, round(self.seconds * 2))
        with self.server(name) as server, self.clients(name, self.connections) as found:
            done = measures.broadcast(server, found, ticks)
            self.results.broadcast.setdefault(name, []).append(done)
            say(
                f"  {NAMES[name]}: {self.connections:,} open after {done.open_seconds:.1f} s, p50 "
                f"{done.p50_ms:.0f} ms, p99 {done.p99_ms:.0f} ms, {done.cpu_us:.1f} us of CPU each,"
                f" {done.rss / 1e6:.0f} MB, {done.rss_a_connection / 1e3:.1f} kB a connection"
            )
            if reconnects:
                back = measures.reconnect(server, found, self.sql())
                self.results.reconnect.append(back)
                say(f"  {NAMES[name]}: all back after {back.seconds:.1f} s, {back.refused} retries")

    def follow(self, stops: bool) -> None:
        """Measure many events for few readers each, and the end with all of them connected."""
        count = self.teams * rows.READERS
        with self.server("annex") as server, self.clients("annex", count, in_teams=True) as found:
            rate = EVENTS_PER_SECOND * self.teams / TEAMS
            via = self.sql(in_teams=True)
            done = measures.follow(server, found, self.postmaster, via, rate, self.seconds * 2)
            self.results.follow.append(done)
            say(
                f"  {NAMES['annex']}: {done.per_second:,.0f} events/s to {rows.READERS} readers "
                f"each, p50 {done.p50_ms:.0f} ms, p99 {done.p99_ms:.0f} ms"
            )
            if stops:
                ended = measures.shut_down(server, found)
                self.results.shutdown.append(ended)
                say(f"  {NAMES['annex']}: ended with {count:,} streams in {ended.seconds:.1f} s")


@contextmanager
def running(name: str, given: Any, said: IO[str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a server of Python; yields its process and port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.realtime.servers", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        cwd=ROOT,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(given).decode())
        process.stdin.close()
        port = process.stdout.readline()
        if not port:
            raise click.ClickException(f"{NAMES[name]} does not start.")
        yield process, int(port)
    finally:
        if process.poll() is None:
            stop(process)


def stop(process: "subprocess.Popen[str]") -> float:
    """Send SIGTERM and wait; kills a process that does not end."""
    began = time.monotonic()
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return time.monotonic() - began


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--rounds", default=5, show_default=True, help="Rounds, each with every server.")
@click.option("--connections", default=9000, show_default=True, help="The most streams at once.")
@click.option("--seconds", default=5.0, show_default=True, help="Measured in one turn.")
@click.option("--window", default=32, show_default=True, help="Events under way in saturation.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*SERVERS, *MEASURES]),
    help="Only these servers or measures; may be given several times.",
)
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the figures here, as SVG.")
def bench(
    rounds: int,
    connections: int,
    seconds: float,
    window: int,
    only: tuple[str, ...],
    chart: Path | None,
) -> None:
    """Measure thousands of Server-Sent Events streams: Annex against other servers.

    Annex as `annex serve` runs it, each stream with its own user's token, every event through the
    log of an embedded Postgres; the others as their documentation has it, without authentication
    or database. One process each, in turns, so that a busy machine disturbs all alike: what counts
    are the ratios and the CPU a delivery.

    Every stream must get every event once and in order, or the bench ends there.

    Needs a C compiler, and nginx with nchan to measure that; takes half an hour.
    """
    # As Ctrl-C does: what was started has to be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    servers = [s for s in SERVERS if s in only] or list(SERVERS)
    wanted = [m for m in MEASURES if m in only] or list(MEASURES)
    if "nchan" in servers and nchan.find() is None:
        say(f"{nchan.MISSING}; going on without it.")
        servers.remove("nchan")
    check_files(connections)
    folder = ROOT / ".data" / f"bench-realtime-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        settings = {"max_connections": "100", "shared_buffers": "256MB"}
        with EmbeddedPostgres(folder / "postgres", settings=settings) as postgres:
            run = Bench(folder, postgres, connections, seconds, window)
            for n in range(rounds):
                say(f"Round {n + 1} of {rounds}")
                # Every server comes first, second, … in turn.
                order = servers[n % len(servers) :] + servers[: n % len(servers)]
                for name in order:
                    run.take_turn(name, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(report(run.results, connections, window))
    if chart:
        chart.write_text(draw(charts(run.results)))
        say(f"Drew {chart}.")


def check_files(connections: int) -> None:
    """Refuse more connections than the system lets a process open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections + SPARE_FILES > most:
        raise click.ClickException(
            f"A process may open {most:,} files here; take fewer --connections, or raise the hard "
            "limit (ulimit -Hn)."
        )


class Ratio(NamedTuple):
    """Against another server: of the medians, and the range over the rounds."""

    of_medians: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return with_range(self.of_medians, self.lowest, self.highest, ".2f")


def ratio(rounds: Mapping[str, Sequence[Any]], name: str, base: str, field: str) -> Ratio | None:
    """Compare a figure of two servers, round by round; None without the other one."""
    if base not in rounds:
        return None
    mine, others = ([getattr(r, field) for r in rounds[n]] for n in (name, base))
    each = [a / b for a, b in zip(mine, others, strict=True)]
    return Ratio(statistics.median(mine) / statistics.median(others), min(each), max(each))


def median(rounds: Sequence[Any], field: str) -> float:
    """Return the median of a figure."""
    return float(statistics.median(getattr(r, field) for r in rounds))


def spread(rounds: Sequence[Any], field: str, form: str) -> str:
    """Write a figure's median, and its range over the rounds."""
    values = [getattr(r, field) for r in rounds]
    return with_range(statistics.median(values), min(values), max(values), form)


def with_range(value: float, lowest: float, highest: float, form: str) -> str:
    """Write a value, and its range if there is one."""
    if lowest == highest:
        return f"{value:{form}}"
    return f"{value:{form}} ({lowest:{form}}-{highest:{form}})"


def report(results: Results, connections: int, window: int) -> str:
    """Write the results as Markdown."""
    lines = []
    if rounds := results.saturation:
        lines += [
            f"{min(SATURATED, connections):,} connections, {window} events under way:",
            "",
            "| server | deliveries/s | of FastAPI's | of nchan's | p99 | server's CPU a delivery "
            "| of FastAPI's | events a read | bytes an event | load generator |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name in in_order(rounds):
            mine = rounds[name]
            lines.append(
                f"| {NAMES[name]} | {median(mine, 'per_second'):,.0f} "
                f"| {ratio(rounds, name, 'fastapi', 'per_second') or '-'} "
                f"| {ratio(rounds, name, 'nchan', 'per_second') or '-'} "
                f"| {median(mine, 'p99_ms'):,.0f} ms | {median(mine, 'cpu_us'):.1f} us "
                f"| {ratio(rounds, name, 'fastapi', 'cpu_us') or '-'} "
                f"| {median(mine, 'events_a_read'):.1f} | {median(mine, 'bytes_an_event'):.0f} "
                f"| {median(mine, 'client_share'):.0%} of a core |"
            )
        lines.append("")
    if rounds_ := results.broadcast:
        lines += [
            f"{connections:,} connections, one event a second to all:",
            "",
            "| server | p50 | p99 | p99 of FastAPI's | of nchan's | server's CPU a delivery "
            "| RSS | RSS a connection | all open after |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name in in_order(rounds_):
            mine_ = rounds_[name]
            lines.append(
                f"| {NAMES[name]} | {median(mine_, 'p50_ms'):.0f} ms "
                f"| {spread(mine_, 'p99_ms', '.0f')} ms "
                f"| {ratio(rounds_, name, 'fastapi', 'p99_ms') or '-'} "
                f"| {ratio(rounds_, name, 'nchan', 'p99_ms') or '-'} "
                f"| {median(mine_, 'cpu_us'):.1f} us "
                f"| {median(mine_, 'rss') / 1e6:.0f} MB "
                f"| {median(mine_, 'rss_a_connection') / 1e3:.1f} kB "
                f"| {median(mine_, 'open_seconds'):.1f} s |"
            )
        lines.append("")
    if results.follow:
        lines.append(
            f"Into the log at {median(results.follow, 'per_second'):,.0f} events/s, each to "
            f"{rows.READERS} readers: p50 {spread(results.follow, 'p50_ms', '.1f')} ms, p99 "
            f"{spread(results.follow, 'p99_ms', '.1f')} ms, max "
            f"{spread(results.follow, 'max_ms', '.0f')} ms. Of a core, the server took "
            f"{median(results.follow, 'server_share'):.0%}, Postgres "
            f"{median(results.follow, 'postgres_share'):.0%}, the publisher "
            f"{median(results.follow, 'publisher_share'):.0%}."
        )
    if results.reconnect:
        lines.append(
            f"{connections:,} clients back at once with their cursors, live with all that they had "
            f"missed after {spread(results.reconnect, 'seconds', '.1f')} s."
        )
    if results.shutdown:
        lines.append(
            f"SIGTERM with all streams open: ended after "
            f"{spread(results.shutdown, 'seconds', '.1f')} s."
        )
    versions = ", ".join(f"{p} {version(p)}" for p in PACKAGES)
    if nginx := nchan.find():
        versions += f", {nchan.version_of(nginx)}"
    lines.append(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}, {versions}, "
        f"{date.today()}."
    )
    return "\n".join(lines)


def in_order(rounds: Mapping[str, Any]) -> list[str]:
    """Return the servers that were measured, always in the same order."""
    return [s for s in SERVERS if s in rounds]


def charts(results: Results) -> list[Chart]:
    """Choose what to draw: the figures themselves, with their ranges."""
    found = []
    for title, rounds, field, label, unit in (
        ("Deliveries a second, thousands", results.saturation, "per_second", "{:.0f}", 1e3),
        ("Broadcast, p99 in ms", results.broadcast, "p99_ms", "{:.0f} ms", 1),
        ("RSS a connection, kB", results.broadcast, "rss_a_connection", "{:.1f} kB", 1e3),
    ):
        bars = {}
        for name in in_order(rounds):
            values = [getattr(r, field) / unit for r in rounds[name]]
            bars[NAMES[name]] = (statistics.median(values), min(values), max(values))
        if bars:
            found.append(Chart(f"{title}; whiskers: range over rounds", bars, label))
    return found


if __name__ == "__main__":
    bench()
