"""/docs and /live in a browser: light and dark, at a desk and on a phone, for everybody."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, Page

from tests.conftest import ROOT, Running, Tenant

AXE = ROOT / "tests/clients/node_modules/axe-core/axe.min.js"
FIRST = "text=Show the calling user's profile"
PHONE, DESK = (390, 844), (1280, 800)
FIND = "axe.run(document, {resultTypes: ['violations']})"

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not AXE.exists(), reason="make clients installs what this needs"),
]
both = pytest.mark.parametrize("scheme", ["light", "dark"])
sizes = pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])


@asynccontextmanager
async def opened(
    browser: Browser, url: str, ready: str, size: tuple[int, int], scheme: Any = "light"
) -> AsyncIterator[Page]:
    """Open a page; nothing may be loaded from elsewhere or logged as an error."""
    viewport: Any = {"width": size[0], "height": size[1]}
    context = await browser.new_context(viewport=viewport, color_scheme=scheme)
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("request", lambda r: None if is_ours(r.url, url) else wrong.append(r.url))
    await page.goto(url)
    await page.wait_for_selector(ready, timeout=60_000)
    yield page
    assert wrong == []
    await context.close()


def is_ours(asked: str, url: str) -> bool:
    """Say whether a request stays with the server or within the page."""
    return asked.startswith(("/".join(url.split("/")[:3]), "data:", "blob:"))


async def faults(page: Page) -> list[tuple[str, str]]:
    """Return the rules that axe finds broken and calls serious, each with one place."""
    await page.evaluate(AXE.read_text())
    found = await page.evaluate(FIND)
    return [
        (v["id"], str(v["nodes"][0]["target"]))
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]


async def width(page: Page) -> int:
    found: int = await page.evaluate("document.documentElement.scrollWidth")
    return found


@both
@sizes
async def test_the_documentation_is_for_everybody(
    server: Running, browser: Browser, scheme: Literal["light", "dark"], size: tuple[int, int]
) -> None:
    async with opened(browser, f"{server.url}/docs", "h1", size, scheme) as page:
        await page.wait_for_selector(FIRST, state="attached")
        assert await faults(page) == []
        assert await width(page) == size[0]
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(map(int, background.strip("rgba()").split(",")[:3])) < 200
        assert dark is (scheme == "dark")


async def test_the_documentation_takes_a_token_from_its_link_and_forgets_the_link(
    server: Running, browser: Browser
) -> None:
    async with opened(browser, f"{server.url}/docs#token=demo-token", "h1", DESK) as page:
        await page.wait_for_selector(FIRST, state="attached")
        assert "demo-token" not in page.url
        fields = page.locator("input")
        values = [await fields.nth(n).input_value() for n in range(await fields.count())]
        assert "demo-token" in values


@both
@sizes
async def test_the_live_view_is_for_everybody(
    server: Running, browser: Browser, scheme: Literal["light", "dark"], size: tuple[int, int]
) -> None:
    async with opened(browser, f"{server.url}/live", "#connect", size, scheme) as page:
        assert await faults(page) == []
        assert await width(page) == size[0]


async def test_a_phone_shows_events_before_settings(
    server: Running, browser: Browser, tenant: Tenant
) -> None:
    async with opened(browser, f"{server.url}/live", "#connect", PHONE) as page:
        await page.locator("#workspace").fill(tenant.slug)
        token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        await page.locator("#credential").fill(token)
        await page.locator("#connect").click()
        await page.wait_for_selector('[data-state="live"]')
        boxes = [await page.locator(id).bounding_box() for id in ("#events", "#connection")]
        events, settings = boxes
        assert events is not None
        assert settings is not None
        assert events["y"] < settings["y"]


async def test_an_operation_can_be_tried_with_the_token_of_the_link(
    server: Running, browser: Browser, tenant: Tenant
) -> None:
    token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
    url = f"{server.url}/docs#token={token}"
    async with opened(browser, url, "h1", DESK) as page:
        await page.evaluate("location.hash = '#tag/me/GET/api/v1/me'")
        await page.get_by_role("button", name="Test Request").first.click()
        async with page.expect_response("**/api/v1/me") as answer:
            await page.get_by_role("button", name="Send").first.click()
        response = await answer.value
        assert response.status == 200
        assert (await response.json())["email"] == tenant.owner.email
