"""A ticket opens its own stream, and tells nobody who finds it later anything of the past."""

from http.cookies import SimpleCookie
from uuid import UUID

import httpx
import pytest

from tests.conftest import Callers, Running, Tenant
from tests.realtime.reader import cursor_at_head, follow, new_tenant, number, problem_of

TICKETS = "/api/v1/stream/tickets"


@pytest.fixture
async def tenant(callers: Callers) -> Tenant:
    return await new_tenant(callers)


async def issue(tenant: Tenant) -> httpx.Response:
    made = await tenant.owner.client.post(TICKETS, json={"path": f"{tenant.path}/stream"})
    assert made.status_code == 201
    return made


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first minute of every ticket be over."""
    monkeypatch.setattr("app.auth.tickets.CONNECT_SECONDS", -1)


async def test_the_cookie_goes_to_its_stream_alone_and_to_no_script(tenant: Tenant) -> None:
    made = await issue(tenant)
    cookie = SimpleCookie(made.headers["set-cookie"])["annex_ticket"]
    assert cookie.value == made.json()["ticket"]
    assert cookie["path"] == f"{tenant.path}/stream"
    assert (cookie["httponly"], cookie["secure"]) == (True, True)
    assert cookie["samesite"].lower() == "strict"
    assert 0 < int(cookie["max-age"]) <= 24 * 3600


async def test_the_cookie_opens_its_stream_as_the_ticket_does(
    callers: Callers, tenant: Tenant
) -> None:
    cookies = {"Cookie": f"annex_ticket={(await issue(tenant)).json()['ticket']}"}
    browser = callers.client()
    browser.headers.update(cookies)
    async with follow(browser, f"{tenant.path}/stream") as reader:
        assert (await reader.message()).event == "cursor"
        await number(tenant, "a")
        assert await reader.names(1) == ["a"]
    other = await new_tenant(callers)
    async with follow(browser, f"{other.path}/stream") as reader:
        assert problem_of(await reader.message()) == "invalid_ticket"
    # It is no credential for anything else.
    answer = await browser.get(f"{tenant.path}/events")
    assert (answer.status_code, answer.json()["code"]) == (401, "missing_credentials")


async def test_a_ticket_that_was_found_later_shows_nothing_of_before_it(
    callers: Callers, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cursor_at_head(server, tenant)
    await number(tenant, "past")
    await server.app.runtime.tail.catch_up()
    later(monkeypatch)
    ticket = (await issue(tenant)).json()["ticket"]
    stranger, path = callers.client(), f"{tenant.path}/stream"
    for cursor in (before, None, "garbled", server.app.runtime.hub.stand()(UUID(int=7))):
        async with follow(stranger, path, cursor, ticket=ticket) as reader:
            assert problem_of(await reader.message()) == "invalid_ticket"
    # Its own reader comes back with a cursor that its stream gave.
    own = cursor_at_head(server, tenant)
    await number(tenant, "new")
    async with follow(stranger, path, own, ticket=ticket) as reader:
        assert await reader.names(1) == ["new"]


@pytest.mark.parametrize("is_joined", [True, False])
async def test_of_several_cursors_the_last_one_counts(
    is_joined: bool, server: Running, tenant: Tenant
) -> None:
    first = cursor_at_head(server, tenant)
    await number(tenant, "a")
    await server.app.runtime.tail.catch_up()
    last = cursor_at_head(server, tenant)
    await number(tenant, "b")
    values = [f"{first}, {last}"] if is_joined else [first, last]
    client = tenant.owner.client
    async with httpx.AsyncClient(base_url=client.base_url, timeout=10) as plain:
        headers = [("Authorization", client.headers["authorization"])]
        headers += [("Last-Event-ID", value) for value in values]
        plain.headers = httpx.Headers(headers)
        async with follow(plain, f"{tenant.path}/stream") as reader:
            assert await reader.names(1) == ["b"]
