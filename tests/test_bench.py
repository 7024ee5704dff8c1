"""The benches: their peers do the same work, and their load generator sees what is wrong."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import click
import pytest

from app.dev.demo import demo_settings
from app.http.protocol import Protocol
from app.main import create_app
from app.realtime.messages import chunk
from app.server import configure
from tests.bench.realtime import measures
from tests.bench.realtime.clients import Clients, Counts, build, connecting
from tests.bench.servers import config_of
from tests.conftest import ROOT, SECRETS

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GREETING = chunk(b"retry: 1\n")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
END = b""
"""Close the connection."""


def event(n: int, age_ms: int = 0) -> bytes:
    """Write a chunk with the nth event, as if it had been published so long ago."""
    published_at = time.monotonic_ns() - age_ms * 1_000_000
    message = b'id: c%d\ndata: {"data":{"n":%d,"t":%d}}\n\n' % (n, n, published_at)
    return chunk(message)


def events(*numbers: int) -> list[bytes]:
    return [HEAD, GREETING, *map(event, numbers)]


class Scripted:
    """A server that answers each connection with the next script, piece after piece."""

    def __init__(self, scripts: Sequence[Sequence[bytes]]) -> None:
        self.scripts = iter(scripts)
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in next(self.scripts):
                if piece == END:
                    break
                writer.write(piece)
                await writer.drain()
            else:
                await reader.read()
        writer.close()


class Driven:
    """A load generator before a scripted server; it blocks, and so is asked in a thread."""

    def __init__(self, clients: Clients, server: Scripted, port: int) -> None:
        self.clients, self.server, self.port = clients, server, port

    async def open(self, count: int = 0) -> int:
        """Connect all, and wait for so many events each; returns how many tries were refused."""
        return (await asyncio.to_thread(self.clients.open, self.port, 64, count)).refused

    async def arrived(self, count: int) -> None:
        """Wait until so much was seen over all connections: events, garbage and ends."""
        async with asyncio.timeout(20):
            while True:
                seen = await asyncio.to_thread(self.clients.stat)
                if seen.sum + seen.malformed + seen.lost >= count:
                    return
                await asyncio.sleep(0.01)

    async def settle(self, count: int) -> Counts:
        return await asyncio.to_thread(measures.settle, self.clients, count)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the load generator."""
    if shutil.which("cc") is None:
        pytest.skip("written in C: install gcc")
    return build(tmp_path_factory.mktemp("bench"))


@contextlib.asynccontextmanager
async def driven(
    program: Path, *scripts: Sequence[bytes], connections: int = 1
) -> AsyncIterator[Driven]:
    """Run both, with a script for each connection that will be made."""
    server = Scripted(scripts)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    requests = [b"GET /%d HTTP/1.1\r\nHost: annex\r\n\r\n" % n for n in range(connections)]
    try:
        with connecting(program, program.parent, requests) as clients:
            yield Driven(clients, server, port)
    finally:
        listening.close()


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_what_arrives_is_counted_however_it_is_cut(program: Path, size: int) -> None:
    whole = b"".join(events(0, 1, 2))
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    async with driven(program, pieces, pieces, connections=2) as it:
        await it.open(3)
        counts = await it.settle(3)
        assert (counts.live, counts.events, counts.sum, counts.lost) == (2, 6, 6, 0)
        assert counts.bytes == 2 * len(whole)
        assert it.clients.delivered == 6


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param(events(0, 1), "2 to 2, 0 not in order", id="last missing"),
        pytest.param(events(1, 2), "2 to 2, 1 not in order", id="first missing"),
        pytest.param(events(0, 1, 3), "3 to 3, 1 not in order", id="one missing"),
        pytest.param(events(0, 2, 1), "3 to 3, 2 not in order", id="swapped"),
        pytest.param(events(0, 1, 1, 2), "4 to 4, 1 not in order", id="twice"),
        pytest.param(events(0, 1, 2, 3), "4 to 4, 0 not in order", id="one too many"),
        pytest.param([*events(0, 1, 2), b'data: {"n":3}\n\n'], "1 unreadable", id="unreadable"),
        pytest.param([*events(0, 1), END], "1 streams were cut off", id="cut off"),
    ],
)
async def test_a_fault_of_the_server_ends_the_bench_and_is_said(
    program: Path, monkeypatch: pytest.MonkeyPatch, script: list[bytes], said: str
) -> None:
    monkeypatch.setattr(measures, "DRAIN_SECONDS", 0.2)
    async with driven(program, script) as it:
        await it.open()
        await it.arrived(len(script) - len(events()))
        with pytest.raises(click.ClickException, match=said):
            await it.settle(3)


async def test_a_fault_of_one_connection_among_many_is_seen(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "DRAIN_SECONDS", 0.2)
    scripts = [*[events(0, 1, 2)] * 30, events(0, 2)]
    async with driven(program, *scripts, connections=31) as it:
        await it.open()
        await it.arrived(30 * 3 + 2)
        with pytest.raises(click.ClickException, match="had 2 to 3, 1 not in order"):
            await it.settle(3)


async def test_latencies_are_those_since_the_mark(program: Path) -> None:
    async with driven(program, [HEAD, *(event(n, age_ms=5000) for n in range(3))]) as it:
        await it.open(3)
        counts = await it.settle(3)
        for found in (counts.p50_ms, counts.p99_ms, counts.max_ms):
            assert 5000 * 0.99 <= found < 20_000
        it.clients.mark()
        counts = it.clients.stat()
        assert (counts.events, counts.max_ms, counts.sum) == (0, 0, 3)


async def test_who_was_refused_comes_again_and_who_was_cut_resumes(program: Path) -> None:
    async with driven(program, [BUSY, END], events(0, 1), events(2)) as it:
        assert await it.open(2) == 1
        await it.settle(2)
        it.clients.kill()
        assert await it.open(3) == 0
        counts = await it.settle(3)
        assert (counts.live, counts.lost) == (1, 0)
        resumed = ["Last-Event-ID: c1\r\n" in request.decode() for request in it.server.requests]
        assert resumed == [False, False, True]


def test_make_bench_serves_annex_as_annex_serve_does() -> None:
    settings = demo_settings(SECRETS, "postgresql://a@b/c", "postgresql://a@b/c")
    app = create_app(settings)
    measured, shipped = (vars(made(app, settings)) for made in (config_of, configure))
    # Of each application, a class of its own.
    assert issubclass(measured.pop("http"), Protocol)
    assert issubclass(shipped.pop("http"), Protocol)
    assert measured == shipped


@pytest.mark.timeout(180)
def test_the_peers_of_make_bench_answer_as_annex_does() -> None:
    """Compares all reads before it measures one."""
    asked = "--rounds 1 --seconds 0.1 --connections 2 --events 2000 --published 0 --no-growth"
    found = subprocess.run(
        [sys.executable, "-m", "tests.bench", *asked.split(), "--only", "workspace"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "| one workspace | Litestar + raw asyncpg |" in found.stdout
