"""The documented bell where the list is newer than its cursor, and where it is cut off."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Caller, Callers, Running, Tenant, TestDatabase, add_member, new_tenant
from tests.inbox.bell import Page, padded, plain, ringing
from tests.inbox.conftest import LIST, listed, publish, settled

# As if this server were so far behind in the log when it read the list.
LATE = """
const { fetch } = globalThis;
globalThis.fetch = async (url, ...rest) => {
  const answer = await fetch(url, ...rest);
  if (!String(url).includes("/me/notifications")) return answer;
  return Response.json({ ...await answer.json(), stream_cursor: "%s" });
};
"""

# The network fails while the first list is asked for, and in the middle of the second one.
CUT = """
const { fetch } = globalThis;
let asked = 0;
const later = setTimeout;
globalThis.setTimeout = (done, waitMs) => later(done, waitMs === 3000 ? 10 : waitMs);
globalThis.fetch = async (url, ...rest) => {
  if (!String(url).includes("/me/notifications") || ++asked > 2) return fetch(url, ...rest);
  if (asked === 1) throw new TypeError("fetch failed");
  const start = (body) => { body.enqueue(new TextEncoder().encode("{")); };
  const pull = (body) => body.error(new TypeError("terminated"));
  return new Response(new ReadableStream({ start, pull }), { status: 200 });
};
"""


class Place:
    """A user, and a page that shows their inbox."""

    def __init__(self, tenant: Tenant, user: Caller, database: TestDatabase, page: Page) -> None:
        self.tenant, self.user, self.database, self.page = tenant, user, database, page

    async def told(self) -> Any:
        """Notify the user; returns the item."""
        await publish(self.tenant, recipients=[str(self.user.user_id)])
        await settled(self.database)
        return (await listed(self.user))["data"][0]

    async def mark(self, **given: Any) -> None:
        answer = await self.user.client.post(f"{LIST}/mark", json=given)
        assert answer.status_code == 200, answer.text

    async def change(self, item: Any, **patch: Any) -> None:
        answer = await self.user.client.patch(f"{LIST}/{item['id']}", json=patch)
        assert answer.status_code == 200, answer.text


@pytest.fixture
async def place(
    server: Running, callers: Callers, database: TestDatabase, tmp_path: Path
) -> AsyncIterator[Place]:
    tenant = await new_tenant(callers)
    user = await add_member(callers, tenant, "viewer")
    page = Page(user.client, tmp_path / "page")
    yield Place(tenant, user, database, page)
    await page.close()


async def test_what_the_list_has_is_not_applied_again(place: Place) -> None:
    async with ringing(place.user.client) as bell, asyncio.timeout(30):
        first = await place.told()
        while first["id"] not in bell.state.items:
            await asyncio.sleep(0.01)
        cursor = bell.cursor
    # All until a moment that is still to come, then one back, one more, and one that goes.
    await place.mark(action="read", arrived_until="2100-01-01T00:00:00Z")
    await place.change(first, is_read=False)
    await place.told()
    gone = await place.told()
    await place.change(gone, is_archived=True)
    place.page.before = LATE % cursor
    await place.page.open()
    await place.page.shows(first["id"])  # which it has of the list
    last = await place.told()
    await place.page.shows(last["id"])
    listed_now = await listed(place.user)
    assert place.page.items == [plain(item) for item in listed_now["data"]]
    assert place.page.unread == listed_now["counts"]["unread"] == 3


async def test_a_page_is_there_after_a_network_that_failed(place: Place) -> None:
    place.page.before = CUT
    item = await place.told()
    await place.page.open()
    await place.page.shows(item["id"])


async def test_a_mark_tells_of_nothing_that_arrives_after_it(place: Place) -> None:
    await place.told()
    last = await place.told()
    await place.mark(action="seen", arrived_until="9999-12-31T23:59:59Z")
    async with place.database.admin() as admin:
        told = await admin.fetchval(
            "select data #>> '{mark,arrived_until}' from annex.events"
            " where user_id = $1 and type = 'annex.notification.marked'",
            place.user.user_id,
        )
    assert told == padded(last["arrived_at"])
