"""What is measured of a server, one function each."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
import psutil  # type: ignore[import-untyped]

from tests.bench.processes import cpu_seconds
from tests.bench.realtime.clients import Clients, Counts
from tests.bench.realtime.publish import Http, Plan, Published, Sql

ROOT = Path(__file__).parent.parent.parent.parent
DRAIN_SECONDS = 120.0
"""For what was published to arrive everywhere."""
POLL_SECONDS = 0.02
WARMUP_SECONDS = 2.0
WARMUP_TICKS = 2
RECONNECT_EVENTS = 20
"""Published while all clients are away."""


class Server(msgspec.Struct):
    """A running server, and how to reach it."""

    name: str
    port: int
    process: psutil.Process
    """The one that serves; of nginx the worker."""
    via: Http
    stop: Callable[[], float]
    """Send SIGTERM; returns the seconds until it had ended."""
    log: Path
    """What it said on stderr."""

    @property
    def rss(self) -> int:
        return int(self.process.memory_info().rss)

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds([self.process])


class Saturation(msgspec.Struct):
    """Events as fast as they are delivered."""

    per_second: float
    """Deliveries."""
    p99_ms: float
    """From publish to arrival: how far behind the server then is."""
    cpu_us: float
    """Of the server process, a delivery."""
    events_a_read: float
    bytes_an_event: float
    client_share: float
    """Of one core, taken by the load generator."""


class Broadcast(msgspec.Struct):
    """One event a second to everybody."""

    open_seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float
    """Of the server process, a delivery."""
    rss: int
    """Bytes, with all connections open and in use."""
    rss_a_connection: float


class Following(msgspec.Struct):
    """Many events for few readers each."""

    per_second: float
    """Events, as they were published."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    server_share: float
    """Of one core, by the server; by all of Postgres, and by the publisher."""
    postgres_share: float
    publisher_share: float


class Reconnect(msgspec.Struct):
    """Everybody comes back at once."""

    seconds: float
    """Until each had what it missed."""
    refused: int
    """Tries that were refused or cut off, and made again."""


class Shutdown(msgspec.Struct):
    """SIGTERM with open streams."""

    seconds: float


@contextmanager
def publishing(plan: Plan) -> Iterator[Callable[[float], Published]]:
    """Publish in a process of its own; yields what waits for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.realtime.publish"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )

    def finish(seconds: float) -> Published:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise click.ClickException("The publisher does not end.") from None
        if process.returncode:
            raise click.ClickException("The publisher failed; the lines above say why.")
        return msgspec.json.decode(said, type=Published)

    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(plan))
        process.stdin.close()
        process.stdin = None
        yield finish
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def publish(plan: Plan, seconds: float) -> Published:
    """Publish and wait for the end."""
    with publishing(plan) as finish:
        return finish(seconds + DRAIN_SECONDS)


def settle(clients: Clients, count: int) -> Counts:
    """Wait until each connection has had so many events.

    Ends the bench when one is missing, comes twice or in another order.
    """
    deadline = time.monotonic() + DRAIN_SECONDS
    while (counts := clients.stat()).least < count and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if counts.least != count or counts.most != count or counts.disorder or counts.malformed:
        raise click.ClickException(
            f"{count:,} events were published and connections have had {counts.least:,} to "
            f"{counts.most:,}, {counts.disorder:,} not in order, {counts.malformed:,} unreadable; "
            f"{counts.lost:,} streams were cut off."
        )
    return counts


def warm_up(clients: Clients) -> None:
    """Let events flow for a while, and count from then on."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while not clients.delivered and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    time.sleep(WARMUP_SECONDS / 2)
    clients.mark()


def saturate(
    server: Server, clients: Clients, via: Http | Sql, window: int, seconds: float
) -> Saturation:
    """Keep a window of events under way for a while."""
    clients.open(server.port)
    plan = Plan(
        via,
        window=window,
        readers=clients.count,
        seconds=WARMUP_SECONDS + seconds,
        counter=str(clients.counter),
    )
    with publishing(plan) as finish:
        warm_up(clients)
        cpu = server.cpu_seconds
        time.sleep(seconds)
        counts = clients.stat()
        cpu = server.cpu_seconds - cpu
        published = finish(seconds + DRAIN_SECONDS)
    settle(clients, published.count)
    if not counts.events:
        raise click.ClickException(f"{server.name} delivered nothing.")
    return Saturation(
        counts.events / counts.seconds,
        counts.p99_ms,
        cpu / counts.events * 1e6,
        counts.events / counts.reads,
        counts.bytes / counts.events,
        counts.cpu_seconds / counts.seconds,
    )


def broadcast(server: Server, clients: Clients, ticks: int) -> Broadcast:
    """Publish one event a second to all."""
    before = server.rss
    opened = clients.open(server.port)
    # The first event finds everything cold: on each connection it is the first write.
    publish(Plan(server.via, count=WARMUP_TICKS, per_second=1), WARMUP_TICKS)
    settle(clients, WARMUP_TICKS)
    clients.mark()
    cpu = server.cpu_seconds
    publish(Plan(server.via, count=ticks, per_second=1, first=WARMUP_TICKS), ticks)
    counts = settle(clients, WARMUP_TICKS + ticks)
    cpu = server.cpu_seconds - cpu
    rss = server.rss
    return Broadcast(
        opened.seconds,
        counts.p50_ms,
        counts.p99_ms,
        counts.max_ms,
        cpu / counts.events * 1e6,
        rss,
        (rss - before) / clients.count,
    )


def reconnect(server: Server, clients: Clients, via: Sql) -> Reconnect:
    """Cut all connections, publish while nobody listens, and let all come back at once."""
    had = clients.stat().least
    clients.kill()
    time.sleep(1)
    publish(Plan(via, count=RECONNECT_EVENTS, per_second=200, first=had), 1)
    opened = clients.open(server.port, in_flight=clients.count, count=had + RECONNECT_EVENTS)
    settle(clients, had + RECONNECT_EVENTS)
    # All are live again: one more event reaches everyone.
    publish(Plan(via, count=1, per_second=1, first=had + RECONNECT_EVENTS), 1)
    settle(clients, had + RECONNECT_EVENTS + 1)
    return Reconnect(opened.seconds, opened.refused)


def follow(
    server: Server,
    clients: Clients,
    postmaster: psutil.Process,
    via: Sql,
    per_second: float,
    seconds: float,
) -> Following:
    """Publish to many workspaces whose members each follow their own."""
    clients.open(server.port)
    channels = len(via.workspaces)
    # The first events wait for a tail that polls ten times a second: plain SQL wakes nobody.
    plan = Plan(
        via, count=round(per_second * (WARMUP_SECONDS + seconds) / channels), per_second=per_second
    )
    with publishing(plan) as finish:
        warm_up(clients)
        before = server.cpu_seconds, cpu_seconds(postmaster.children())
        time.sleep(seconds)
        counts = clients.stat()
        served = server.cpu_seconds - before[0]
        stored = cpu_seconds(postmaster.children()) - before[1]
        published = finish(seconds + DRAIN_SECONDS)
    settle(clients, published.count)
    return Following(
        published.count * channels / published.seconds,
        counts.p50_ms,
        counts.p99_ms,
        counts.max_ms,
        served / counts.seconds,
        stored / counts.seconds,
        published.cpu_seconds / published.seconds,
    )


def shut_down(server: Server, clients: Clients) -> Shutdown:
    """Stop the server with all streams open; ends the bench when one is left."""
    seconds = server.stop()
    time.sleep(0.5)
    if "Traceback" in server.log.read_text():
        raise click.ClickException("The server ended with a traceback.")
    if live := clients.stat().live:
        raise click.ClickException(f"{live:,} streams outlived their server.")
    return Shutdown(seconds)
