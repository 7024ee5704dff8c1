"""Whose items are looked at first for mails, out of which budget they go, and one that fails."""

from typing import Any
from uuid import UUID

import structlog

from tests.conftest import new_tenant
from tests.worker.post import Post, post

__all__ = ["post"]

QUEUE = "select * from annex.queue_notification_mails(0, $1, 10)"


async def queued(post: Post, most: int = 1000) -> list[Any]:
    """Queue mails, ten items a call, until no more are ripe; returns what each call said."""
    said = list[Any]()
    async with post.callers.server.database.connect("annex_worker") as worker:
        while not said or not said[-1]["is_last"]:
            said += await worker.fetch(QUEUE, most)
            assert len(said) < 100
    return said


async def mailed(post: Post) -> list[UUID | None]:
    """Return whose mails wait, in the order in which they were queued."""
    return [m["user_id"] for m in await post.outbox() if m["skip_reason"] is None]


async def test_the_items_of_one_tenant_hold_up_nobody_elses(post: Post) -> None:
    loud = [await post.member() for _ in range(30)]
    quiet = post._replace(tenant=await new_tenant(post.callers))
    other = await quiet.member()
    await post.notify(*loud)
    await quiet.notify(other)
    said = await queued(post)
    # All were looked at, and each once.
    assert sum(row["looked"] for row in said) == 31
    order = await mailed(post)
    assert len(order) == 31
    assert {*order} == {*(u.user_id for u in loud), other.user_id}
    # Two of theirs a call, and two of their backlog: of thirty that came before, most wait.
    assert order.index(other.user_id) <= 12
    async with post.callers.server.database.admin() as admin:
        assert await admin.fetchval("select count(*) from annex.mail_backlogs") == 0
    # What comes later comes after that.
    await post.notify(loud[0])
    assert [row["looked"] for row in await queued(post)] == [1]


async def test_tenants_with_backlogs_take_turns(post: Post) -> None:
    tenants = [post, *[post._replace(tenant=await new_tenant(post.callers)) for _ in range(2)]]
    users = [await one.member() for one in tenants]
    for one, user in zip(tenants, users, strict=True):
        for _ in range(12):
            await one.notify(user)
    said = await queued(post)
    assert sum(row["looked"] for row in said) == 36
    order = await mailed(post)
    assert len(order) == 36
    # The last one to publish has not waited for all of the others'.
    assert order.index(users[2].user_id) < 18


async def test_what_is_critical_has_a_budget_of_its_own(post: Post) -> None:
    users = [await post.member() for _ in range(4)]
    await post.type("test.alarm", is_critical=True)
    await post.notify(*users)
    await queued(post, 2)
    assert len(await mailed(post)) == 2
    await post.notify(*users, type="test.alarm")
    await queued(post, 2)
    assert len(await mailed(post)) == 4
    await post.notify(*users)
    await queued(post, 2)
    assert len(await mailed(post)) == 4


async def test_an_item_that_fails_is_logged_and_stops_no_other(post: Post) -> None:
    users = [await post.member() for _ in range(3)]
    await post.execute(f"""
        create function public.refuse() returns trigger language plpgsql as $$
        begin
          raise exception 'secret';
        end
        $$;
        create trigger refuse before insert on annex.mails for each row
        when (new.user_id = '{users[1].user_id}') execute function public.refuse()
    """)
    await post.notify(*users)
    with structlog.testing.capture_logs() as logs:
        await post.queue()
    assert {*await mailed(post)} == {users[0].user_id, users[2].user_id}
    (entry,) = [e for e in logs if e["log_level"] == "error"]
    assert entry["event"] == "notifications failed and are not mailed"
    assert len(entry["notification_ids"]) == 1
    assert "secret" not in str(entry)
