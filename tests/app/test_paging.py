import random
from base64 import urlsafe_b64decode
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from app.database.reads import MAX_PAGE_BYTES, Read, encode_cursor
from tests.conftest import Caller, Callers, Tenant, add_member


async def add_one(callers: Callers, tenant: Tenant, what: str) -> None:
    """Add a row to a list."""
    if what == "workspaces":
        await tenant.owner.client.post("/api/v1/workspaces", json={"name": "x"})
    elif what == "members":
        await add_member(callers, tenant, "viewer")
    else:
        await tenant.owner.client.post(f"{tenant.path}/events", json={"type": "x"})


def path_of(tenant: Tenant, what: str) -> str:
    return "/api/v1/workspaces" if what == "workspaces" else f"{tenant.path}/{what}"


async def all_of(caller: Caller, path: str) -> list[str]:
    url = f"{path}{'&' if '?' in path else '?'}limit=100"
    items = (await caller.client.get(url)).json()["data"]
    return [i.get("id") or i["user_id"] for i in items]


@pytest.mark.parametrize("what", ["workspaces", "members", "events", "events?topics=t&types=x"])
@pytest.mark.parametrize("limit", [1, 3])
async def test_pages_hold_every_item_once_while_rows_are_added(
    callers: Callers, tenant: Tenant, what: str, limit: int
) -> None:
    name = what.partition("?")[0]
    for _ in range(6):
        await add_one(callers, tenant, name)
    for _ in range(4):
        body = {"type": "x", "topics": ["t"]}
        await tenant.owner.client.post(f"{tenant.path}/events", json=body)
    path = path_of(tenant, what)
    expected, found = await all_of(tenant.owner, path), []
    url = f"{path}{'&' if '?' in path else '?'}limit={limit}"
    while url:
        response = await tenant.owner.client.get(url)
        page = response.json()
        assert len(page["data"]) <= limit
        found += [i.get("id") or i["user_id"] for i in page["data"]]
        await add_one(callers, tenant, name)
        # The link is usable as it is.
        url = response.links.get("next", {}).get("url", "")
        assert bool(url) is (page["page"]["next"] is not None)
    assert found == expected


async def test_members_who_joined_at_the_same_moment_are_listed_once(
    callers: Callers, tenant: Tenant
) -> None:
    for _ in range(4):
        await add_member(callers, tenant, "viewer")
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.members set joined_at = now() where workspace_id = $1", UUID(tenant.id)
        )
    found, url = [], f"{tenant.path}/members?limit=2"
    while url:
        response = await tenant.owner.client.get(url)
        found += [m["user_id"] for m in response.json()["data"]]
        url = response.links.get("next", {}).get("url", "")
    assert len(found) == len(set(found)) == 5


async def test_the_last_page_is_just_full_and_has_no_next(tenant: Tenant) -> None:
    response = await tenant.owner.client.get(f"{tenant.path}/members", params={"limit": 1})
    assert response.json()["page"]["next"] is None
    assert "link" not in response.headers


ID = UUID(int=7)


@pytest.mark.parametrize(
    ("what", "cursor"),
    [
        ("events", "garbled"),
        ("events", "!"),
        ("events", "é"),
        ("events", ""),
        ("events", encode_cursor([])),
        ("events", encode_cursor([ID, ID, ID])),
        ("events", encode_cursor(["x"])),
        ("events", encode_cursor([ID, ID]) + "!"),
        ("events?types=x", encode_cursor([1])),
        ("members", encode_cursor([ID])),
        ("members", encode_cursor(["2026-01-01T00:00:00", ID])),
        ("members", encode_cursor(["0001-01-01T00:00:00+14:00", ID])),
        ("workspaces", encode_cursor([None])),
    ],
)
async def test_a_cursor_that_is_not_this_lists_is_refused(
    tenant: Tenant, what: str, cursor: str
) -> None:
    path, _, query = path_of(tenant, what).partition("?")
    params = {"cursor": cursor, **dict([query.split("=")] if query else [])}
    response = await tenant.owner.client.get(path, params=params)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_cursor")


LARGE = """
select annex.publish($1, 'large', jsonb_build_object('n', n, 'x', repeat('x', (n % 5) * 15000)))
from generate_series(1, 80) n
"""
MEMBERS = """
with users as (
  insert into auth.users (id, email)
  select id, id || '@example.com' from (select gen_random_uuid() id from generate_series(1, 90)) n
  returning id, email
), made as (
  insert into annex.profiles (user_id, email) select id, email from users returning user_id
)
insert into annex.members (workspace_id, user_id, role, metadata)
select $1, user_id, 'viewer', jsonb_build_object('x', repeat('x', 15000)) from made
"""


@pytest.mark.parametrize(
    ("what", "filled", "count"),
    [("events?types=large", LARGE, 80), ("events", LARGE, 80), ("members", MEMBERS, 91)],
)
async def test_pages_end_at_a_mebibyte_and_hold_every_item_once(
    callers: Callers, tenant: Tenant, what: str, filled: str, count: int
) -> None:
    async with callers.server.database.connect("postgres") as admin:
        await admin.execute(filled, UUID(tenant.id))
    found, pages = list[str](), 0
    url = f"{path_of(tenant, what)}{'&' if '?' in what else '?'}limit=100"
    while url:
        response = await tenant.owner.client.get(url)
        items = response.json()["data"]
        assert len(response.content) <= MAX_PAGE_BYTES + 1000
        found += [i.get("id") or i["user_id"] for i in items if i.get("type", "large") == "large"]
        pages += 1
        url = response.links.get("next", {}).get("url", "")
    assert len(found) == len(set(found)) == count
    assert pages == 2 + (count == 80)
    if what != "members":
        assert found == sorted(found, reverse=True)


class Item(msgspec.Struct, frozen=True):
    """An item of a list."""

    id: int
    data: msgspec.Raw


@pytest.mark.parametrize("scanned", [None, 5])
def test_however_large_items_are_pages_hold_each_once(scanned: int | None) -> None:
    drawn = random.Random(7)
    by: Any = [SimpleNamespace(key="id")]
    nothing: Any = None
    for _ in range(40):
        sizes = [drawn.choice([2, 2, 3000, 300_000, 1_500_000]) for _ in range(30)]
        items = [Item(n, msgspec.Raw(b'"%b"' % (b"x" * size))) for n, size in enumerate(sizes)]
        wanted = [i for i in items if scanned is None or drawn.random() < 0.6]
        limit, after, found = drawn.randint(1, 12), 0, list[int]()
        while True:
            # What a statement gives: one more than the limit, or where a scan stopped.
            seen = items[after:] if scanned is None else items[after : after + scanned]
            rows = [(i.id, i.data, False) for i in seen if i in wanted]
            if len(seen) == scanned:
                rows.append((seen[-1].id, seen[-1].data, True))
            linked = list[str]()
            read = Read(nothing, nothing, linked.append)
            cut, following = read.cut(rows[: limit + 1], Item, limit, by, is_filtered=True)
            page = msgspec.json.decode(msgspec.json.encode(cut), type=list[Item])
            assert len(page) <= limit
            assert len(page) <= 1 or sum(sizes[i.id] for i in page) <= MAX_PAGE_BYTES
            found += [i.id for i in page]
            assert linked == [following.next] * bool(following.next)
            if following.next is None:
                break
            [last] = msgspec.msgpack.decode(urlsafe_b64decode(following.next + "=="))
            assert last >= after
            after = last + 1
        assert found == [i.id for i in wanted]
