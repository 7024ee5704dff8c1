"""The documents, followed to the letter: every block that is tagged `run` is run as it stands."""

import asyncio
import contextlib
import json
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, async_playwright, expect

from app.dev.demo import Secrets, demo_settings, mint_token
from tests.conftest import ROOT
from tests.guides import desk
from tests.guides.blocks import TAGS, Block, all_blocks, blocks
from tests.guides.desk import PACKAGES, Terminal
from tests.guides.outside import Auth, Proxy
from tests.realtime.conftest import ARGUMENTS, CHROMIUM

FOLLOWERS = ["curl -sN", "node print.mjs", "follow.py", "follow.sh"]
TOKEN_SECONDS = 8


def test_every_block_says_whether_it_is_run() -> None:
    untagged = [b.place for b in all_blocks() if not b.language or b.tag not in TAGS]
    assert untagged == [], f"write ```sh run or ```sh manual: {sorted(TAGS)}"


def test_a_block_without_a_tag_is_found() -> None:
    inner = "````markdown manual\n```sh\n```\n````\n"
    text = f"```sh\nls\n```\n{inner}- a\n  ```js run\n  // a.js\n  ```\n"
    found = list(blocks("a.md", text))
    assert [(b.line, b.language, b.tag) for b in found] == [
        (1, "sh", ""),
        (4, "markdown", "manual"),
        (9, "js", "run"),
    ]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("README.md", ["live", "docs"]),
        ("docs/realtime.md", ["live"]),
        ("docs/supabase.md", ["docs"]),
    ],
)
def test_pictures_of_the_pages_are_there_in_light_and_dark(page: str, names: list[str]) -> None:
    text = (ROOT / page).read_text()
    shown = re.findall(
        r"<picture>\n"
        r'  <source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)-dark\.png">\n'
        r'  <img src="\1\.png" width="\d+" alt="The page /[^"]+">\n'
        r"</picture>",
        text,
    )
    assert [Path(place).name for place in shown] == names
    assert len(re.findall(r"<img\b|!\[", text)) == len(shown)
    for place in shown:
        for end in (".png", "-dark.png"):
            picture = (ROOT / page).parent / f"{place}{end}"
            assert picture.read_bytes().startswith(b"\x89PNG"), picture


def test_nothing_says_to_install_a_package_of_somebody_else() -> None:
    """On PyPI, `annex` is another one; ours is `annex-b2b`."""
    of_another = re.compile(
        r"\b(?:(?:pipx?|uv|poetry|pdm) (?:pip |tool )?(?:install|add)|uvx)"
        r"(?: +-[-\w=]+)* +[\"']?annex(?![\w./-])"
    )
    for command in ("pip install annex", "uv tool install -q 'annex[dev]'", "uvx annex dev"):
        assert of_another.search(command)
    for command in ("pip install 'annex-b2b[dev]'", "pip install annex/", "annex install"):
        assert not of_another.search(command)
    said = [
        f"{file.relative_to(ROOT)}: {found[0]}"
        for place in ("*", "docs/**/*", "app/**/*", "supabase/**/*", ".env.example")
        for file in ROOT.glob(place)
        if file.is_file() and "__pycache__" not in file.parts
        for found in of_another.finditer(file.read_text(errors="replace"))
    ]
    assert said == []


class Newcomer:
    """Somebody who follows the documents, with a proxy between them and `annex dev`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.terminals: dict[str, Terminal] = {}
        self.stack = contextlib.AsyncExitStack()

    @property
    def database(self) -> str:
        url: str = self.facts["database_url"]
        return url.replace("annex_api", "postgres", 1)

    async def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.name is not None:
            self.files[block.name] = block.code
            (self.folder / block.name).parent.mkdir(exist_ok=True)
            (self.folder / block.name).write_text(block.code)
        elif block.language == "sql":
            await desk.run_sql(self.database, block)
        else:
            assert block.language == "sh", f"{block.place}: nobody knows how to run this"
            terminal = self.terminals.get(block.page)
            if terminal is None:
                terminal = await self.stack.enter_async_context(desk.terminal(self.folder))
                self.terminals[block.page] = terminal
            await terminal.paste(block)
            if block.code == "make run\n":
                await self.meet_the_server(terminal)

    async def meet_the_server(self, terminal: Terminal) -> None:
        """Wait for the server, and put the proxy before it in all that it tells of itself."""
        written = [self.folder / ".data" / name for name in ("dev.json", "dev.env")]
        async with asyncio.timeout(120):
            while "Ctrl-C stops everything" not in terminal.log("make run"):
                await asyncio.sleep(0.1)
        self.facts = json.loads(written[0].read_text())
        self.upstream: str = self.facts["url"]
        proxy = Proxy(int(self.upstream.rpartition(":")[2]))
        self.proxy = await self.stack.enter_async_context(proxy.serving())
        for file in written:
            file.write_text(file.read_text().replace(self.upstream, self.proxy.url))

    def printed(self, command: str) -> list[str]:
        """Return the ids of the events that a follower in a terminal has printed so far."""
        said = self.terminals["docs/realtime.md"].log(command)
        lines = (line.removeprefix("data: ") for line in said.splitlines())
        return [json.loads(line)["id"] for line in lines if line.startswith('{"id"')]


@pytest.fixture
async def newcomer() -> AsyncIterator[Newcomer]:
    """A folder inside the checkout, where Postgres can reach its data as another user."""
    folder = ROOT / ".data" / f"guides-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    desk.checkout(folder)
    somebody = Newcomer(folder)
    async with somebody.stack:
        yield somebody
    shutil.rmtree(folder)


async def shown(page: Page) -> list[str]:
    """Return the ids of the events that the page shows, oldest first."""
    rows = await page.locator("#events li").all_text_contents()
    return [row.split()[1] for row in reversed(rows)]


async def until_seen(newcomer: Newcomer, page: Page, sent: list[str]) -> None:
    """Wait until page and terminals have the events, which have to be these, in this order."""

    async def seen() -> dict[str, list[str]]:
        found = {command: newcomer.printed(command) for command in FOLLOWERS[1:]}
        found["main.js"] = await shown(page)
        return {who: [e for e in ids if e in sent] for who, ids in found.items()}

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):  # less than the 45 s after which silence is noticed
            while any(len(ids) < len(sent) for ids in (await seen()).values()):
                await asyncio.sleep(0.1)
    for who, ids in (await seen()).items():
        assert ids == sent, who


@pytest.mark.timeout(400)
@pytest.mark.skipif(not PACKAGES.exists(), reason="make clients installs what this needs")
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: install the package chromium")
async def test_who_follows_the_documents_gets_every_event_once(newcomer: Newcomer) -> None:
    for block in all_blocks():
        if block.tag != "manual":
            await newcomer.follow(block)

    drawn = Secrets.of(newcomer.folder / ".data")
    settings, owner = demo_settings(drawn, "", ""), newcomer.facts["users"]["owner"]["id"]
    auth = Auth(lambda seconds: mint_token(settings, owner, seconds=seconds), TOKEN_SECONDS)
    await newcomer.stack.enter_async_context(auth.serving())

    app = newcomer.folder / "page"
    app.mkdir()
    for name, code in newcomer.files.items():
        if "/" not in name:  # which is of another page
            (app / name).write_text(code)
    variables = {
        "VITE_ANNEX_URL": newcomer.proxy.url,
        "VITE_SUPABASE_URL": auth.url,
        "VITE_SUPABASE_KEY": "sb_publishable_any",
    }
    origin = await newcomer.stack.enter_async_context(desk.vite(app, variables))
    playwright = await newcomer.stack.enter_async_context(async_playwright())
    browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    newcomer.stack.push_async_callback(browser.close)
    page = await browser.new_page()
    said: list[str] = []
    page.on("console", lambda line: said.append(line.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    await page.goto(origin)
    await page.locator("#events li").first.wait_for(timeout=60_000)
    bell = await browser.new_page()
    bell.on("pageerror", lambda error: said.append(str(error)))
    served = newcomer.terminals["docs/inbox.md"].log("http.server")
    await bell.goto(re.findall(r"http://[\d.:]+/", served)[0])
    badge, read = bell.locator("#badge"), bell.get_by_role("button", name="Mark as read")
    await expect(bell.locator("#items a")).to_have_text("comment.made", timeout=60_000)
    await expect(badge).to_have_text("1")
    await read.click()
    await expect(badge).to_have_text("0")
    await expect(read).to_have_count(0)

    key = {"Authorization": f"Bearer {newcomer.facts['api_key']}"}
    events = f"{newcomer.upstream}/api/v1/workspaces/acme/events"
    sent: list[str] = []
    async with httpx.AsyncClient(headers=key) as client:

        async def publish(count: int, *topics: str) -> None:
            for _ in range(count):
                body = {"type": "guide.followed", "topics": topics}
                answer = await client.post(events, json=body)
                sent.append(answer.json()["id"])

        # From the page itself, through FunctionsClient.
        await page.evaluate('import("/publish.js")')
        async with asyncio.timeout(20):
            while not any(line.startswith("published ") for line in said):
                await asyncio.sleep(0.05)
        sent += [line.split()[1] for line in said if line.startswith("published ")]
        await publish(3)
        await until_seen(newcomer, page, sent)

        newcomer.proxy.fail()
        await publish(3, "project:42")
        async with asyncio.timeout(60):
            while newcomer.proxy.refused < 2 * len(FOLLOWERS):
                await asyncio.sleep(0.1)
        newcomer.proxy.is_down = False
        await publish(1)
        await until_seen(newcomer, page, sent)
        # The bell missed nothing, shows each once, and stays true to what is clicked.
        await expect(badge).to_have_text("3", timeout=60_000)
        await expect(bell.locator("#items li")).to_have_count(4)
        await read.last.click()
        await expect(badge).to_have_text("2")
        await bell.get_by_role("button", name="Mark all as read").click()
        await expect(badge).to_have_text("0")
        await expect(read).to_have_count(0)

        # The stream ends with the token, and events go on meanwhile.
        before, began = auth.count, time.monotonic()
        while auth.count < before + 2 or time.monotonic() < began + TOKEN_SECONDS:
            await publish(1)
            await asyncio.sleep(0.5)
            assert time.monotonic() < began + 60, said
        await until_seen(newcomer, page, sent)

    # The stream that was opened once, to look, has what came before the proxy cut it.
    assert sent[:4] == [e for e in newcomer.printed("curl -sN") if e in sent]
    assert re.search(r"^id: [\w-]{22}$", newcomer.terminals["README.md"].log("curl -sN"), re.M)
    # The removed contractor was told so: in the stream or, if that opened too late, instead of it.
    assert "not_found" in newcomer.terminals["docs/teams.md"].log("curl -sN")
