import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

from tests.conftest import Callers, Tenant
from tests.realtime.reader import new_tenant

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",  # as root it would not start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP annex.example 127.0.0.1",
]


@pytest.fixture
async def tenant(callers: Callers) -> Tenant:
    """A fresh workspace whose own events are in the log, so that no stream begins in them."""
    return await new_tenant(callers)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Start a Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: install the package chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()
