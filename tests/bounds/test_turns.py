"""Turns at the database are fair: who has hundreds of things to do delays nobody."""

import asyncio
import contextlib
from collections import Counter

import pytest

from app.database import pools
from app.database.pools import Probe
from app.database.turns import Turns
from tests.conftest import Callers, Tenant, TestDatabase, new_tenant, running
from tests.realtime.reader import lent, until


async def test_a_principal_has_its_share_at_once_and_no_more() -> None:
    turns = Turns(5, 3)
    for _ in range(3):
        await turns.take("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await turns.take("a")
    await turns.take("b")
    await turns.take("c")
    assert turns.free == 0


@pytest.mark.parametrize("size", range(2, 11))
def test_whatever_its_share_a_principal_leaves_something_to_others(size: int) -> None:
    turns = Turns(size, 8)
    while turns.take_now("a"):
        pass
    assert turns.take_now("b")


def test_of_a_single_turn_everybody_has_their_share() -> None:
    assert Turns(1, 8).take_now("a")


async def test_those_who_wait_are_served_one_of_each_principal() -> None:
    turns, order = Turns(1, 1), list[str]()

    async def use(whose: str) -> None:
        async with turns.of(whose):
            order.append(whose)
            await asyncio.sleep(0)

    await asyncio.gather(*(use(w) for w in "aaaaaabbbc"))
    assert order == list("abcabab") + list("aaa")
    assert (turns.free, turns.under_way, turns.waiting) == (1, Counter(), {})


async def served(turns: Turns, *users: tuple[str, str]) -> list[str]:
    """Let principals take a turn of a group each, all at once; returns in which order they did."""
    order = list[str]()

    async def use(whose: str, group: str) -> None:
        await turns.take(whose, group)
        order.append(whose)
        await asyncio.sleep(0)
        turns.give(whose, group)

    await asyncio.gather(*(use(*each) for each in users))
    return order


async def test_a_crowd_of_one_workspace_is_served_as_one() -> None:
    turns = Turns(1, 1)
    crowd = [(f"c{n}", "loud") for n in range(30)]
    order = await served(turns, *crowd, ("a", "quiet"), ("a", "quiet"))
    assert order[:5] == ["c0", "a", "c1", "a", "c2"]
    assert sorted(order[5:]) == sorted(f"c{n}" for n in range(3, 30))
    assert (turns.free, turns.under_way, turns.of_groups) == (1, Counter(), Counter())
    assert turns.waiting == {}


async def test_a_crowd_of_one_workspace_leaves_something_to_others() -> None:
    turns = Turns(10, 8)
    taken = [turns.take_now(f"c{n}", "loud") for n in range(20)]
    assert taken.count(True) == 8
    assert turns.take_now("a", "quiet")


async def test_a_few_principals_with_hundreds_of_groups_wait_for_themselves() -> None:
    """Whoever has an account may name any workspace, also one that does not exist."""
    turns = Turns(10, 8)
    crowd = [(whose, f"{whose}{n}") for n in range(100) for whose in "ab"]
    order = await served(turns, *crowd, ("quiet", "quiet"))
    assert order.index("quiet") == 10
    assert (len(order), turns.free, turns.under_way) == (201, 10, Counter())
    assert (turns.of_groups, turns.waiting) == (Counter(), {})


async def test_a_turn_that_nobody_waits_for_any_more_is_the_next_ones() -> None:
    turns = Turns(1, 1)
    await turns.take("a")
    tasks = [asyncio.create_task(turns.take(w)) for w in "bcd"]
    await asyncio.sleep(0)
    tasks[0].cancel()  # while it waits
    turns.give("a")
    tasks[1].cancel()  # when it has just got it
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [t.cancelled() for t in tasks] == [True, True, False]
    turns.give("d")
    assert (turns.free, turns.under_way, turns.waiting) == (1, Counter(), {})


async def test_slow_statements_of_one_principal_leave_connections_to_others(
    database: TestDatabase,
) -> None:
    async with running(database, pool_size=4, max_statements_per_principal=3) as server:
        callers = Callers(server)
        loud, quiet = [await new_tenant(callers) for _ in range(2)]
        pool = server.app.runtime.database.api
        principal = f"user:{loud.owner.user_id}"

        async def hold() -> None:
            async with pool.lend(principal) as driver:
                with contextlib.suppress(Exception):
                    await driver.execute("select pg_sleep(60)", timeout=60)

        held = [asyncio.create_task(hold()) for _ in range(20)]
        await until(lambda: lent(pool) == 3)
        async with asyncio.timeout(20):
            for _ in range(10):
                assert (await quiet.owner.client.get(f"{quiet.path}/events")).status_code == 200
            await opens(quiet)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await callers.close()


async def opens(tenant: Tenant) -> None:
    """Open a stream."""
    async with tenant.owner.client.stream("GET", f"{tenant.path}/stream") as answer:
        assert answer.status_code == 200


async def test_keys_of_one_workspace_share_a_turn(database: TestDatabase) -> None:
    async with running(database) as server:
        callers = Callers(server)
        loud, quiet = [await new_tenant(callers) for _ in range(2)]
        keys = [await callers.key(loud.id, "workspace:read", "events:read") for _ in range(3)]
        other = await callers.key(quiet.id, "workspace:read", "events:read")
        for key in keys:
            assert (await key.client.get(f"{loud.path}/events")).status_code == 200
        turns = server.app.runtime.database.api.turns
        while turns.take_now(f"workspace:{loud.id}"):
            pass
        waiting = [asyncio.create_task(k.client.get(f"{loud.path}/events")) for k in keys]
        assert (await other.client.get(f"{quiet.path}/events")).status_code == 200
        # A user of the workspace is a principal of their own.
        assert (await loud.owner.client.get(f"{loud.path}/events")).status_code == 200
        assert not any(task.done() for task in waiting)
        while turns.under_way[f"workspace:{loud.id}"]:
            turns.give(f"workspace:{loud.id}")
        assert [r.status_code for r in await asyncio.gather(*waiting)] == [200] * 3
        await callers.close()


async def test_keys_of_one_workspace_share_a_rate(database: TestDatabase) -> None:
    async with running(database, rate_limit_workspace_requests=6) as server:
        callers = Callers(server)
        loud, quiet = [await new_tenant(callers) for _ in range(2)]
        keys = [await callers.key(loud.id, "workspace:read", "events:read") for _ in range(3)]
        answers = [await k.client.get(f"{loud.path}/events") for _ in range(3) for k in keys]
        assert [a.status_code for a in answers] == [200] * 6 + [429] * 3
        assert answers[-1].json()["code"] == "rate_limited"
        assert int(answers[-1].headers["retry-after"]) > 0
        async with keys[0].client.stream("GET", f"{loud.path}/stream") as stream:
            assert stream.status_code == 429
        other = await callers.key(quiet.id, "workspace:read", "events:read")
        assert (await other.client.get(f"{quiet.path}/events")).status_code == 200
        assert (await loud.owner.client.get(f"{loud.path}/events")).status_code == 200
        await callers.close()


async def test_strangers_who_ask_if_a_server_is_ready_cost_one_question_together(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database) as server:
        probe, asked = server.app.runtime.database.probe, 0
        ask = type(probe).ask

        async def count(self: Probe) -> str | None:
            nonlocal asked
            asked += 1
            fault: str | None = await ask(self)
            return fault

        monkeypatch.setattr(Probe, "ask", count)
        monkeypatch.setattr(pools, "PROBE_SECONDS", 60.0)
        callers = Callers(server)
        client = callers.client()
        answers = await asyncio.gather(*(client.get("/health/ready") for _ in range(20)))
        assert {a.status_code for a in answers} == {200}
        assert asked <= 1
        # A later one is asked anew, and what is wrong then is told to all.
        probe.asked_at -= 120
        async with contextlib.AsyncExitStack() as lent:
            for _ in range(server.settings.pool_size):
                await lent.enter_async_context(probe.pool.lend())
            answers = await asyncio.gather(*(client.get("/health/ready") for _ in range(5)))
        assert {a.status_code for a in answers} == {503}
        assert {a.json()["detail"] for a in answers} == {answers[0].json()["detail"]}
        assert int(answers[0].headers["retry-after"]) > 0
        probe.asked_at -= 120
        assert (await client.get("/health/ready")).status_code == 200
        await callers.close()


async def test_unknown_tokens_of_mails_are_budgeted(database: TestDatabase) -> None:
    form = {"List-Unsubscribe": "One-Click"}
    async with running(database, max_failures_per_address=5) as server:
        callers = Callers(server)
        stranger = callers.client()
        answers = [
            await stranger.post(f"/unsubscribe?token=annex_ut_{n:043}", data=form) for n in range(7)
        ]
        assert [a.status_code for a in answers] == [404] * 5 + [429] * 2
        assert answers[-1].json()["code"] == "too_many_failures"
        assert int(answers[-1].headers["retry-after"]) > 0
        await callers.close()


async def test_a_request_that_gets_no_connection_in_time_is_told_so_and_counted(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.pools.ACQUIRE_SECONDS", 0.1)
    async with running(database, pool_size=2, max_statements_per_principal=1) as server:
        callers = Callers(server)
        tenant, pool = await new_tenant(callers), server.app.runtime.database.api

        async def refused() -> set[str]:
            answer = await tenant.owner.client.get(tenant.path)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
            return {code for code, count in pool.refused.items() if count}

        async with pool.lend(f"user:{tenant.owner.user_id}"):
            assert await refused() == {"no_turn"}
        async with pool.lend(), pool.lend():
            assert await refused() == {"no_turn", "no_connection"}
        metrics = (await callers.operator().client.get("/metrics")).text
        for code in ("no_turn", "no_connection"):
            assert f'annex_refused_total{{code="{code}"}} 1.0' in metrics
        await callers.close()
