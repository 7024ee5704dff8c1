"""The head of an answer: the same bytes as uvicorn's own, and what uvicorn refuses is refused."""

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.http.cycles import Cycle

LENGTH = (b"content-length", b"2")
HEADS = {
    "usual": [(b"content-type", b"application/json"), LENGTH, (b"x-request-id", b"a\tb")],
    "chunked": [(b"content-type", b"text/event-stream")],
    "said to be chunked": [(b"transfer-encoding", b"chunked")],
    "closing": [LENGTH, (b"connection", b"close")],
    "twice": [LENGTH, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
    "upper case": [(b"Content-Length", b"2"), (b"ETag", b'"1"')],
    "mixed": [LENGTH, (b"Connection", b"close")],
}
REFUSED = {
    "line feed": [LENGTH, (b"link", b"a\r\nset-cookie: b")],
    "in the first of two": [LENGTH, (b"link", b"a\nb"), (b"link", b"c")],
    "name": [LENGTH, (b"a b", b"c")],
    "NUL": [LENGTH, (b"link", b"\0")],
}


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True


async def sent(
    kind: type[RequestResponseCycle],
    headers: Any,
    *,
    method: str = "GET",
    version: str = "1.1",
    keep_alive: bool = True,
    access_log: bool = False,
) -> tuple[bytes, bool, bool, int]:
    """Send a head and a body; returns the bytes, and how the cycle ended."""
    transport: Any = Transport()
    scope: Any = {"type": "http", "method": method, "http_version": version}
    scope |= {"client": None, "path": "/", "query_string": b""}
    cycle = kind(
        scope=scope,
        transport=transport,
        flow=FlowControl(transport),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=access_log,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    await cycle.send({"type": "http.response.start", "status": 200, "headers": headers})
    await cycle.send({"type": "http.response.body", "body": b"{}", "more_body": False})
    return transport.written, transport.is_closed, cycle.keep_alive, cycle.expected_content_length


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("head", HEADS)
async def test_a_head_is_what_uvicorn_writes(head: str, method: str, keep_alive: bool) -> None:
    options: Any = {"method": method, "keep_alive": keep_alive}
    ours = await sent(Cycle, HEADS[head], **options)
    assert ours == await sent(RequestResponseCycle, HEADS[head], **options)
    assert ours[0].startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("head", REFUSED)
async def test_a_header_that_could_end_its_line_is_refused(head: str) -> None:
    with pytest.raises(RuntimeError, match="Invalid HTTP header"):
        await sent(Cycle, REFUSED[head])


async def test_an_answer_is_logged_if_uvicorn_is_to_log_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for is_logged in (False, True):
        await sent(Cycle, HEADS["usual"], access_log=is_logged)
        assert len(caplog.records) == is_logged
