"""A caller whose requests are spent costs the database nothing, whatever they call with."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.database.pools import Loan, Pool
from app.errors import RateLimited
from app.http.limits import Limiter
from tests.conftest import Callers, Running, Tenant, TestDatabase, new_tenant, running
from tests.factories import make_settings


@pytest.fixture
async def server(database: TestDatabase) -> AsyncIterator[Running]:
    async with running(database, rate_limit_requests=5) as made:
        yield made


@pytest.fixture
def lent(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """For whom connections for requests are lent from now on."""
    found, lend = list[str | None](), Pool.lend

    def note(pool: Pool, whose: str | None = None, group: str | None = None) -> Loan:
        if pool is server.app.runtime.database.api:
            found.append(whose)
        return lend(pool, whose, group)

    monkeypatch.setattr(Pool, "lend", note)
    return found


async def credential(callers: Callers, tenant: Tenant, what: str, **columns: Any) -> dict[str, Any]:
    """Return what a request carries to call as a key."""
    key = (await callers.key(tenant.id, "workspace:read", "events:read", **columns)).client
    if what == "ticket":
        made = await key.post("/api/v1/stream/tickets", json={"path": f"{tenant.path}/stream"})
        return {"params": {"ticket": made.json()["ticket"]}}
    if what == "exchanged":
        made = await key.post("/api/v1/api-keys/token", json={})
        return {"headers": {"Authorization": f"Bearer {made.json()['access_token']}"}}
    return {"headers": {"Authorization": key.headers["authorization"]}}


@pytest.mark.parametrize("what", ["key", "exchanged", "ticket"])
async def test_a_key_that_is_refused_for_its_rate_is_not_looked_up(
    callers: Callers, tenant: Tenant, lent: list[str | None], what: str
) -> None:
    carried = await credential(callers, tenant, what)
    path = f"{tenant.path}/stream" if what == "ticket" else tenant.path
    counts = []
    async with httpx.AsyncClient(base_url=callers.server.url) as client:
        for _ in range(12):
            lent.clear()
            async with client.stream("GET", path, **carried) as answer:
                assert answer.status_code in (200, 429)
            counts.append(len(lent))
    assert counts[0] > 0
    assert counts[-6:] == [0] * 6


@pytest.mark.parametrize("what", ["key", "exchanged", "ticket"])
async def test_a_key_that_is_refused_for_its_own_rate_is_not_looked_up(
    callers: Callers, tenant: Tenant, lent: list[str | None], what: str
) -> None:
    carried = await credential(callers, tenant, what, rate_limit_per_minute=2)
    path = f"{tenant.path}/stream" if what == "ticket" else tenant.path
    counts, policies = [], set[str | None]()
    async with httpx.AsyncClient(base_url=callers.server.url) as client:
        for _ in range(6):
            lent.clear()
            async with client.stream("GET", path, **carried) as answer:
                if answer.status_code == 429:
                    policies.add(answer.headers.get("ratelimit-policy"))
            counts.append(len(lent))
    assert counts[0] > 0
    assert counts[2:] == [0] * 4
    assert policies == (set() if what == "ticket" else {'"key";q=2;w=60'})


@pytest.mark.parametrize("limit", [100, None])
async def test_a_limit_that_was_raised_counts_with_the_next_look_up(
    callers: Callers, tenant: Tenant, limit: int | None
) -> None:
    key = await callers.key(tenant.id, "workspace:read", rate_limit_per_minute=1)
    limiter = callers.server.app.runtime.limiter
    assert [(await key.client.get(tenant.path)).status_code for _ in range(2)] == [200, 429]
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.api_keys set rate_limit_per_minute = $1 where workspace_id = $2",
            limit,
            UUID(tenant.id),
        )
    assert (await key.client.get(tenant.path)).status_code == 429
    ((name, own),) = [found for found in limiter.of_keys.items() if key.claims["sub"] in found[0]]
    own.put(name, 1.0, own.clock())  # a minute later
    assert [(await key.client.get(tenant.path)).status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("what", ["key", "exchanged", "ticket"])
async def test_every_connection_is_lent_by_turns(
    callers: Callers, tenant: Tenant, lent: list[str | None], what: str
) -> None:
    carried = await credential(callers, tenant, what)
    path = f"{tenant.path}/stream" if what == "ticket" else tenant.path
    async with httpx.AsyncClient(base_url=callers.server.url) as client:
        for _ in range(2):
            async with client.stream("GET", path, **carried) as answer:
                assert answer.status_code == 200
    assert lent
    assert None not in lent


def test_a_keys_own_rate_outlasts_a_thousand_others() -> None:
    limiter = Limiter(make_settings(), clock=lambda: 0.0)
    limiter.spend("api_key:a", 1)
    for n in range(2000):
        limiter.spend(f"api_key:{n}", n + 1)
    with pytest.raises(RateLimited):
        limiter.spend("api_key:a", 1)
    assert limiter.spend("api_key:a", 2)  # it was given more


@pytest.mark.parametrize("what", ["key", "exchanged", "ticket"])
async def test_a_key_that_its_address_may_not_use_counts_as_a_failure(
    database: TestDatabase, what: str
) -> None:
    async with running(database, max_failures_per_address=3) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        carried = await credential(callers, tenant, what)
        async with database.admin() as admin:
            await admin.execute(
                "update annex.api_keys set allowed_addresses = '{192.0.2.1}'"
                " where workspace_id = $1",
                UUID(tenant.id),
            )
        path = f"{tenant.path}/stream" if what == "ticket" else tenant.path
        answers = []
        async with httpx.AsyncClient(base_url=server.url) as client:
            for _ in range(5):
                answers.append((await client.get(path, **carried)).text)
        # A stream answers an EventSource with a reason, or with a pause, and always with 200.
        refused = ["address_not_allowed" in text for text in answers]
        assert refused == [True, True, True, False, False]
        # Who was accepted here before is still: others must not lose their access.
        assert (await tenant.owner.client.get(tenant.path)).status_code == 200
        await callers.close()


async def test_a_wrong_token_is_one_failure_wherever_it_is_sent(database: TestDatabase) -> None:
    async with running(database, max_failures_per_address=3) as server:
        headers = {"Authorization": "Bearer wrong"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
            answers = [(await client.get("/api/v1/me")).status_code for _ in range(4)]
    assert answers == [401, 401, 401, 429]
