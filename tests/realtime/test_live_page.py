"""The live view at /live, used in a real browser as a person would use it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest
from playwright.async_api import Browser, Page, expect

from app.auth.keys import Key
from app.dev.demo import facts, greeting
from tests import conftest
from tests.conftest import SECRETS, Callers, Running, Tenant, TestDatabase, execute, running
from tests.realtime.reader import add_member, calling, follow, new_tenant, number, publish

WAIT_MS = 20_000
CURSOR = re.compile(r"^[A-Za-z0-9_-]{22}$")
expect.set_options(timeout=WAIT_MS)


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What the browser complains about: nothing, unless a test takes it out."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
async def page(browser: Browser, complaints: list[str]) -> AsyncIterator[Page]:
    """Open a tab of its own, without what other tests left in theirs."""
    context = await browser.new_context()
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None,
    )
    yield page
    await context.close()


def credential(caller: Tenant | str) -> str:
    """What a caller sends as bearer."""
    if isinstance(caller, str):
        return caller
    return caller.owner.client.headers["authorization"].removeprefix("Bearer ")


async def fill(
    page: Page, url: str, workspace: str, bearer: str, begin: str = "now", **fields: str
) -> None:
    """Fill the form in, by the labels that people read."""
    await page.goto(f"{url}/live")
    await page.get_by_label("Workspace (id or slug)").fill(workspace)
    await page.get_by_label("Access token or key").fill(bearer)
    await page.get_by_label("Begin").select_option(begin)
    for label, value in fields.items():
        await page.get_by_label(label, exact=True).first.fill(value)


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


async def is_now(page: Page, state: str) -> None:
    """Wait for a state; the word is what a screen reader hears, too."""
    await expect(page.locator("#state")).to_have_text(state)


async def connected(page: Page, server: Running, tenant: Tenant, begin: str = "now") -> None:
    """Open the page and follow a workspace as its owner."""
    await fill(page, server.url, tenant.slug, credential(tenant), begin)
    await press(page, "Connect")
    await is_now(page, "live")


async def disconnect(page: Page) -> None:
    """Stop following, as before its server ends: an open page tries again, and complains."""
    await press(page, "Disconnect")
    await is_now(page, "closed")


async def shows(page: Page, names: Sequence[object]) -> None:
    """Wait until so many events are shown; their `n`, oldest first, have to be these."""
    await expect(page.locator("#events summary")).to_have_count(len(names))
    texts = await page.locator("#events summary span").all_inner_texts()
    found = [json.loads(text[text.index("{") :])["n"] for text in reversed(texts)]
    assert found == list(names)


async def test_an_event_arrives_with_its_cursor_and_as_its_own_address_shows_it(
    page: Page, server: Running, tenant: Tenant
) -> None:
    await connected(page, server, tenant)
    await expect(page.locator("#cursor")).to_have_text(CURSOR)
    before = await page.locator("#cursor").inner_text()
    await expect(page.locator("#retry")).to_have_text(re.compile(r"^[1-5]\.\d s$"))
    [id] = await number(tenant, "1", topics=["project:1"])
    await expect(page.locator("#events-count")).to_have_text("1")
    await expect(page.locator("#cursor")).not_to_have_text(before)
    await page.locator("#events summary").click()
    told = await page.locator("#events pre").inner_text()
    assert json.loads(told) == (await tenant.owner.client.get(f"{tenant.path}/events/{id}")).json()


async def test_the_list_comes_first_and_what_follows_goes_on_from_it(
    page: Page, server: Running, tenant: Tenant
) -> None:
    await number(tenant, "1", "2")
    await fill(page, server.url, tenant.slug, credential(tenant), "list")
    await page.get_by_text("Filters").click()
    await page.locator("#types").fill("test.*")
    await press(page, "Connect")
    await is_now(page, "live")
    await number(tenant, "3")
    await shows(page, ["1", "2", "3"])
    await expect(page.locator("#events-count")).to_have_text("1")


async def test_a_cut_connection_comes_back_without_loss_or_repetition(
    page: Page, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.streams.RETRY_MS", (50, 100))
    await connected(page, server, tenant)
    names = [str(n) for n in range(120)]
    for at in range(0, len(names), 10):
        await press(page, "Cut the connection")
        await number(tenant, *names[at : at + 10])
        await is_now(page, "live")
    await expect(page.locator("#events-count")).to_have_text(str(len(names)))
    await shows(page, names)
    await expect(page.locator("#repeated")).to_have_text("0")
    await expect(page.locator("#reconnects")).to_have_text("12")


async def test_who_disconnected_gets_what_they_missed_when_they_resume(
    page: Page, server: Running, tenant: Tenant
) -> None:
    await connected(page, server, tenant)
    await number(tenant, "1")
    await expect(page.locator("#events-count")).to_have_text("1")
    await disconnect(page)
    cursor = await page.locator("#cursor").inner_text()
    await number(tenant, "2", "3")
    await press(page, "Resume")
    await expect(page.locator("#events-count")).to_have_text("3")
    await shows(page, ["1", "2", "3"])
    assert f"Last-Event-ID: {cursor}" in await page.locator("#request").inner_text()


async def test_a_server_that_comes_back_is_followed_again(
    own_database: TestDatabase, page: Page, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.streams.RETRY_MS", (100, 200))
    async with running(own_database) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        await connected(page, server, tenant)
        await number(tenant, "1")
        await expect(page.locator("#events-count")).to_have_text("1")
    await is_now(page, "reconnecting")
    async with own_database.connect("postgres") as sql:
        await sql.execute(
            "select annex.publish($1, 'test.made', '{\"n\": \"2\"}')", UUID(tenant.id)
        )
    async with running(own_database, int(server.url.rpartition(":")[2])):
        await expect(page.locator("#events-count")).to_have_text("2")
        await shows(page, ["1", "2"])
        await disconnect(page)
    assert all("ERR_CONNECTION_REFUSED" in line for line in complaints)
    complaints.clear()


async def test_a_server_without_room_is_said_and_asked_again_later(
    own_database: TestDatabase, page: Page
) -> None:
    async with running(own_database, max_streams=2) as server, calling(server) as callers:
        tenant = await new_tenant(callers)
        stream = f"{tenant.path}/stream"
        async with (
            follow(tenant.owner.client, stream) as reader,
            follow(tenant.owner.client, stream) as other,
        ):
            await reader.message()
            await other.message()
            await fill(page, server.url, tenant.slug, credential(tenant))
            await press(page, "Connect")
            await is_now(page, "reconnecting")
            await expect(page.get_by_role("alert")).to_contain_text("The server is full")
        async with asyncio.timeout(20):
            # The page's bell may have taken one place of the two by itself.
            while server.app.runtime.hub.counts.connections > 1:
                await asyncio.sleep(0.05)
        await press(page, "Connect")
        await is_now(page, "live")
        await disconnect(page)


async def test_a_cursor_that_cannot_be_continued_is_said(
    page: Page, server: Running, tenant: Tenant
) -> None:
    await fill(page, server.url, tenant.slug, credential(tenant), "cursor", Cursor="x" * 22)
    await press(page, "Connect")
    await is_now(page, "reset")
    await expect(page.locator("#resets")).to_have_text("1")
    await expect(page.get_by_role("alert")).to_contain_text("could not be continued")
    await number(tenant, "1")
    await is_now(page, "live")
    await shows(page, ["1"])


async def test_a_credential_that_is_not_accepted_is_said_in_a_sentence(
    page: Page, server: Running, tenant: Tenant, complaints: list[str]
) -> None:
    await fill(page, server.url, tenant.slug, str(Key.make("sk")))
    await press(page, "Connect")
    await is_now(page, "unauthorized")
    await expect(page.get_by_role("alert")).to_contain_text("(invalid_key)")
    assert ["401" in line for line in complaints] == [True]
    complaints.clear()


async def test_a_reader_who_is_removed_is_told_so(
    page: Page, server: Running, callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "member")
    bearer = member.client.headers["authorization"].removeprefix("Bearer ")
    await fill(page, server.url, tenant.slug, bearer)
    await press(page, "Connect")
    await is_now(page, "live")
    await execute(
        server.database.url("postgres"),
        f"delete from annex.members where user_id = '{member.user_id}'",
    )
    await is_now(page, "unauthorized")
    await expect(page.get_by_role("alert")).to_contain_text("(not_found)")


async def test_a_filter_that_cannot_be_read_is_said(
    page: Page, server: Running, tenant: Tenant, complaints: list[str]
) -> None:
    await fill(page, server.url, tenant.slug, credential(tenant))
    await page.get_by_text("Filters").click()
    await page.get_by_label("Where, one a line").fill("nonsense")
    await press(page, "Connect")
    await expect(page.get_by_role("alert")).to_contain_text("(invalid_request)")
    await is_now(page, "closed")
    assert ["400" in line for line in complaints] == [True]
    complaints.clear()


async def test_what_is_in_an_event_is_text_and_nothing_else(
    page: Page, server: Running, tenant: Tenant
) -> None:
    hostile = '<img src=x onerror="window.taken = 1"><script>window.taken = 1</script></pre>'
    await connected(page, server, tenant)
    await publish(
        tenant.owner,
        tenant,
        {"data": {"n": hostile, hostile: "&lt;"}, "topics": [hostile], "subject": hostile},
    )
    summary = page.locator("#events summary")
    await expect(summary).to_contain_text(hostile)
    await summary.click()
    told = json.loads(await page.locator("#events pre").inner_text())
    assert (told["subject"], told["data"][hostile]) == (hostile, "&lt;")
    assert await page.locator("#events img, #events script").count() == 0
    assert await page.evaluate("window.taken") is None


async def test_what_is_sent_here_arrives_here(page: Page, server: Running, tenant: Tenant) -> None:
    await connected(page, server, tenant)
    await page.get_by_label("How many").fill("7")
    await press(page, "Send")
    await expect(page.locator("#sent")).to_have_text("7, 7")
    await shows(page, range(1, 8))


async def test_an_event_that_cannot_be_sent_is_said(
    page: Page, server: Running, callers: Callers, tenant: Tenant, complaints: list[str]
) -> None:
    viewer = await add_member(callers, tenant, "viewer")
    bearer = viewer.client.headers["authorization"].removeprefix("Bearer ")
    await fill(page, server.url, tenant.slug, bearer)
    said = page.locator("#sent-more")
    await page.get_by_label("Data (JSON)").fill("{")
    await press(page, "Send")
    await expect(said).to_contain_text("The data is no JSON")
    await page.get_by_label("Data (JSON)").fill("[1]")
    await press(page, "Send")
    await expect(said).to_contain_text("lacks the permission events:publish")
    assert ["403" in line for line in complaints] == [True]
    complaints.clear()


async def test_only_the_newest_events_are_kept_and_a_pause_holds_them_back(
    page: Page, server: Running, tenant: Tenant
) -> None:
    await connected(page, server, tenant)
    await press(page, "Pause")
    await page.get_by_label("How many").fill("400")
    for total in (400, 800):
        await press(page, "Send")
        await expect(page.locator("#events-count")).to_have_text(str(total))
    await expect(page.locator("#held")).to_have_text("500 held back")
    assert await page.locator("#events summary").count() == 0
    await press(page, "Pause")
    await shows(page, range(301, 801))
    await press(page, "Clear")
    assert await page.locator("#events summary").count() == 0


async def test_the_keyboard_is_enough(page: Page, server: Running, tenant: Tenant) -> None:
    await page.goto(f"{server.url}/live")
    await page.get_by_label("Workspace (id or slug)").focus()
    await page.keyboard.type(tenant.slug)
    await page.keyboard.press("Tab")
    await page.keyboard.type(credential(tenant))
    await page.keyboard.press("Enter")
    await is_now(page, "live")
    await page.get_by_role("button", name="Send").focus()
    await page.keyboard.press("Space")
    summary = page.locator("#events summary").first
    await expect(summary).to_contain_text("demo.sent")
    await summary.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#events pre")).to_be_visible()


async def test_the_credential_is_in_no_url_and_kept_only_when_that_is_wanted(
    page: Page, server: Running, tenant: Tenant
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    bearer, field = credential(tenant), page.get_by_label("Access token or key")
    keep = page.get_by_label("Keep these fields until the tab is closed")
    await connected(page, server, tenant, "list")
    assert asked
    assert not [url for url in [*asked, page.url] if bearer in url]
    await page.reload()
    assert await field.input_value() == ""
    await fill(page, server.url, tenant.slug, bearer)
    await keep.check()
    await press(page, "Connect")
    await is_now(page, "live")
    await page.reload()
    assert await field.input_value() == bearer
    await keep.uncheck()
    await page.reload()
    assert await field.input_value() == ""
    assert await page.evaluate("localStorage.length + sessionStorage.length") == 0


async def demo(server: Running) -> str:
    """Make the demo workspace; returns the link to the live view that `annex dev` prints."""
    async with calling(server) as callers:
        tenant = await conftest.new_tenant(callers, slug="acme")
        key = await callers.key(tenant.id, "events:read", "events:publish")
        bearer = key.client.headers["authorization"].removeprefix("Bearer ")
    said = greeting({**facts(server.settings, SECRETS, server.url), "api_key": bearer})
    link: str = next(word for word in said.split() if "/live#" in word)
    assert bearer in link
    return link


async def test_the_greetings_link_follows_at_once_and_leaves_the_address(
    own_database: TestDatabase, page: Page
) -> None:
    async with running(own_database) as server:
        await page.goto(await demo(server))
        await is_now(page, "live")
        assert page.url == f"{server.url}/live"
        await disconnect(page)


async def test_such_a_link_does_nothing_but_on_the_developers_own_machine(
    own_database: TestDatabase, page: Page
) -> None:
    async with running(own_database) as server:
        elsewhere = server.url.replace("127.0.0.1", "annex.example")
        await page.goto((await demo(server)).replace(server.url, elsewhere))
        await expect(page.locator("#state")).to_have_text("closed")
        assert page.url == f"{elsewhere}/live"
        assert await page.get_by_label("Access token or key").input_value() == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
async def test_it_is_readable_in_both_themes_and_on_a_phone(
    page: Page, server: Running, tenant: Tenant, scheme: str, width: int
) -> None:
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": width, "height": 800})
    await connected(page, server, tenant, "list")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    contrasts: list[float] = await page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5  # WCAG 2.2, success criterion 1.4.3


CONTRASTS = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && !element.disabled
      && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => [light(getComputedStyle(element).color), light(behind(element))])
    .map((pair) => pair.sort((a, b) => b - a))
    .map(([more, less]) => (more + 0.05) / (less + 0.05));
}"""
