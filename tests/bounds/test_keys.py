"""A caller whose requests are spent costs the database nothing, whatever they call with."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.database.pools import Loan, Pool
from tests.conftest import Callers, Running, Tenant, TestDatabase, running


@pytest.fixture
async def server(database: TestDatabase) -> AsyncIterator[Running]:
    async with running(database, rate_limit_requests=5) as made:
        yield made


@pytest.fixture
def lent(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """For whom connections for requests are lent from now on."""
    found, lend = list[str | None](), Pool.lend

    def note(pool: Pool, whose: str | None = None) -> Loan:
        if pool is server.app.runtime.database.api:
            found.append(whose)
        return lend(pool, whose)

    monkeypatch.setattr(Pool, "lend", note)
    return found


async def credential(callers: Callers, tenant: Tenant, what: str) -> dict[str, Any]:
    """Return what a request carries to call as a key."""
    key = (await callers.key(tenant.id, "workspace:read", "events:read")).client
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
