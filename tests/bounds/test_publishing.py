"""A workspace publishes so many events and bytes a minute; others and strangers notice nothing."""

import asyncio
import itertools
import re
import time
from uuid import UUID, uuid4

import pytest

from app.database.work import Write
from app.errors import TooManyEvents
from app.http.budgets import PublishBudget, Share
from tests.conftest import Caller, Callers, Tenant, TestDatabase, new_tenant, running
from tests.factories import make_settings

SETTINGS = make_settings(max_events_per_minute=60, max_event_bytes_per_minute=6000)
WORKSPACE = UUID("0190a000-0000-7000-8000-0000000000aa")
OTHER = UUID(int=8)


@pytest.mark.parametrize(("events", "size"), [(61, 1), (1, 6001)])
def test_a_workspace_in_debt_waits_and_others_go_on(events: int, size: int) -> None:
    now = 0.0
    budget = PublishBudget(SETTINGS, lambda: now)
    Share(budget, events, size).take(WORKSPACE)
    for _ in range(3):
        with pytest.raises(TooManyEvents) as refused:
            Share(budget, 1, 1).take(WORKSPACE)
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 3
    Share(budget, 1, 1).take(OTHER)
    now = 3.0
    Share(budget, 1, 1).take(WORKSPACE)
    assert budget.refused == {"too_many_events": 3}


def test_what_is_under_way_counts_and_comes_back_if_it_fails() -> None:
    budget = PublishBudget(SETTINGS, lambda: 0.0)
    under_way = [Share(budget, 20, 1000) for _ in range(3)]
    for share in under_way:
        share.take(WORKSPACE)
    late = Share(budget, 20, 1000)
    with pytest.raises(TooManyEvents):
        late.take(WORKSPACE)
    late.give_back()  # it took nothing
    under_way[0].give_back()
    under_way[0].give_back()
    late.take(WORKSPACE)
    with pytest.raises(TooManyEvents):
        Share(budget, 1, 1).take(WORKSPACE)


def test_the_workspace_pays_that_a_slug_led_to() -> None:
    budget = PublishBudget(SETTINGS, lambda: 0.0)
    share = Share(budget, 60, 1)
    share.take(WORKSPACE)
    share.settle(OTHER)
    budget.check(WORKSPACE)
    with pytest.raises(TooManyEvents):
        budget.check(OTHER)


def test_a_name_that_is_known_is_so_for_its_principal_alone() -> None:
    budget = PublishBudget(SETTINGS)
    budget.learn("user:1", "acme", WORKSPACE)
    budget.learn("user:1", str(WORKSPACE), WORKSPACE)
    for ws in ("acme", str(WORKSPACE), str(WORKSPACE).upper()):
        assert budget.find("user:1", ws) == WORKSPACE
        assert budget.find("user:2", ws) is None
    budget.forget("user:1", "ACME")
    assert budget.find("user:1", "acme") is None


async def test_beyond_the_budget_it_is_a_429_with_the_time_to_wait(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database, max_events_per_minute=10) as server:
        callers = Callers(server)
        loud, quiet = [await new_tenant(callers) for _ in range(2)]
        key = await callers.key(loud.id, "events:publish")
        batch = [{"type": "x"}] * 20
        first = await key.client.post(f"{loud.path}/events/batch", json=batch)
        assert first.status_code == 201
        named = {"Idempotency-Key": uuid4().hex}
        for path, body in (("events", batch[0]), ("events/batch", batch)):
            answer = await key.client.post(f"{loud.path}/{path}", json=body, headers=named)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_events")
            assert int(answer.headers["retry-after"]) > 0
        # By a user of the workspace too, and by a key that was never used.
        by_slug = f"/api/v1/workspaces/{loud.slug}/events"
        fresh = await callers.key(loud.id, "events:publish")
        for caller in (loud.owner, fresh):
            answer = await caller.client.post(by_slug, json=batch[0])
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_events")
        # That was looked up once: no further refusal asks the database.
        monkeypatch.setattr(Write, "reach", None)
        for caller in (loud.owner, fresh):
            assert (await caller.client.post(by_slug, json=batch[0])).status_code == 429
        monkeypatch.undo()
        # Who may not publish there is told so, as ever.
        reading = await callers.key(loud.id, "events:read")
        assert (await reading.client.post(by_slug, json=batch[0])).status_code == 403
        stranger = await quiet.owner.client.post(by_slug, json=batch[0])
        assert stranger.status_code == 404
        mine = await quiet.owner.client.post(f"{quiet.path}/events", json=batch[0])
        assert mine.status_code == 201
        metrics = await callers.operator().client.get("/metrics")
        assert 'annex_refused_total{code="too_many_events"} 6.0' in metrics.text
        await callers.close()


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_a_refused_event_is_not_counted(
    headers: dict[str, str], database: TestDatabase
) -> None:
    async with running(database, max_events_per_minute=2) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        path, client = f"{tenant.path}/events", tenant.owner.client
        # The first is refused here, the second in SQL.
        for body in ({"type": "X"}, {"type": "x", "source": "annex"}):
            for _ in range(3):
                answer = await client.post(path, json=body, headers=headers)
                assert answer.status_code == 400, answer.text
        assert (await client.post(path, json={"type": "x"}, headers=headers)).status_code == 201
        await callers.close()


async def publish(tenant: Tenant, caller: Caller, key: str | None = None) -> int:
    """Publish 20 events, by an idempotency key if there is one; returns the status."""
    headers = {"Idempotency-Key": key} if key else {}
    url = f"{tenant.path}/events/batch"
    answer = await caller.client.post(url, json=[{"type": "x"}] * 20, headers=headers)
    assert answer.status_code in (201, 429), answer.text
    return answer.status_code


async def test_requests_at_once_by_keys_that_were_never_used_stay_within_it(
    database: TestDatabase,
) -> None:
    async with running(database, max_events_per_minute=60) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        keys = [await callers.key(tenant.id, "events:publish") for _ in range(6)]
        named = itertools.count()

        began = time.monotonic()
        statuses = await asyncio.gather(
            *(
                publish(tenant, caller, f"k-{next(named)}" if is_once else None)
                for caller in (*keys, tenant.owner)
                for is_once in (True, False) * 2
            )
        )
        # What came back meanwhile may let another one in for each event.
        most = 3 + 1 + int(time.monotonic() - began)
        assert 3 <= statuses.count(201) <= most
        await callers.close()


async def test_a_replay_costs_nothing_of_it_and_is_answered_beyond_it(
    database: TestDatabase,
) -> None:
    async with running(database, max_events_per_minute=30) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        key = uuid4().hex
        assert [await publish(tenant, tenant.owner, key) for _ in range(5)] == [201] * 5
        assert await publish(tenant, tenant.owner) == 201
        assert await publish(tenant, tenant.owner) == 429
        assert await publish(tenant, tenant.owner, key) == 201
        await callers.close()


async def test_who_has_as_much_queued_as_may_be_waits_and_others_do_not(
    own_database: TestDatabase,
) -> None:
    limits = {"max_event_bytes_per_minute": 10_000}
    async with running(own_database, **limits) as server, own_database.connect("postgres") as admin:
        await admin.execute("update annex.limits set value = 3 where name = 'waiting_fanouts'")
        callers = Callers(server)
        loud, quiet = [await new_tenant(callers) for _ in range(2)]
        key = await callers.key(loud.id, "events:publish")
        told = {"type": "x", "recipients": [str(loud.owner.user_id)]}
        known = [{**told, "key": str(n)} for n in range(3)]
        for event in known:
            assert (await key.client.post(f"{loud.path}/events", json=event)).status_code == 201
        # As the projector does it; one of them has failed since, another one was begun.
        await admin.execute(
            "select annex.queue_fanouts(array_agg(event_id)) from annex.events"
            " where recipients is not null"
        )
        await admin.execute(
            "update annex.fanouts set is_begun = true, attempts = (event_id = $1)::integer",
            await admin.fetchval("select event_id from annex.fanouts limit 1"),
        )
        batch = [{"type": "x"}, {"type": "x", "topics": ["t"]}]
        # A topic that nobody follows is of streams alone; what was published before adds nothing.
        for path, body, status in (
            ("events", batch[1], 201),
            ("events/batch", [*batch, *known], 201),
            ("events", known[0], 200),
            ("events/batch", known, 200),
        ):
            answer = await key.client.post(f"{loud.path}/{path}", json=body)
            assert answer.status_code == status, answer.text
        await admin.execute(
            "insert into annex.subscriptions (workspace_id, user_id, topic, reason)"
            " values ($1, $2, 't', 'added')",
            UUID(loud.id),
            loud.owner.user_id,
        )
        for path, body in (
            ("events", told),
            ("events", batch[1]),
            ("events/batch", batch),
            ("events/batch", [*known, told]),
        ):
            answer = await key.client.post(f"{loud.path}/{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_events")
            assert answer.headers["retry-after"] == "10"
        assert await refusals(callers) == 4
        # What notifies nobody, and what others publish; SQL of one's own is not counted.
        assert (await key.client.post(f"{loud.path}/events", json=batch[0])).status_code == 201
        named = {"type": "x", "recipients": [str(quiet.owner.user_id)]}
        other = await quiet.owner.client.post(f"{quiet.path}/events", json=named)
        assert other.status_code == 201
        await admin.execute("select annex.publish($1, 'x', topics => array['t'])", UUID(loud.id))
        await admin.execute("delete from annex.fanouts where attempts > 0")
        assert (await key.client.post(f"{loud.path}/events", json=told)).status_code == 201
        # What the budget of a minute refuses has the same code; both are counted, each once.
        large = {"type": "x", "data": {"filling": "x" * 20_000}}
        assert (await key.client.post(f"{loud.path}/events", json=large)).status_code == 201
        assert (await key.client.post(f"{loud.path}/events", json=told)).status_code == 429
        assert await refusals(callers) == 5
        other = await quiet.owner.client.post(f"{quiet.path}/events", json=named)
        assert other.status_code == 201
        await callers.close()


async def refusals(callers: Callers) -> float:
    """Return how many requests were refused with `too_many_events`, as Prometheus is told."""
    metrics = (await callers.operator().client.get("/metrics")).text
    [count] = re.findall(r'^annex_refused_total{code="too_many_events"} (\S+)$', metrics, re.M)
    return float(count)
