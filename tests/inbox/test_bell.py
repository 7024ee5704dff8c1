"""The bell of /live in a real browser: two tabs of one user stay the same."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.conftest import Caller, Callers, Running, Tenant, TestDatabase, execute
from tests.inbox.conftest import publish, settled
from tests.realtime.conftest import browser, tenant
from tests.realtime.reader import add_member
from tests.realtime.test_live_page import complaints, fill, is_now, press

__all__ = ["browser", "complaints", "tenant"]


@pytest.fixture
async def tabs(browser: Browser, complaints: list[str]) -> AsyncIterator[list[Page]]:
    """Two tabs of one browser."""
    context = await browser.new_context()
    pages = [await context.new_page() for _ in range(2)]
    for page in pages:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda line: complaints.append(line.text) if line.type == "error" else None,
        )
    yield pages
    await context.close()


async def open_bell(page: Page, server: Running, tenant: Tenant, user: Caller) -> None:
    """Follow the workspace as a user, and open the inbox."""
    bearer = user.client.headers["authorization"].removeprefix("Bearer ")
    await fill(page, server.url, tenant.slug, bearer)
    await press(page, "Connect")
    await is_now(page, "live")
    await page.locator("#bell").click()
    await expect(page.locator("#inbox")).to_be_visible()


async def test_what_is_done_in_one_tab_shows_in_the_other(
    tabs: list[Page], server: Running, callers: Callers, tenant: Tenant
) -> None:
    user = await add_member(callers, tenant, "viewer")
    one, two = tabs
    for page in tabs:
        await open_bell(page, server, tenant, user)
    await one.get_by_label("Topic", exact=True).fill("project:42")
    await one.get_by_role("button", name="Follow", exact=True).click()
    await expect(one.locator("#inbox-more")).to_contain_text("You follow project:42")
    hostile = "<img src=x onerror=window.taken=1>"
    await publish(tenant, topics=["project:42"], url="/invoices/7", subject=hostile)
    await publish(tenant, recipients=[str(user.user_id)], group_key="g")
    await publish(tenant, recipients=[str(user.user_id)], group_key="g")
    for page in tabs:
        await expect(page.locator("#unread")).to_have_text("2")
        await expect(page.locator("#items li.unread")).to_have_count(2)
        await expect(page.locator("#items li").first).to_contain_text("test.made (2)")
        await expect(page.locator("#items a")).to_have_attribute("href", "/invoices/7")
    await one.locator("#items li").first.get_by_role("button", name="Mark read").click()
    for page in tabs:
        await expect(page.locator("#unread")).to_have_text("1")
    await two.get_by_role("button", name="Mark all read").click()
    for page in tabs:
        await expect(page.locator("#unread")).to_have_text("0")
        await expect(page.locator("#items li.unread")).to_have_count(0)
    await two.locator("#items li").first.get_by_role("button", name="Archive").click()
    for page in tabs:
        await expect(page.locator("#items li")).to_have_count(1)
        assert await page.evaluate("window.taken") is None


async def test_an_item_that_stands_for_a_newer_event_is_not_read_unseen(
    tabs: list[Page],
    server: Running,
    callers: Callers,
    tenant: Tenant,
    database: TestDatabase,
    complaints: list[str],
) -> None:
    user = await add_member(callers, tenant, "viewer")
    page = tabs[0]
    await open_bell(page, server, tenant, user)
    event: dict[str, Any] = {"recipients": [str(user.user_id)], "group_key": "g"}
    await publish(tenant, **event)
    await expect(page.locator("#unread")).to_have_text("1")

    async def overtaken(route: Route) -> None:
        await publish(tenant, **event)
        await settled(database)
        await route.continue_()

    await page.route("**/me/notifications/*", overtaken)
    await page.locator("#items li").first.get_by_role("button", name="Mark read").click()
    await expect(page.locator("#inbox-more")).not_to_be_empty()
    await expect(page.locator("#items li.unread")).to_contain_text("test.made (2)")
    [refused] = complaints
    assert "412" in refused
    complaints.clear()
    # As it is shown now, it is; and so after all were marked at once.
    await page.unroute("**/me/notifications/*")
    await page.get_by_role("button", name="Mark all read").click()
    await page.locator("#items li").first.get_by_role("button", name="Mark unread").click()
    await expect(page.locator("#unread")).to_have_text("1")
    await expect(page.locator("#inbox-more")).to_be_empty()


async def test_a_planted_link_is_shown_as_text(
    tabs: list[Page], server: Running, callers: Callers, tenant: Tenant
) -> None:
    user = await add_member(callers, tenant, "viewer")
    await publish(tenant, recipients=[str(user.user_id)], url="/ok")
    page = tabs[0]
    await open_bell(page, server, tenant, user)
    await expect(page.locator("#items a")).to_have_count(1)
    await execute(
        server.database.url("postgres"),
        "update annex.notifications set url = 'javascript:alert(1)'"
        f" where user_id = '{user.user_id}'",
    )
    await page.reload()
    await open_bell(page, server, tenant, user)
    await expect(page.locator("#items li")).to_have_count(1)
    await expect(page.locator("#items a")).to_have_count(0)


async def test_a_suspended_members_bell_is_empty_at_once(
    tabs: list[Page], server: Running, callers: Callers, tenant: Tenant
) -> None:
    user = await add_member(callers, tenant, "viewer")
    await publish(tenant, recipients=[str(user.user_id)])
    page = tabs[0]
    await open_bell(page, server, tenant, user)
    await expect(page.locator("#unread")).to_have_text("1")
    where = f"where user_id = '{user.user_id}'"
    await execute(
        server.database.url("postgres"),
        f"update annex.members set status = 'suspended' {where}",
    )
    await is_now(page, "unauthorized")
    await expect(page.locator("#unread")).to_have_text("0")
    await expect(page.locator("#items li")).to_have_count(0)


async def test_what_the_worker_deletes_leaves_an_open_bell(
    tabs: list[Page], server: Running, callers: Callers, tenant: Tenant
) -> None:
    user = await add_member(callers, tenant, "viewer")
    for _ in range(2):
        await publish(tenant, recipients=[str(user.user_id)])
    page = tabs[0]
    await open_bell(page, server, tenant, user)
    await expect(page.locator("#items li")).to_have_count(2)
    await execute(
        server.database.url("postgres"),
        "select annex.delete_notifications(array(select id from annex.notifications"
        f" where user_id = '{user.user_id}' order by arrived_at limit 1))",
    )
    await expect(page.locator("#items li")).to_have_count(1)
    await expect(page.locator("#unread")).to_have_text("1")
