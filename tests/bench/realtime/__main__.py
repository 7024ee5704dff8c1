"""`make bench-realtime`: one server process with thousands of streams, against its peers."""

import asyncio
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]
import rich_click as click

from app.auth.keys import Key
from app.dev.demo import Secrets, demo_settings, mint_token
from app.dev.postgres import EmbeddedPostgres
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
EVENTS_PER_SECOND = 1_000
"""Into the log, while each team's members follow."""
WRITERS = 4
START_SECONDS = 120.0
STOP_SECONDS = 60.0
SPARE_FILES = 500
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
        self.settings = demo_settings(
            SECRETS,
            postgres.url("annex_api", "annex"),
            postgres.url("annex_worker", "annex"),
            log_level="warning",
            rate_limit_requests=1_000_000_000,
        )
        self.teams = min(TEAMS, connections // rows.READERS)
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
        """Start a server, and stop it."""
        with ExitStack() as stack:
            if name == "nchan":
                files = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100
                port, worker = stack.enter_context(nchan.running(self.folder / "nginx", files))
                server = Server(name, port, worker, Http(port, "/publish"), lambda: 0)
            else:
                process, port = stack.enter_context(running(name, self.settings))
                server = Server(
                    name,
                    port,
                    psutil.Process(process.pid),
                    self.via(name, port),
                    lambda: stop(process),
                )
            with self.clients(name, 1) as one:
                one.open(server.port)
            yield server

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

    def saturation(self, name: str) -> Saturation:
        """Measure deliveries a second."""
        with (
            self.server(name) as server,
            self.clients(name, min(SATURATED, self.connections)) as found,
        ):
            via = self.sql() if name == "annex" else server.via
            return measures.saturate(server, found, via, self.window, self.seconds)

    def broadcast(self, name: str, reconnects: bool) -> tuple[Broadcast, Reconnect | None]:
        """Measure a broadcast a second, and how all come back."""
        ticks = max(3, round(self.seconds * 2))
        with self.server(name) as server, self.clients(name, self.connections) as found:
            result = measures.broadcast(server, found, ticks)
            if not reconnects:
                return result, None
            return result, measures.reconnect(server, found, self.sql(), ticks)

    def follow(self, stops: bool) -> tuple[Following, Shutdown | None]:
        """Measure many events for few readers each, and the end with all of them connected."""
        with (
            self.server("annex") as server,
            self.clients("annex", self.teams * rows.READERS, in_teams=True) as found,
        ):
            via = self.sql(in_teams=True)
            rate = EVENTS_PER_SECOND * self.teams / TEAMS
            result = measures.follow(server, found, via, rate, self.seconds * 2)
            return result, measures.shut_down(server, found) if stops else None


@contextmanager
def running(name: str, given: Any) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a server of Python; yields its process and port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.realtime.servers", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
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
            raise click.ClickException(f"{NAMES[name]} does not start; the lines above say why.")
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
def bench(
    rounds: int, connections: int, seconds: float, window: int, only: tuple[str, ...]
) -> None:
    """Measure streams: one server process each, in turns, on loopback."""
    servers = [s for s in SERVERS if s in only] or list(SERVERS)
    wanted = [m for m in MEASURES if m in only] or list(MEASURES)
    if "nchan" in servers and nchan.find() is None:
        say(f"{nchan.MISSING}; going on without it.")
        servers.remove("nchan")
    check_files(connections)
    folder = ROOT / ".data" / f"bench-realtime-{os.getpid()}"
    folder.mkdir(parents=True)
    results = Results()
    try:
        settings = {"max_connections": "100", "shared_buffers": "256MB"}
        with EmbeddedPostgres(folder / "postgres", settings=settings) as postgres:
            run = Bench(folder, postgres, connections, seconds, window)
            for n in range(rounds):
                say(f"Round {n + 1} of {rounds}")
                # Every server comes first, second, … in turn.
                order = servers[n % len(servers) :] + servers[: n % len(servers)]
                take_turns(run, order, wanted, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(report(results))


def check_files(connections: int) -> None:
    """Refuse more connections than the system lets a process open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections + SPARE_FILES > most:
        raise click.ClickException(
            f"A process may open {most:,} files here; take fewer --connections, or raise the hard "
            "limit (ulimit -Hn)."
        )


def take_turns(run: Bench, order: Sequence[str], wanted: Sequence[str], results: Results) -> None:
    """Measure every server once."""
    for name in order:
        if "saturation" in wanted:
            saturation = run.saturation(name)
            results.saturation.setdefault(name, []).append(saturation)
            say(f"  {NAMES[name]}: {saturation}")
        if "broadcast" in wanted:
            broadcast, back = run.broadcast(name, name == "annex" and "reconnect" in wanted)
            results.broadcast.setdefault(name, []).append(broadcast)
            say(f"  {NAMES[name]}: {broadcast}")
            if back is not None:
                results.reconnect.append(back)
                say(f"  {NAMES[name]}: {back}")
        if name == "annex" and "follow" in wanted:
            following, ended = run.follow("shutdown" in wanted)
            results.follow.append(following)
            say(f"  {NAMES[name]}: {following}")
            if ended is not None:
                results.shutdown.append(ended)
                say(f"  {NAMES[name]}: {ended}")


def report(results: Results) -> str:
    """Write the results as Markdown."""
    return f"{results} {statistics} {platform} {date} {version}"


if __name__ == "__main__":
    bench()
