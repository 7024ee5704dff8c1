"""What one client may send and hold, tried from a raw socket beside a client that behaves."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.conftest import Callers, Running, TestDatabase, new_tenant, running
from tests.realtime.reader import lent

LIMITS: dict[str, Any] = {
    "header_seconds": 0.5,
    "body_seconds": 2,
    "keep_alive_seconds": 2,
    "max_header_bytes": 65_536,
}
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
async def limited(database: TestDatabase) -> AsyncIterator[Running]:
    """A server with short deadlines."""
    async with running(database, **LIMITS) as live:
        yield live


async def connect(live: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = live.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=2**20)


async def answer(reader: asyncio.StreamReader, seconds: float = 10) -> tuple[int, Any]:
    """Read one answer to the end of the connection; (0, None) when there is none."""
    raw = b""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(2**20):
                raw += chunk
    if not raw:
        return 0, None
    head, _, body = raw.partition(b"\r\n\r\n")
    problem = msgspec.json.decode(body) if b"problem+json" in head else body
    return int(head.split()[1]), problem


async def ask(live: Running, *parts: bytes, pause: float = 0) -> tuple[int, Any]:
    """Send the parts, with pauses between them, and read the answer."""
    reader, writer = await connect(live)
    try:
        for part in parts:
            with contextlib.suppress(ConnectionError):
                writer.write(part)
                await writer.drain()
            if pause:
                await asyncio.sleep(pause)
        return await answer(reader)
    finally:
        writer.close()


def filled(count: int) -> bytes:
    """A request whose head has that many bytes, as they are counted: target, names, values."""
    name = b"x-filler"
    used = len(b"/health") + len(b"Host") + 1 + 4 + len(b"Connection") + 5 + 4
    value = b"a" * (count - used - len(name) - 4)
    return GET + b"Connection: close\r\n" + name + b": " + value + b"\r\n\r\n"


async def test_headers_up_to_the_limit_are_taken(limited: Running) -> None:
    # The request line and its white space are in the limit of the bytes received.
    assert (await ask(limited, filled(60_000)))[0] == 200


async def test_larger_headers_are_refused(limited: Running) -> None:
    status, problem = await ask(limited, filled(65_537))
    assert (status, problem["code"]) == (431, "headers_too_large")


async def test_a_header_line_without_an_end_is_refused(limited: Running) -> None:
    status, problem = await ask(limited, GET + b"x: ", *[b"a" * 16_384] * 8)
    assert (status, problem["code"]) == (431, "headers_too_large")


async def test_too_many_headers_are_refused(limited: Running) -> None:
    status, problem = await ask(limited, GET + b"a: b\r\n" * 200 + b"\r\n")
    assert (status, problem["code"]) == (431, "headers_too_large")


async def test_late_headers_are_refused(limited: Running) -> None:
    status, problem = await ask(limited, GET, b"a: b\r\n", pause=0.4)
    assert (status, problem["code"]) == (408, "request_timeout")


async def test_a_client_that_sends_nothing_is_closed(limited: Running) -> None:
    assert await ask(limited) == (0, None)


async def test_an_idle_connection_is_closed_and_an_active_one_kept(limited: Running) -> None:
    reader, writer = await connect(limited)
    for _ in range(4):
        writer.write(GET + b"\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.6)
    async with asyncio.timeout(10):
        while await reader.read(1000):
            pass
    writer.close()


async def test_a_body_that_dribbles_is_refused_and_holds_nothing(limited: Running) -> None:
    callers = Callers(limited)
    tenant = await new_tenant(callers)
    token = tenant.owner.client.headers["authorization"].encode()
    head = (
        b"POST " + tenant.path.encode() + b"/events HTTP/1.1\r\nHost: x\r\nAuthorization: " + token
    ) + b"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    attacks = [
        asyncio.create_task(ask(limited, head + b"{", *[b" "] * 9, pause=0.25)) for _ in range(20)
    ]
    await asyncio.sleep(0.3)
    pool = limited.app.runtime.database.api
    for _ in range(10):
        assert (await tenant.owner.client.get(f"{tenant.path}/events")).status_code == 200
        assert lent(pool) == 0
    for status, problem in await asyncio.gather(*attacks):
        assert (status, problem["code"]) == (408, "request_timeout")
    await callers.close()


async def test_what_is_not_http_is_a_problem(limited: Running) -> None:
    for sent in (
        b"\x16\x03\x01garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        status, problem = await ask(limited, sent)
        assert (status, problem["code"]) == (400, "invalid_request")


CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("coding", "expected"),
    [
        (b"chunked", 401),
        (b"Chunked ", 401),
        *((coding, 400) for coding in (b"xchunked", b"chunkedx", b"identity", b"gzip", b"", b",")),
        *((coding, 400) for coding in (b"gzip, chunked", b"chunked, gzip", b"chunked, chunked")),
    ],
)
async def test_a_transfer_coding_other_than_chunked_is_refused_at_once(
    limited: Running, coding: bytes, expected: int
) -> None:
    head = b"POST /api/v1/workspaces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Connection: close\r\nTransfer-Encoding: " + coding + b"\r\n\r\n"
    reader, writer = await connect(limited)
    writer.write(head + CHUNKS)
    # Earlier than any deadline of a body.
    status, problem = await answer(reader, LIMITS["body_seconds"] - 0.5)
    writer.close()
    assert (status, problem["status"]) == (expected, expected)


async def test_answers_that_a_client_does_not_read_are_bounded(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 12 * 2**20
    monkeypatch.setattr("app.http.unread.MAX_UNREAD_BYTES", bound)
    async with running(database) as live:
        limits = live.app.connections
        get = b"GET /docs/assets/scalar.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        expected = await whole(live, get)
        assert len(expected) > 2**20
        connections = [await stalled(live, get) for _ in range(10)]
        while not limits.refused["unread"]:
            await asyncio.sleep(0.01)
        [held] = limits.unread.values()
        assert sum(each.unread_bytes for each in held.sizes) <= bound
        # The newest goes on where it stood, and nobody else is in its way.
        *_, (reader, _) = connections
        assert (await reader.read()).partition(b"\r\n\r\n")[2] == expected
        assert await whole(live, get) == expected
        for _, writer in connections:
            writer.close()
        while limits.unread:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("rate", "is_cut_off"), [(1_000, False), (2_000_000, True)])
async def test_who_takes_an_answer_more_slowly_than_the_rate_is_cut_off(
    rate: int, is_cut_off: bool, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.http.unread.PACE_SECONDS", 0.5)
    async with running(database, answer_bytes_per_second=rate) as live:
        get = b"GET /docs/assets/scalar.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        expected = await whole(live, get)
        reader, writer = await stalled(live, get)
        taken = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                taken += piece
                await asyncio.sleep(len(piece) / 1_000_000)
        writer.close()
        refused = live.app.connections.refused["unread"]
        assert (taken.endswith(expected), refused) == ((False, 1) if is_cut_off else (True, 0))
        while live.app.connections.unread:
            await asyncio.sleep(0.01)


async def test_who_takes_nothing_is_cut_off(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.http.unread.PACE_SECONDS", 0.2)
    async with running(database) as live:
        get = b"GET /docs/assets/scalar.js HTTP/1.1\r\nHost: x\r\n\r\n"
        _, writer = await stalled(live, get)
        while not live.app.connections.refused["unread"]:
            await asyncio.sleep(0.01)
        while live.app.connections.unread:
            await asyncio.sleep(0.01)
        writer.close()


async def stalled(live: Running, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request, and read no more of the answer than a buffer takes."""
    host, port = live.url.removeprefix("http://").split(":")
    taking = socket.socket()
    taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    taking.setblocking(False)
    await asyncio.get_running_loop().sock_connect(taking, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=taking, limit=4096)
    writer.write(sent)
    await asyncio.sleep(0.02)
    return reader, writer


async def whole(live: Running, sent: bytes) -> bytes:
    """Return an answer's body, read as fast as it comes."""
    reader, writer = await connect(live)
    writer.write(sent)
    raw = await reader.read()
    writer.close()
    return raw.partition(b"\r\n\r\n")[2]


async def test_http_1_0_gets_no_chunks(limited: Running) -> None:
    status, body = await ask(limited, b"GET /openapi.yaml HTTP/1.0\r\n\r\n")
    assert status == 200
    assert body.startswith(b"openapi")


async def test_an_address_has_so_many_connections(database: TestDatabase) -> None:
    async with running(database, **LIMITS, max_connections_per_address=3) as live:
        held = [await connect(live) for _ in range(3)]
        status, problem = await ask(live)
        assert (status, problem["code"]) == (429, "too_many_connections")
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(10):  # until the server has seen them go
            while (await ask(live, GET + b"Connection: close\r\n\r\n"))[0] != 200:
                await asyncio.sleep(0.05)


async def test_a_trusted_proxy_has_more(database: TestDatabase) -> None:
    others: dict[str, Any] = {"max_connections_per_address": 3, "trusted_proxies": ["127.0.0.1"]}
    async with running(database, **LIMITS, **others) as live:
        held = [await connect(live) for _ in range(6)]
        assert (await ask(live, GET + b"Connection: close\r\n\r\n"))[0] == 200
        for _, writer in held:
            writer.close()


async def test_wrong_keys_are_budgeted_and_accepted_ones_go_on(database: TestDatabase) -> None:
    async with running(database, max_failures_per_address=5) as live:
        callers = Callers(live)
        tenant = await new_tenant(callers)
        stranger = callers.client("annex_sk_wrong")
        answers = [await stranger.get("/api/v1/workspaces") for _ in range(8)]
        assert [a.status_code for a in answers] == [401] * 5 + [429] * 3
        assert answers[-1].json()["code"] == "too_many_failures"
        assert int(answers[-1].headers["retry-after"]) > 0
        assert (await tenant.owner.client.get("/api/v1/workspaces")).status_code == 200
        await callers.close()
