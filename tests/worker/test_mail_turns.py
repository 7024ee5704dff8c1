"""Whose items are looked at first for mails, out of which budget they go, and one that fails."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest
import structlog

from app.database.pools import Database
from app.settings import Settings
from app.worker import notification_mails
from tests.conftest import Caller, new_tenant
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


def sent(post: Post) -> set[str | None]:
    """Return to whom mails came."""
    return {r.recipients[0] for r in post.mailbox.received}


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


async def test_what_is_left_of_a_creator_who_is_erased_is_mailed(post: Post) -> None:
    # So that it is no owner's workspace alone, which would go with them.
    users = [await post.member("owner"), *[await post.member() for _ in range(19)]]
    await post.notify(*users)
    async with post.callers.server.database.connect("annex_worker") as worker:
        await worker.fetch(QUEUE, 1000)
    creator = post.tenant.owner.user_id
    async with post.callers.server.database.admin() as admin:
        assert await admin.fetchval("select tenant from annex.mail_backlogs") == creator
        await admin.execute("delete from auth.users where id = $1", creator)
        moved = await admin.fetchval("select tenant from annex.mail_backlogs")
    assert moved == UUID(post.tenant.id)
    await queued(post)
    assert {*await mailed(post)} == {u.user_id for u in users}


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


async def refuse(post: Post, user: Caller, code: str) -> None:
    """Let mails to a user fail with a SQLSTATE."""
    await post.execute(f"""
        create function public.refuse() returns trigger language plpgsql as $$
        begin
          raise exception 'secret' using errcode = '{code}';
        end
        $$;
        create trigger refuse before insert on annex.mails for each row
        when (new.user_id = '{user.user_id}') execute function public.refuse()
    """)


@pytest.mark.parametrize("code", ["22023", "23514"])
async def test_an_item_whose_data_fail_is_logged_and_stops_no_other(post: Post, code: str) -> None:
    users = [await post.member() for _ in range(3)]
    await refuse(post, users[1], code)
    await post.notify(*users)
    with structlog.testing.capture_logs() as logs:
        await post.send()
    assert sent(post) == {users[0].email, users[2].email}
    (entry,) = [e for e in logs if e["log_level"] == "error"]
    assert entry["event"] == "notifications failed and are not mailed"
    assert len(entry["notification_ids"]) == 1
    assert "secret" not in str(entry)


# A missing right, a deadlock, a lock that is not had in time, a disk that is full.
@pytest.mark.parametrize("code", ["42501", "40P01", "55P03", "53100"])
async def test_what_is_not_of_an_items_data_is_tried_again_and_loses_no_mail(
    post: Post, code: str
) -> None:
    early, *users = [await post.member() for _ in range(4)]
    await post.notify(early)
    await post.queue()
    await refuse(post, users[1], code)
    await post.notify(*users)
    for _ in range(2):
        with pytest.raises(asyncpg.PostgresError) as raised:
            await post.send()
        assert raised.value.sqlstate == code
    # What had been queued before does not wait for it.
    assert sent(post) == {early.email}
    await post.execute("drop trigger refuse on annex.mails")
    await post.send()
    assert sent(post) == {early.email, *(u.email for u in users)}


async def test_a_lost_right_to_look_up_users_loses_no_mail(post: Post) -> None:
    user = await post.member()
    await post.notify(user)
    find = "function annex.find_user(uuid)"
    await post.execute(f"alter {find} rename to lost_user")
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await post.send()
    await post.execute("alter function annex.lost_user(uuid) rename to find_user")
    await post.send()
    assert sent(post) == {user.email}


async def test_mails_are_sent_while_another_tenant_has_a_backlog(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = [await post.member() for _ in range(40)]
    quiet = post._replace(tenant=await new_tenant(post.callers))
    other = await quiet.member()
    await post.notify(*loud)
    await quiet.notify(other)
    looks = list[tuple[bool, int]]()
    queue = notification_mails.queue

    async def spy(settings: Settings, database: Database) -> bool:
        is_last = await queue(settings, database)
        async with post.callers.server.database.admin() as admin:
            backlogs = await admin.fetchval("select count(*) from annex.mail_backlogs")
        looks.append((other.email in sent(post), backlogs))
        return is_last

    monkeypatch.setattr(notification_mails, "LOOKED_AT_ONCE", 10)
    monkeypatch.setattr(notification_mails, "queue", spy)
    await post.send()
    # It was queued by the first look, and was there before the second one.
    assert looks[0] == (False, 1)
    assert looks[1] == (True, 1)
    assert looks[-1] == (True, 0)
    # What was left of each batch was used, though only one tenant had more.
    assert len(looks) <= 6
    assert sent(post) == {other.email, *(u.email for u in loud)}
    assert len(post.mailbox.received) == 41


async def test_new_items_are_looked_at_while_mails_wait(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = [await post.member() for _ in range(12)]
    await post.notify(*loud)
    await post.queue()
    quiet = post._replace(tenant=await new_tenant(post.callers))
    other = await quiet.member()
    await quiet.notify(other)
    monkeypatch.setattr(notification_mails, "BATCHES", 1)
    await post.send()
    order = [r.recipients[0] for r in post.mailbox.received]
    assert len(order) == 13
    # After one batch of five, it was queued, and its turn came with the next one.
    assert order.index(str(other.email)) < 10
