"""A body has a rate, and its framing a size; a connection has few requests in line."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from app.http.protocol import MAX_PIPELINED
from app.principals import Principal
from tests.bounds.test_protocol import GET, answer, ask, connect
from tests.conftest import Callers, Running, TestDatabase, new_tenant, running

EVENT = b'{"type": "x"}'


class Sending(NamedTuple):
    """A server, and the head of a request with which its tenant publishes."""

    live: Running
    head: bytes

    @property
    def refused(self) -> dict[str, int]:
        """What the protocol refused."""
        return dict(self.live.app.connections.refused)

    def announced(self, length: int) -> bytes:
        return self.head + b"Content-Length: %d\r\n\r\n" % length

    @property
    def chunked(self) -> bytes:
        return self.head + b"Transfer-Encoding: chunked\r\n\r\n"


@contextlib.asynccontextmanager
async def sending(database: TestDatabase, **others: Any) -> AsyncIterator[Sending]:
    async with running(database, **others) as live:
        callers = Callers(live)
        tenant = await new_tenant(callers)
        token = tenant.owner.client.headers["authorization"]
        head = (
            f"POST {tenant.path}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n"
        )
        yield Sending(live, head.encode())
        await callers.close()


@pytest.mark.parametrize("rate", [1000, 20])
async def test_a_body_that_is_slower_than_its_rate_is_refused_long_before_its_deadline(
    rate: int, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.http.protocol.GRACE_SECONDS", 0.2)
    async with sending(database, body_seconds=60, body_bytes_per_second=rate) as it:
        # Some 200 bytes a second, on a machine that is not busy.
        body = EVENT.ljust(200)
        reader, writer = await connect(it.live)
        writer.write(it.announced(200))
        answered = asyncio.create_task(answer(reader, 60))
        for n in range(0, 200, 10):
            if answered.done():
                break
            writer.write(body[n : n + 10])
            await asyncio.sleep(0.05)
        status, problem = await answered
        writer.close()
        if rate == 1000:
            assert (status, problem["code"]) == (408, "request_timeout")
            assert problem["detail"] == "Send the body at 1000 bytes a second or more."
            assert it.refused == {"request_timeout": 1}
        else:
            assert (status, it.refused) == (201, {})


@pytest.mark.parametrize(
    "framing",
    [
        b"1;x=" + b"a" * 1000 + b"\r\n \r\n",  # an extension for each byte
        b"0\r\n" + b"x: " + b"a" * 100_000,  # a trailer without an end
        b"0\r\n" + b"x: a\r\n" * 8000,  # or as many
    ],
)
async def test_framing_that_is_larger_than_its_body_is_refused(
    framing: bytes, database: TestDatabase
) -> None:
    async with sending(database, max_header_bytes=8192, body_seconds=60) as it:
        count = 100 if framing.startswith(b"1") else 1
        status, _ = await ask(it.live, it.chunked, *[framing] * count)
        # No answer is begun, as the application has the request already.
        assert (status, it.refused) == (0, {"invalid_request": 1})
        # Chunks of one byte are slow, and otherwise all right.
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in EVENT.ljust(5000))
        status, _ = await ask(it.live, it.chunked + chunks + b"0\r\nx: a\r\n\r\n")
        assert status == 201


@pytest.mark.parametrize("more", [0, 1])
async def test_so_many_requests_wait_in_line_on_one_connection(
    more: int, database: TestDatabase
) -> None:
    async with running(database) as live:
        reader, writer = await connect(live)
        count = 1 + MAX_PIPELINED + more
        writer.write((GET + b"\r\n") * (count - 1) + GET + b"Connection: close\r\n\r\n")
        raw = b""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                raw = await reader.read()
        writer.close()
        expected = (0, {"invalid_request": 1}) if more else (count, {})
        assert (raw.count(b"HTTP/1.1 200"), dict(live.app.connections.refused)) == expected


@pytest.mark.parametrize("is_expected", [True, False])
async def test_time_in_which_the_server_does_not_read_is_not_the_clients(
    is_expected: bool, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.http.protocol.GRACE_SECONDS", 1.0)
    async with sending(database, body_seconds=2.4) as it:
        tokens = it.live.app.runtime.tokens
        verify = tokens.verify

        async def slowly(token: str, digest: bytes) -> Principal:
            await asyncio.sleep(2.5)
            return await verify(token, digest)

        monkeypatch.setattr(tokens, "verify", slowly)
        body = EVENT.ljust(300_000)
        reader, writer = await connect(it.live)
        if is_expected:
            head = it.announced(len(body)).replace(b"Host:", b"Expect: 100-continue\r\nHost:")
            writer.write(head)
            async with asyncio.timeout(20):
                assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
            # The rate is checked meanwhile, a second after the last time.
            await asyncio.sleep(0.6)
            writer.write(body)
        else:
            writer.write(it.announced(len(body)) + body)
        status, problem = await answer(reader, 20)
        writer.close()
        assert (status, it.refused) == (201, {}), problem
