"""Turns at the database are fair: who has hundreds of things to do delays nobody."""

import asyncio
import contextlib
from collections import Counter

import pytest

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
        pool = server.app.state.runtime.database.api
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
