from typing import Any

import httpx
import pytest

from tests.conftest import Caller, Callers, Tenant, add_member, new_tenant

TICKETS = "/api/v1/stream/tickets"


async def first_line(callers: Callers, url: str, **headers: str) -> tuple[int, str]:
    """Open a stream and return its status and first named event, then close it."""
    async with (
        httpx.AsyncClient(base_url=callers.server.url, timeout=5) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                return response.status_code, line.removeprefix("event: ")
    return response.status_code, ""


async def ticket_of(caller: Caller, path: str) -> httpx.Response:
    return await caller.client.post(TICKETS, json={"path": path})


@pytest.mark.parametrize("who", ["user", "key", "operator"])
async def test_a_ticket_opens_its_stream(callers: Callers, tenant: Tenant, who: str) -> None:
    caller = {
        "user": tenant.owner,
        "key": await callers.key(tenant.id, "events:read"),
        "operator": callers.operator(),
    }[who]
    made = await ticket_of(caller, f"{tenant.path}/stream")
    assert made.status_code == 201
    assert await first_line(callers, made.json()["url"]) == (200, "cursor")


async def test_a_ticket_is_for_its_path_only(callers: Callers, tenant: Tenant) -> None:
    made = await ticket_of(tenant.owner, f"{tenant.path}/stream")
    by_slug = f"/api/v1/workspaces/{tenant.slug}/stream?ticket={made.json()['ticket']}"
    assert await first_line(callers, by_slug) == (200, "unauthorized")


@pytest.mark.parametrize("cursor", [{}, {"Last-Event-ID": "of.another.time"}])
async def test_a_valid_bearer_credential_makes_up_for_a_bad_ticket(
    callers: Callers, tenant: Tenant, cursor: dict[str, str]
) -> None:
    url = f"{tenant.path}/stream?ticket=garbage"
    owner = {"Authorization": tenant.owner.client.headers["authorization"]}
    assert await first_line(callers, url, **owner, **cursor) in [(200, "cursor"), (200, "reset")]
    nobody = {"Authorization": "Bearer garbage"}
    assert await first_line(callers, url, **nobody, **cursor) == (200, "unauthorized")


async def test_a_ticket_is_no_credential_for_anything_but_streams(
    callers: Callers, tenant: Tenant
) -> None:
    ticket = (await ticket_of(tenant.owner, f"{tenant.path}/stream")).json()["ticket"]
    client = callers.client()
    assert (await client.get(tenant.path, params={"ticket": ticket})).status_code == 401
    assert (await callers.client(ticket).get(tenant.path)).status_code == 401


async def test_rights_lost_after_the_ticket_was_made_count(
    callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "viewer")
    url = (await ticket_of(member, f"{tenant.path}/stream")).json()["url"]
    async with callers.server.database.admin() as admin:
        await admin.execute("delete from annex.members where user_id = $1", member.user_id)
    assert await first_line(callers, url) == (200, "unauthorized")


@pytest.mark.parametrize(
    "path",
    ["/", "stream", "/api/v1/workspaces/acme", "/api/v1/me", "//api/v1/workspaces/a/stream"],
)
async def test_there_is_no_ticket_for_what_is_no_stream(tenant: Tenant, path: str) -> None:
    response = await ticket_of(tenant.owner, path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_there_is_no_ticket_for_a_workspace_out_of_sight(
    callers: Callers, tenant: Tenant
) -> None:
    other = await new_tenant(callers)
    key = await callers.key(other.id, "events:read")
    for caller in (await callers.user(), key):
        assert (await ticket_of(caller, f"{tenant.path}/stream")).status_code == 404


async def test_who_may_not_read_events_gets_no_ticket(callers: Callers, tenant: Tenant) -> None:
    key = await callers.key(tenant.id, "events:publish")
    response = await ticket_of(key, f"{tenant.path}/stream")
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("body", [{}, {"path": ""}, {"path": 1}, {"path": "/", "x": 1}, []])
async def test_a_body_of_another_shape_is_refused(tenant: Tenant, body: Any) -> None:
    response = await tenant.owner.client.post(TICKETS, json=body)
    assert response.status_code == 400
