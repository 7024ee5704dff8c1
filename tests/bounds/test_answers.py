"""Kept answers are bounded in bytes: of a user, and of all API keys of a workspace together."""

import asyncio
from uuid import UUID, uuid4

import pytest

from app.errors import RateLimited
from app.http.budgets import AnswerBudget
from app.principals import Principal
from tests.conftest import Callers, TestDatabase, new_tenant, running
from tests.factories import make_settings

SETTINGS = make_settings(max_kept_answer_bytes=86_400)


def test_keys_of_one_workspace_share_what_is_kept_and_it_comes_back_within_a_day() -> None:
    now = 0.0
    budget = AnswerBudget(SETTINGS, lambda: now)
    keys = [Principal(kind="api_key", id=str(uuid4()), workspace_id=UUID(int=1)) for _ in "ab"]
    others = [
        Principal(kind="api_key", id=str(uuid4()), workspace_id=UUID(int=2)),
        Principal(kind="user", id=str(uuid4())),
    ]
    budget.count(keys[0], 86_400)
    for key in keys:
        with pytest.raises(RateLimited) as refused:
            budget.check(key)
        assert refused.value.headers["Retry-After"] == "1"
    for other in others:
        budget.check(other)
    assert budget.refused == 2
    now = 1.0
    budget.check(keys[1])


async def test_beyond_it_a_new_key_is_refused_and_a_replay_is_not(database: TestDatabase) -> None:
    async with running(database, max_kept_answer_bytes=10) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        first, second = [{"Idempotency-Key": uuid4().hex} for _ in range(2)]

        async def publish(headers: dict[str, str]) -> tuple[int, str | None]:
            answer = await tenant.owner.client.post(
                f"{tenant.path}/events", json={"type": "x"}, headers=headers
            )
            return answer.status_code, answer.json().get("code")

        assert await publish(first) == (201, None)
        assert await publish(second) == (429, "rate_limited")
        assert await publish(first) == (201, None)
        assert await publish({}) == (201, None)
        listed = (await tenant.owner.client.get(f"{tenant.path}/events?types=x")).json()["data"]
        assert len(listed) == 2
        metrics = await callers.operator().client.get("/metrics")
        assert 'annex_refused_total{code="rate_limited"} 1.0' in metrics.text
        await callers.close()


async def test_what_is_counted_is_what_the_table_grows_by(own_database: TestDatabase) -> None:
    async with running(own_database) as server, own_database.connect("postgres") as admin:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        budget = server.app.runtime.answers.bytes
        budget.clock = lambda: 0.0  # so that nothing comes back meanwhile
        size = "select pg_total_relation_size('annex.idempotency_keys')"

        async def publish(_: int) -> None:
            answer = await tenant.owner.client.post(
                f"{tenant.path}/events",
                json={"type": "x"},
                headers={"Idempotency-Key": uuid4().hex},
            )
            assert answer.status_code == 201

        await publish(0)
        before, name = await admin.fetchval(size), f"user:{tenant.owner.user_id}"
        tokens = budget.found[name][0]
        for n in range(0, 400, 8):
            await asyncio.gather(*map(publish, range(n, n + 8)))
        grown, counted = await admin.fetchval(size) - before, tokens - budget.found[name][0]
        assert 0.7 * grown < counted < 3 * grown, (grown, counted)
        await callers.close()
