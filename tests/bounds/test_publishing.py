"""A workspace publishes so many events and bytes a minute; others and strangers notice nothing."""

from uuid import UUID, uuid4

import pytest

from app.errors import TooManyEvents
from app.http.budgets import PublishBudget
from tests.conftest import Callers, TestDatabase, new_tenant, running
from tests.factories import make_settings

SETTINGS = make_settings(max_events_per_minute=60, max_event_bytes_per_minute=6000)
WORKSPACE = UUID("0190a000-0000-7000-8000-0000000000aa")


@pytest.mark.parametrize(("events", "size"), [(61, 1), (1, 6001)])
def test_a_workspace_in_debt_waits_by_whatever_name(events: int, size: int) -> None:
    now = 0.0
    budget = PublishBudget(SETTINGS, lambda: now)
    budget.count("user:1", "acme", WORKSPACE, 1, 1)
    budget.count("user:1", str(WORKSPACE), WORKSPACE, events, size)
    for ws in ("acme", str(WORKSPACE), str(WORKSPACE).upper()):
        with pytest.raises(TooManyEvents) as refused:
            budget.check("user:1", ws)
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 3
    # A stranger is not told that there is such a workspace; another workspace goes on.
    budget.check("user:2", "acme")
    budget.count("user:1", "other", UUID(int=8), 1, 1)
    budget.check("user:1", "other")
    now = 3.0
    budget.check("user:1", "acme")
    assert budget.refused == {"too_many_events": 3}


async def test_beyond_the_budget_it_is_a_429_with_the_time_to_wait(database: TestDatabase) -> None:
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
        # By a user of the workspace too, as soon as that one has published.
        by_slug = f"/api/v1/workspaces/{loud.slug}/events"
        answers = [await loud.owner.client.post(by_slug, json=batch[0]) for _ in range(2)]
        assert [a.status_code for a in answers] == [201, 429]
        stranger = await quiet.owner.client.post(by_slug, json=batch[0])
        assert stranger.status_code == 404
        mine = await quiet.owner.client.post(f"{quiet.path}/events", json=batch[0])
        assert mine.status_code == 201
        metrics = await callers.operator().client.get("/metrics")
        assert 'annex_refused_total{code="too_many_events"} 3.0' in metrics.text
        await callers.close()


async def test_a_refused_event_is_not_counted(database: TestDatabase) -> None:
    async with running(database, max_events_per_minute=2) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        path = f"{tenant.path}/events"
        for _ in range(5):
            assert (await tenant.owner.client.post(path, json={"type": "X"})).status_code == 400
        assert (await tenant.owner.client.post(path, json={"type": "x"})).status_code == 201
        await callers.close()


async def test_who_has_as_much_queued_as_may_be_waits_and_others_do_not(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as server, own_database.connect("postgres") as admin:
        await admin.execute("update annex.limits set value = 3 where name = 'waiting_fanouts'")
        callers = Callers(server)
        loud, quiet = [await new_tenant(callers) for _ in range(2)]
        key = await callers.key(loud.id, "events:publish")
        told = {"type": "x", "recipients": [str(loud.owner.user_id)]}
        for _ in range(3):
            assert (await key.client.post(f"{loud.path}/events", json=told)).status_code == 201
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
        for path, body in (("events", told), ("events", batch[1]), ("events/batch", batch)):
            answer = await key.client.post(f"{loud.path}/{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_events")
            assert answer.headers["retry-after"] == "10"
        # What notifies nobody, and what others publish; SQL of one's own is not counted.
        assert (await key.client.post(f"{loud.path}/events", json=batch[0])).status_code == 201
        named = {"type": "x", "recipients": [str(quiet.owner.user_id)]}
        other = await quiet.owner.client.post(f"{quiet.path}/events", json=named)
        assert other.status_code == 201
        await admin.execute("select annex.publish($1, 'x', topics => array['t'])", UUID(loud.id))
        await admin.execute("delete from annex.fanouts where attempts > 0")
        assert (await key.client.post(f"{loud.path}/events", json=told)).status_code == 201
        await callers.close()
