"""Both kinds of readers in a real browser, on a page of another origin."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from playwright.async_api import Browser, Page
from playwright.async_api import TimeoutError as NotInTime

from tests.conftest import TestDatabase, running
from tests.realtime.reader import calling, elsewhere, new_tenant, number

PAGE = (Path(__file__).parent / "page.html").read_bytes()


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """Serve the page from an origin of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(PAGE), PAGE)
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as serving:
        yield f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}"


@pytest.fixture
async def page(browser: Browser, origin: str) -> AsyncIterator[Page]:
    """Open the page."""
    page = await browser.new_page()
    await page.goto(origin)
    yield page
    await page.close()


async def got(page: Page, reader: str, *expected: str) -> None:
    """Wait until a reader has that many messages, which have to be these."""
    with contextlib.suppress(NotInTime):
        await page.wait_for_function(
            "([reader, count]) => got[reader].length >= count",
            arg=[reader, len(expected)],
            timeout=10_000,
        )
    assert await page.evaluate("reader => got[reader]", reader) == list(expected)


async def test_a_browser_resumes_without_loss_when_its_server_comes_back(
    own_database: TestDatabase, page: Page, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.auth.tickets.CONNECT_SECONDS", 2)
    monkeypatch.setattr("app.realtime.streams.RETRY_MS", (100, 200))
    monkeypatch.setattr("app.realtime.hub.HEARTBEAT_SECONDS", 60)
    async with running(own_database, cors_origins=[origin]) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        path, port = f"{tenant.path}/stream", int(server.url.rpartition(":")[2])
        await page.evaluate("a => openSource(...a)", [server.url, path, token])
        await page.evaluate("a => void openFetch(...a)", [server.url, path, token])
        for reader in ("source", "fetched"):
            await got(page, reader, "cursor")
        await number(tenant, "1", "2")
        for reader in ("source", "fetched"):
            await got(page, reader, "cursor", "1", "2")
        await asyncio.sleep(2)
    async with own_database.connect("postgres") as sql:
        await sql.execute(
            "select annex.publish($1, 'test.made', '{\"n\": \"3\"}')", UUID(tenant.id)
        )
    async with (
        running(own_database, port, cors_origins=[origin]) as server,
        calling(server) as callers,
    ):
        for reader in ("source", "fetched"):
            await got(page, reader, "cursor", "1", "2", "cursor", "3")
        await number(elsewhere(tenant, callers), "4")
        for reader in ("source", "fetched"):
            await got(page, reader, "cursor", "1", "2", "cursor", "3", "4")
        # The ticket's first minute is over: it served the reconnect, and serves nobody new.
        await page.evaluate(
            "api => { got.late = []; listen(api + tickets[0].url, got.late); }", server.url
        )
        await got(page, "late", "invalid_ticket")


async def test_a_page_of_an_origin_that_is_not_allowed_reads_nothing(
    own_database: TestDatabase, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a server for development allows any page of this machine.
    monkeypatch.setattr("app.main.LOCALHOST", None)
    async with running(own_database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        refused = await page.evaluate(
            "([url, token]) => fetch(url, {headers: {Authorization: `Bearer ${token}`}})"
            ".then(() => '', error => error.name)",
            [f"{server.url}{tenant.path}/stream", token],
        )
    assert refused == "TypeError"
