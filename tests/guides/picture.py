"""Draw the pictures of /live and /docs in docs; `make run FRESH=1` runs in another terminal.

`make pictures` reads `.data/dev.json`. No test compares the pictures, as fonts differ between
machines.
"""

import asyncio
import json
from pathlib import Path
from typing import Any, Literal, cast

import httpx
from playwright.async_api import async_playwright, expect

from tests.conftest import ROOT
from tests.realtime.conftest import ARGUMENTS, CHROMIUM

SCHEMES: dict[Literal["light", "dark"], str] = {"light": "live.png", "dark": "live-dark.png"}
BEFORE = [
    {"type": "project.created", "data": {"name": "Website"}, "topics": ["project:1"]},
    {"type": "invoice.sent", "data": {"invoice": 7, "total": 42}, "topics": ["project:1"]},
    {"type": "invoice.paid", "data": {"invoice": 7, "total": 42}, "topics": ["project:1"]},
]
MISSED = [
    {"type": "comment.added", "data": {"text": "Sent while the line was cut"}},
    {"type": "invoice.sent", "data": {"invoice": 8, "total": 310}, "topics": ["project:2"]},
]


async def publish(facts: dict[str, Any], events: list[dict[str, Any]], pause: float) -> None:
    """Publish events one after the other, each after so many seconds."""
    key = {"Authorization": f"Bearer {facts['api_key']}"}
    async with httpx.AsyncClient(base_url=facts["url"], headers=key) as client:
        for event in events:
            await asyncio.sleep(pause)
            (await client.post("/api/v1/workspaces/acme/events", json=event)).raise_for_status()


async def draw(facts: dict[str, Any]) -> None:
    """Follow the demo, cut the line, resume it, and take the picture in both colours."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        size: Any = {"width": 960, "height": 600}
        page = await browser.new_page(viewport=size, device_scale_factor=1.3)
        await page.goto(f"{facts['url']}/live")
        await page.get_by_label("Workspace (id or slug)").fill("acme")
        await page.get_by_label("Access token or key").fill(facts["api_key"])
        await page.locator("#connect").click()
        await publish(facts, BEFORE, 1)
        await page.locator("#cut").click()
        await publish(facts, MISSED, 0.1)
        await expect(page.locator("#reconnects")).to_have_text("1", timeout=20_000)
        await expect(page.locator("#events-count")).to_have_text(str(len(BEFORE + MISSED)))
        await asyncio.sleep(2)
        for scheme, name in SCHEMES.items():
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            await page.screenshot(path=Path(ROOT, "docs", name))
        await browser.close()


async def draw_documentation(facts: dict[str, Any]) -> None:
    """Show one operation, in both colours."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        size: Any = {"width": 1100, "height": 640}
        for scheme, name in {"light": "docs.png", "dark": "docs-dark.png"}.items():
            page = await browser.new_page(
                viewport=size, device_scale_factor=1.2, color_scheme=cast(Any, scheme)
            )
            page.set_default_timeout(120_000)
            await page.goto(f"{facts['url']}/docs#tag/events/POST/api/v1/workspaces/{{ws}}/events")
            await page.get_by_role("heading", name="Publish an event").first.wait_for(
                timeout=120_000
            )
            await asyncio.sleep(3)
            await page.screenshot(path=Path(ROOT, "docs", name))
        await browser.close()


async def main(facts: dict[str, Any]) -> None:
    """Draw all."""
    await draw(facts)
    await draw_documentation(facts)


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(".data/dev.json").read_text())))
