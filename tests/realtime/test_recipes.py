"""The recipes of docs/realtime.md, taken out of it and run as they stand there."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route
from playwright.async_api import TimeoutError as NotInTime

from tests.conftest import ROOT, Callers, Tenant, TestDatabase, running
from tests.guides.blocks import blocks
from tests.realtime.reader import calling, elsewhere, new_tenant, number, until

RECIPES = {
    block.name: block.code
    for block in blocks("docs/realtime.md", (ROOT / "docs" / "realtime.md").read_text())
    if block.name is not None
}
STARTS = {
    "follow.js": """([api, workspace, token]) => import("/follow.js").then(({ follow }) => {
      window.stop = follow({ api, workspace, accessToken: async () => token, ...into });
    })""",
    "tab.js": """([api, workspace, token]) => import("/tab.js").then(({ followShared }) => {
      followShared({ api, workspace, user: "me", accessToken: async () => token, ...into });
    })""",
    "follow-fetch.js": """([api, workspace, token]) => import("/follow-fetch.js").then(
      ({ follow }) => {
        const url = `${api}/api/v1/workspaces/${workspace}/stream`;
        const onMessage = ({ name, data }) => {
          if (name === "message") into.onEvent(JSON.parse(data));
          else if (got.length === 0) into.onList([]);
        };
        follow({ url, accessToken: async () => token, onMessage })
          .catch((error) => into.onRefused(JSON.parse(error.message)));
      })""",
}
PROGRAMS = {"follow.py", "follow.sh"}
PAGE = """<!doctype html><title>A page of the customer's</title><script>
  let got = [];
  const into = {
    onList: (list) => { got = ["list", ...list.reverse().map((e) => e.data.n).filter(Boolean)]; },
    onEvent: (event) => { if (event.data.n) got.push(event.data.n); },
    onRefused: (problem) => got.push(problem.code),
  };
</script>"""


def test_every_recipe_of_the_document_is_tried_here() -> None:
    assert RECIPES.keys() == {*STARTS, *PROGRAMS, "stream-worker.js", "print.mjs"}


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """Serve a page and the recipes' scripts from an origin of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).decode()
        name = line.split()[1].lstrip("/")
        kind = "text/javascript" if name else "text/html"
        content = (RECIPES.get(name, "") if name else PAGE).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b; charset=utf-8\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (kind.encode(), len(content), content)
        )
        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as serving:
        yield f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}"


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser of its own, whose tabs share their workers."""
    context = await browser.new_context()
    yield context
    await context.close()


async def got(page: Page, *expected: str) -> None:
    """Wait until the page has that many, which have to be these."""
    with contextlib.suppress(NotInTime):
        await page.wait_for_function(
            "count => got.length >= count", arg=len(expected), timeout=20_000
        )
    assert await page.evaluate("got") == list(expected)


async def delete_workspace(database: TestDatabase, tenant: Tenant) -> None:
    """Delete a workspace, as an operator would in SQL."""
    async with database.connect("postgres") as sql:
        await sql.execute(
            "update annex.workspaces set deleted_at = now() where id = $1", UUID(tenant.id)
        )


async def publish_in_sql(database: TestDatabase, tenant: Tenant, name: str) -> None:
    """Publish while no server runs."""
    async with database.connect("postgres") as sql:
        await sql.execute(
            "select annex.publish($1, 'test.made', jsonb_build_object('n', $2::text))",
            UUID(tenant.id),
            name,
        )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("recipe", sorted(STARTS))
async def test_a_recipe_for_browsers_gets_every_event_once(
    own_database: TestDatabase,
    context: BrowserContext,
    origin: str,
    recipe: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.realtime.streams.RETRY_MS", (100, 200))
    tabs = [await context.new_page() for _ in range(2 if recipe == "tab.js" else 1)]
    async with running(own_database, cors_origins=[origin]) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        was_before = [] if recipe == "follow-fetch.js" else ["0"]
        await number(tenant, "0")
        await server.app.runtime.tail.catch_up()
        for tab in tabs:
            await tab.goto(origin)
            await tab.evaluate(STARTS[recipe], [server.url, tenant.slug, token])
            await got(tab, "list", *was_before)
        await number(tenant, "1", "2")
        for tab in tabs:
            await got(tab, "list", *was_before, "1", "2")
        assert server.app.runtime.hub.counts.connections == 1
    await publish_in_sql(own_database, tenant, "3")
    port = int(server.url.rpartition(":")[2])
    async with (
        running(own_database, port, cors_origins=[origin]) as server,
        calling(server) as callers,
    ):
        for tab in tabs:
            await got(tab, "list", *was_before, "1", "2", "3")
        await number(elsewhere(tenant, callers), "4")
        for tab in tabs:
            await got(tab, "list", *was_before, "1", "2", "3", "4")
        await delete_workspace(own_database, tenant)
        for tab in tabs:
            await got(tab, "list", *was_before, "1", "2", "3", "4", "not_found")


async def test_the_browsers_recipe_makes_a_new_ticket_when_the_old_one_is_over(
    own_database: TestDatabase,
    context: BrowserContext,
    origin: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.realtime.streams.RETRY_MS", (100, 200))
    monkeypatch.setattr("app.auth.tickets.MAX_SECONDS", 4)
    monkeypatch.setattr("app.realtime.streams.LIFETIME_SECONDS", 3)
    async with running(own_database, cors_origins=[origin]) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        key = await callers.key(tenant.id, "events:read")
        token = key.client.headers["authorization"].removeprefix("Bearer ")
        page = await context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(origin)
        await page.evaluate(STARTS["follow.js"], [server.url, tenant.slug, token])
        await got(page, "list")
        # Streams end, and so does the ticket: the browser cannot reconnect with it.
        async with asyncio.timeout(30):
            while sum(url.endswith("/tickets") for url in asked) < 2:
                await asyncio.sleep(0.1)
        await number(tenant, "1")
        await got(page, "list", "1")


async def test_the_browsers_recipe_loads_the_list_again_after_a_reset(
    own_database: TestDatabase, context: BrowserContext, origin: str
) -> None:
    async with running(own_database, cors_origins=[origin]) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        page = await context.new_page()
        await page.goto(origin)
        await page.evaluate(STARTS["follow.js"], [server.url, tenant.slug, token])
        await got(page, "list")
        await number(tenant, "1")
        await got(page, "list", "1")
        await page.evaluate("got = []")
        hub = server.app.runtime.hub
        hub.restart(hub.epoch + 1, hub.head, hub.retained_from)
        await got(page, "list", "1")


async def test_the_browsers_recipe_misses_nothing_between_the_list_and_the_stream(
    own_database: TestDatabase, context: BrowserContext, origin: str
) -> None:
    async with running(own_database, cors_origins=[origin]) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        page = await context.new_page()
        asked = 0

        async def give() -> str:
            nonlocal asked
            asked += 1
            if asked == 2:  # the list has been read, the ticket has not been made
                await number(tenant, "between")
                await server.app.runtime.tail.catch_up()
            return token

        await page.expose_function("give", give)
        await page.goto(origin)
        start = STARTS["follow.js"].replace("async () => token", "give")
        await page.evaluate(start, [server.url, tenant.slug, token])
        await got(page, "list", "between")


async def test_the_browsers_recipe_hands_an_event_of_both_list_and_stream_over_once(
    own_database: TestDatabase, context: BrowserContext, origin: str
) -> None:
    async with running(own_database, cors_origins=[origin]) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        client = tenant.owner.client
        cursor = (await client.get(f"{tenant.path}/events")).json()["stream_cursor"]
        await number(tenant, "1")
        await server.app.runtime.tail.catch_up()
        page = await context.new_page()

        async def older(route: Route) -> None:
            """Answer as if the event had come between the cursor's reading and the page's."""
            response = await route.fetch()
            await route.fulfill(
                response=response, json={**await response.json(), "stream_cursor": cursor}
            )

        await page.route("**/events?*", older)
        await page.goto(origin)
        token = client.headers["authorization"].removeprefix("Bearer ")
        await page.evaluate(STARTS["follow.js"], [server.url, tenant.slug, token])
        await got(page, "list", "1")
        await number(tenant, "2")
        await got(page, "list", "1", "2")


@contextlib.asynccontextmanager
async def process(folder: Path, *command: str, env: dict[str, str]) -> AsyncIterator[list[str]]:
    """Run a program in a folder; yields its lines as they come."""
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # a shell's children end with it
    )
    lines: list[str] = []

    async def collect() -> None:
        assert running.stdout is not None
        async for line in running.stdout:
            lines.append(line.decode().strip())

    collecting = asyncio.create_task(collect())
    try:
        yield lines
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        await running.wait()
        await collecting


async def names(lines: list[str], *expected: str) -> None:
    """Wait until that many events were printed, which have to be these."""

    def found() -> list[str]:
        printed = [json.loads(line) for line in lines if line.startswith("{")]
        return [event["data"]["n"] for event in printed if "n" in event.get("data", {})]

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while len(found()) < len(expected):
                await asyncio.sleep(0.05)
    assert found() == list(expected), lines


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("recipe", "program"),
    [
        ("follow.py", sys.executable),
        pytest.param(
            "follow.sh",
            "sh",
            marks=pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
        ),
    ],
)
async def test_a_recipe_for_programs_gets_every_event_once(
    own_database: TestDatabase,
    tmp_path: Path,
    recipe: str,
    program: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.realtime.streams.RETRY_MS", (100, 200))
    (tmp_path / recipe).write_text(RECIPES[recipe])
    async with running(own_database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        key = await callers.key(tenant.id, "events:read")
        env = {
            "ANNEX_URL": server.url,
            "ANNEX_WORKSPACE": tenant.slug,
            "ANNEX_KEY": key.client.headers["authorization"].removeprefix("Bearer "),
        }
        hub, cursor = server.app.runtime.hub, tmp_path / f"{recipe}.cursor"
        async with process(tmp_path, program, recipe, env=env) as lines:
            # An admitted stream does not stand in the log yet; one that waits does.
            await until(lambda: bool(hub.waiting()), 20)
            await number(tenant, "1", "2")
            await names(lines, "1", "2")
            await until(
                lambda: hub.cursors.read(UUID(tenant.id), cursor.read_text())
                == (hub.epoch, hub.head)
            )
        # What comes while nobody listens waits for the cursor that was kept.
        await number(tenant, "3")
        async with process(tmp_path, program, recipe, env=env) as lines:
            await names(lines, "3")
            await until(
                lambda: hub.cursors.read(UUID(tenant.id), cursor.read_text())
                == (hub.epoch, hub.head)
            )
            await server.app.runtime.tail.catch_up()
            port = int(server.url.rpartition(":")[2])
            hub.close()
    async with process(tmp_path, program, recipe, env=env) as lines:
        await publish_in_sql(own_database, tenant, "4")
        async with running(own_database, port) as server, calling(server) as callers:
            await names(lines, "4")
            await number(elsewhere(tenant, callers), "5")
            await names(lines, "4", "5")


NODE = """import { follow } from "./follow-fetch.js";
const { ANNEX_URL, ANNEX_WORKSPACE, ANNEX_KEY } = process.env;
const url = `${ANNEX_URL}/api/v1/workspaces/${ANNEX_WORKSPACE}/stream`;
const onMessage = ({ name, data }) => { if (name === "message") ON_EVENT; };
await follow({ url, accessToken: async () => ANNEX_KEY, onMessage });
"""
PRINTING = NODE.replace("ON_EVENT", "console.log(data)")
FOLLOWERS = {
    "follow.py": (sys.executable, "follow.py"),
    "follow.sh": ("sh", "follow.sh"),
    "follow-fetch.js": ("node", "run.mjs"),
}


def written(folder: Path, recipe: str, caller: str = PRINTING) -> tuple[str, ...]:
    """Write a recipe for programs into a folder, dead after 2 s of silence; returns its command."""
    command = FOLLOWERS[recipe]
    if shutil.which(command[0]) is None or shutil.which("curl") is None:
        pytest.skip(f"{command[0]} or curl is not installed")
    short = RECIPES[recipe].replace("45_000", "2_000").replace("read=45", "read=2")
    (folder / recipe).write_text(short.replace("--speed-time 45", "--speed-time 2"))
    (folder / "run.mjs").write_text(caller)
    (folder / "package.json").write_text('{"type": "module"}')
    return command


@pytest.mark.timeout(120)
@pytest.mark.parametrize("recipe", sorted(FOLLOWERS))
async def test_a_recipe_ends_when_its_key_is_refused(
    tenant: Tenant, tmp_path: Path, recipe: str
) -> None:
    client = tenant.owner.client
    env = {
        "ANNEX_URL": str(client.base_url).rstrip("/"),
        "ANNEX_WORKSPACE": tenant.slug,
        "ANNEX_KEY": "nonsense",
    }
    async with ended(tmp_path, *written(tmp_path, recipe), env=env) as (code, said):
        assert code != 0
        assert "invalid_token" in said


@contextlib.asynccontextmanager
async def ended(
    folder: Path, *command: str, env: dict[str, str]
) -> AsyncIterator[tuple[int | None, str]]:
    """Run a program to its end, which has to come; yields its code and what it said."""
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(30):
            said = (await running.communicate())[0].decode()
        yield running.returncode, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.timeout(120)
async def test_a_fault_of_the_callers_own_ends_follow_fetch(
    callers: Callers, tenant: Tenant, tmp_path: Path
) -> None:
    key = await callers.key(tenant.id, "events:read")
    client = tenant.owner.client
    env = {
        "ANNEX_URL": str(client.base_url).rstrip("/"),
        "ANNEX_WORKSPACE": tenant.slug,
        "ANNEX_KEY": key.client.headers["authorization"].removeprefix("Bearer "),
    }
    command = written(tmp_path, "follow-fetch.js", NODE.replace("ON_EVENT", "data.none.name"))

    async def publishing() -> None:
        while True:
            await number(tenant, "1")
            await asyncio.sleep(0.2)

    task = asyncio.create_task(publishing())
    try:
        async with ended(tmp_path, *command, env=env) as (code, said):
            assert code == 1
            assert "TypeError" in said
    finally:
        task.cancel()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("recipe", sorted(FOLLOWERS))
async def test_a_recipe_leaves_a_connection_that_is_silent(tmp_path: Path, recipe: str) -> None:
    """A server that sends one message and nothing more, as behind a cable that was cut."""
    given: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        given.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            b'retry: 100\nid: place-1\ndata: {"data": {"n": "1"}}\n\n'
        )
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as serving:
        url = f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}"
        env = {"ANNEX_URL": url, "ANNEX_WORKSPACE": "acme", "ANNEX_KEY": "k"}
        async with process(tmp_path, *written(tmp_path, recipe), env=env):
            await until(lambda: len(given) > 1, 30)
    assert "last-event-id: place-1" in given[1]
