"""Two clients of the inbox: docs/inbox.md's bell.js, and one that keeps all lists by its rules."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from playwright._impl._driver import compute_driver_executable

from tests.conftest import ROOT
from tests.guides.blocks import blocks
from tests.inbox.conftest import LIST, STREAM
from tests.realtime.reader import follow

# Every machine that runs these tests has this one.
NODE = compute_driver_executable()[0]
SCRIPTS = {
    Path(block.name).name: block.code
    for page in ("docs/realtime.md", "docs/inbox.md")
    for block in blocks(page, (ROOT / page).read_text())
    if block.name in ("bell/bell.js", "follow-fetch.js")
}
WATCH = """
import { bell } from "./bell.js";
const { ANNEX_URL: api, ANNEX_TOKEN: token } = process.env;
const onChange = (shown) => console.log(JSON.stringify(shown));
await bell({ api, accessToken: async () => token, onChange });
"""
MOST_SHOWN = 50
TIMES = ("arrived_at", "seen_at", "read_at", "archived_at", "snoozed_until")


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """Write an item's times alike: the API leaves out a fraction that is zero."""
    return {k: padded(v) if k in TIMES else v for k, v in item.items()}


def padded(time: str | None) -> str | None:
    """Write a time with six digits of a second."""
    if time is None or "." in time:
        return time
    return time.replace("Z", ".000000Z")


def key_of(inbox: dict[str, Any]) -> tuple[str, str]:
    """Return what tells an inbox from others."""
    return inbox["workspace_id"], inbox["permission"]


class State:
    """What a client knows: items by id, inboxes by workspace and permission."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.inboxes: dict[tuple[str, str], dict[str, Any]] = {}
        self.loaded: dict[tuple[str, str], int] = {}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, State) and self.items == other.items and self.inboxes == other.inboxes
        )

    def take(self, data: dict[str, Any]) -> None:
        """Apply a message of the stream."""
        inbox = data["inbox"]
        if inbox["version"] <= self.loaded.get(key_of(inbox), 0):
            return
        if item := data.get("notification"):
            known = self.items.get(item["id"])
            if known is None or known["version"] <= item["version"]:
                self.items[item["id"]] = plain(item)
        if mark := data.get("mark"):
            for item in self.items.values():
                if is_marked(item, mark, inbox):
                    apply(item, mark)
        for deleted in data.get("deleted", ()):
            self.items.pop(deleted, None)
        old = self.inboxes.get(key_of(inbox))
        if old is None or old["version"] <= inbox["version"]:
            self.inboxes[key_of(inbox)] = inbox


def is_active(item: dict[str, Any]) -> bool:
    """Say whether an item is in the list that a bell shows."""
    return item["archived_at"] is None and item["snoozed_until"] is None


def is_marked(item: dict[str, Any], mark: dict[str, Any], inbox: dict[str, Any]) -> bool:
    """Say whether a mark is of an item."""
    undone = {"seen": item["seen_at"] is None, "read": item["read_at"] is None, "archived": True}
    return (
        key_of(item) == key_of(inbox)
        and item["archived_at"] is None
        and item["snoozed_until"] is None
        and mark["arrived_from"] <= item["arrived_at"] <= mark["arrived_until"]
        and mark["category"] in (None, item["category"])
        and undone[mark["action"]]
    )


def apply(item: dict[str, Any], mark: dict[str, Any]) -> None:
    """Mark an item."""
    item["version"] += 1
    if mark["action"] == "archived":
        item["archived_at"] = mark["at"]
        return
    item["seen_at"] = item["seen_at"] or mark["at"]
    if mark["action"] == "read":
        item["read_at"] = mark["at"]


async def load(client: httpx.AsyncClient) -> tuple[State, str]:
    """Read every list to its end; returns what is in them, and the first list's cursor."""
    state, cursor = State(), ""
    for which in ({}, {"snoozed": "true"}, {"archived": "true"}):
        params: dict[str, Any] = {**which, "limit": 10}
        while True:
            page = (await client.get(LIST, params=params)).raise_for_status().json()
            if not cursor:
                # What came later may be in the pages after this one or not.
                state.loaded = {key_of(i): i["version"] for i in page["inboxes"]}
            cursor = cursor or page["stream_cursor"]
            state.items |= {i["id"]: plain(i) for i in page["data"]}
            state.inboxes |= {key_of(i): i for i in page["inboxes"]}
            if page["page"]["next"] is None:
                break
            params["cursor"] = page["page"]["next"]
    return state, cursor


class Bell:
    """Loads, follows, and loads again when it is told to."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.state = State()
        self.cursor = ""
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Load the lists, then follow from where they stand."""
        self.state, self.cursor = await load(self.client)
        self.connect()

    def connect(self) -> None:
        """Follow from the last cursor."""
        self.task = asyncio.create_task(self.follow())

    async def cut(self) -> None:
        """Break the connection off."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def follow(self) -> None:
        """Apply message after message, until cut."""
        while True:
            # A quiet stream runs into the client's own time limit: it comes back with its cursor.
            with contextlib.suppress(StopAsyncIteration, httpx.TransportError):
                async with follow(self.client, STREAM, self.cursor) as reader:
                    while True:
                        message = await reader.message(60)
                        if message.event == "message":
                            self.state.take(message.json()["data"])
                        elif message.event == "reset":
                            self.state, _ = await load(self.client)
                        self.cursor = reader.cursor


@contextlib.asynccontextmanager
async def ringing(client: httpx.AsyncClient) -> AsyncIterator[Bell]:
    """Follow a user's inbox."""
    bell = Bell(client)
    await bell.begin()
    try:
        yield bell
    finally:
        await bell.cut()


class Page:
    """The documented bell.js as a page runs it, and what it showed last."""

    def __init__(self, client: httpx.AsyncClient, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.items: list[dict[str, Any]] = []
        self.unread = 0
        self.before = ""  # code that runs first
        self.changed = asyncio.Event()
        self.stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Load the page."""
        self.folder.mkdir(exist_ok=True)
        for name, code in {
            **SCRIPTS,
            "watch.js": self.before + WATCH,
            "package.json": '{"type": "module"}',
        }.items():
            (self.folder / name).write_text(code)
        process = await asyncio.create_subprocess_exec(
            NODE,
            self.folder / "watch.js",
            env={
                "ANNEX_URL": str(self.client.base_url).rstrip("/"),
                "ANNEX_TOKEN": self.client.headers["authorization"].removeprefix("Bearer "),
            },
            stdout=asyncio.subprocess.PIPE,
            limit=2**22,
        )
        reading = asyncio.create_task(self.read(process))
        self.stack.push_async_callback(end, process, reading)

    async def read(self, process: asyncio.subprocess.Process) -> None:
        """Take note of what it shows."""
        assert process.stdout is not None
        async for line in process.stdout:
            shown = json.loads(line)
            self.items, self.unread = [plain(item) for item in shown["items"]], shown["unread"]
            self.changed.set()

    async def shows(self, item_id: str, seconds: float = 30) -> None:
        """Wait until it shows an item."""
        async with asyncio.timeout(seconds):
            while item_id not in [item["id"] for item in self.items]:
                self.changed.clear()
                await self.changed.wait()

    async def close(self) -> None:
        """Close the page."""
        await self.stack.aclose()


async def end(process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
    """Kill a process, and wait until what it said has been read."""
    assert process.returncode is None, "bell.js has ended"
    process.kill()
    await process.wait()
    await reading
