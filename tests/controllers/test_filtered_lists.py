"""A filtered list that lets everything through is the list."""

import itertools
from typing import Any

import msgspec

from app.schemas import events as s
from tests.conftest import Callers, Tenant, add_member
from tests.operations import MAKERS, OPERATIONS, named, path_of, queried, required_query

EVERY_TYPE = {"types": "*"}
"""Lets every event through, on the statement of filtered lists."""


async def read(caller: Any, path: str, **params: Any) -> tuple[s.EventPage, dict[str, str | None]]:
    """Read a page: as the contract's struct, and what links to the next one."""
    response = await caller.client.get(f"{path}/events", params=params)
    assert response.status_code == 200, response.text
    link = response.links.get("next", {}).get("url", "").replace("types=%2A&", "")
    page = msgspec.json.decode(response.content, type=s.EventPage, strict=True)
    # The log may move on between two requests, and the cursor with it.
    assert page.stream_cursor
    return msgspec.structs.replace(page, stream_cursor=""), {"next": link}


async def publish(tenant: Tenant) -> None:
    """Publish feed and audit events with everything, and with nothing, that an event may have."""
    rich: dict[str, Any] = {
        "type": "invoice.paid",
        "data": {"total": 1.10, "lines": [{"text": "ümlaut", "n": None}]},
        "source": "billing",
        "subject": "invoice:1",
        "topics": ["a", "b"],
        "context": {"ip": "::1"},
        "occurred_at": "2026-11-01T12:00:00.25+01:00",
    }
    batch = [{**rich, "key": str(n)} for n in range(5)]
    secret: dict[str, Any] = {
        "type": "secret",
        "permission": "events:audit",
        "data": [1, "two", None],
    }
    batch += [{"type": "bare"}, secret]
    response = await tenant.owner.client.post(f"{tenant.path}/events/batch", json=batch)
    assert response.status_code == 201, response.text


async def test_a_filter_that_lets_everything_through_changes_nothing(tenant: Tenant) -> None:
    await publish(tenant)
    cursor, seen = None, 0
    while True:
        where = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        hot, generic = [
            await read(tenant.owner, tenant.path, **others, **where) for others in ({}, EVERY_TYPE)
        ]
        assert hot == generic
        seen += len(hot[0].data)
        cursor = hot[0].page.next
        if cursor is None:
            break
    # The workspace and its owner were drawn as events, too.
    assert seen == 9


async def test_a_filtered_list_hides_what_the_list_hides(callers: Callers, tenant: Tenant) -> None:
    await publish(tenant)
    viewer = await add_member(callers, tenant, "viewer")
    hot, generic = [await read(viewer, tenant.path, **o) for o in ({}, EVERY_TYPE)]
    assert hot == generic
    assert {e.permission for e in hot[0].data} <= {None, "workspace:read", "members:read"}


LISTS = [o for o in OPERATIONS if o.method == "get" and named(o).startswith("list")]
# How other products' lists are sorted, narrowed or given further columns.
WORDS = {
    "sort",
    "order",
    "order_by",
    "select",
    "fields",
    "include",
    "expand",
    "filter",
    "or",
    "and",
}


async def test_a_list_does_nothing_with_a_parameter_that_the_contract_does_not_name(
    callers: Callers, tenant: Tenant
) -> None:
    async with callers.server.database.admin() as admin:
        found = await admin.fetch(
            "select distinct attname::text from pg_attribute a join pg_class c on c.oid = attrelid"
            " where relnamespace = 'annex'::regnamespace and relkind in ('r', 'p') and attnum > 0"
        )
    columns = {row[0] for row in found if row[0].isidentifier()}
    assert {"token_hash", "permission", "actor"} <= columns
    for make in MAKERS.values():
        await make(callers, tenant)
    asked = 0
    for operation in LISTS:
        known = queried(operation).keys()
        path = await path_of(callers, operation, tenant)
        query = required_query(operation)
        if "workspace" in known:
            query |= {"workspace": tenant.id}
        plain = await tenant.owner.client.get(path, params=query)
        if operation.permission == "operator":
            assert plain.status_code == 403
            continue
        unknown = sorted((columns | WORDS) - known)
        # A query has 100 parameters at most.
        parts = [unknown[n : n + 90] for n in range(0, len(unknown), 90)]
        for part, value in itertools.product(parts, ("x", "eq.null")):
            more = dict.fromkeys(part, value) | query
            answer = await tenant.owner.client.get(path, params=more)
            assert answer.status_code == plain.status_code == 200, (path, answer.text)
            assert answer.json()["data"] == plain.json()["data"], path
        asked += bool(plain.json()["data"])
    assert asked > 8
