"""Every list of the contract ends a page at its size, and goes on with the next item."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Callers, Tenant, add_member, new_tenant
from tests.database.conftest import fan_out
from tests.operations import (
    OPERATIONS,
    Operation,
    invited,
    made_event,
    made_invitation,
    made_join_rule,
    made_key,
    made_member,
    made_notification,
    made_role,
    made_topic,
    named,
    resolved,
)

LISTS = [
    operation
    for operation in OPERATIONS
    if any(resolved(p)["name"] == "cursor" for p in operation.spec.get("parameters", ()))
]


async def made_workspace(_: Callers, tenant: Tenant) -> str:
    made = await tenant.owner.client.post("/api/v1/workspaces", json={"name": "x"})
    return str(made.json()["id"])


async def made_event_type(callers: Callers, _: Tenant) -> str:
    name = f"pages.t{uuid4().hex[:8]}"
    body = {"category": "general"}
    answer = await callers.operator().client.put(f"/api/v1/event-types/{name}", json=body)
    assert answer.status_code == 201, answer.text
    return name


async def made_own_invitation(callers: Callers, tenant: Tenant) -> str:
    return await invited(await new_tenant(callers), tenant.owner)


async def made_trace(callers: Callers, tenant: Tenant) -> str:
    """Publish what two members are told of; returns the event's id."""
    members = [await add_member(callers, tenant, "member") for _ in range(3)]
    event = {"type": "x", "recipients": [str(m.user_id) for m in members]}
    made = (await tenant.owner.client.post(f"{tenant.path}/events", json=event)).json()["id"]
    async with callers.server.database.admin() as admin:
        await fan_out(admin, UUID(made))
    return str(made)


FILLED: dict[str, Callable[[Callers, Tenant], Awaitable[str]]] = {
    "listWorkspaces": made_workspace,
    "listMembers": made_member,
    "listInvitations": made_invitation,
    "listJoinRules": made_join_rule,
    "listRoles": made_role,
    "listApiKeys": made_key,
    "listEventTypes": made_event_type,
    "listEvents": made_event,
    "listMyInvitations": made_own_invitation,
    "listMySubscriptions": made_topic,
    "listMyNotifications": made_notification,
    "traceEvent": made_trace,
}


@pytest.mark.parametrize("operation", LISTS, ids=named)
async def test_a_page_ends_at_its_size_and_the_next_goes_on(
    operation: Operation, callers: Callers, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = FILLED[named(operation)]
    made = [await fill(callers, tenant) for _ in range(3)]
    path = operation.path.replace("{ws}", tenant.id).replace("{event_id}", made[-1])
    params: dict[str, Any] = {"limit": 100, "workspace": tenant.id}
    client = tenant.owner.client
    whole = (await client.get(path, params=params)).json()["data"]
    assert len(whole) >= 3
    # One item may be larger than a page.
    monkeypatch.setattr("app.database.reads.MAX_PAGE_BYTES", 1)
    answer = await client.get(path, params=params)
    found = list[Any]()
    for _ in whole:
        assert len(answer.json()["data"]) == 1
        found += answer.json()["data"]
        if (url := answer.links.get("next", {}).get("url")) is None:
            break
        answer = await client.get(url)
    assert answer.json()["page"]["next"] is None
    assert found == whole


def test_every_list_is_filled_by_this_test() -> None:
    assert {named(operation) for operation in LISTS} == FILLED.keys()
