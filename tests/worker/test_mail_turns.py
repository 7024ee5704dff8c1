"""Whose items are looked at first for mails, out of which budget they go, and one that fails."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

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


async def due_again(post: Post) -> None:
    """Let the time come at which items are looked at again."""
    await post.execute("update annex.mail_retries set next_attempt_at = now()")


async def retries(post: Post) -> list[Any]:
    async with post.callers.server.database.admin() as admin:
        return list(await admin.fetch("select * from annex.mail_retries"))


# Its own data, a missing right, a deadlock, a lock that is not had in time, a disk that is full,
# and what a trigger of the project's own raises.
@pytest.mark.parametrize("code", ["22023", "23514", "42501", "40P01", "55P03", "53100", "P0001"])
async def test_an_item_that_fails_stops_no_other_and_is_tried_again(post: Post, code: str) -> None:
    users = [await post.member() for _ in range(3)]
    await refuse(post, users[1], code)
    await post.notify(*users)
    for wait in (timedelta(seconds=30), timedelta(seconds=60)):
        began = datetime.now(UTC)
        with structlog.testing.capture_logs() as logs:
            await post.send()
        assert sent(post) == {users[0].email, users[2].email}
        (entry,) = [e for e in logs if "notification_ids" in e]
        assert entry["errors"] == [code]
        assert "secret" not in str(entry)
        (waits,) = await retries(post)
        assert entry["notification_ids"] == [str(waits["notification_id"])]
        assert began + wait <= waits["next_attempt_at"] <= datetime.now(UTC) + wait
        # Until then it is left alone.
        await post.execute("update annex.mail_retries set next_attempt_at = now() + '1 hour'")
        await post.send()
        assert [r["attempts"] for r in await retries(post)] == [waits["attempts"]]
        await due_again(post)
    await post.execute("drop trigger refuse on annex.mails")
    await post.send()
    assert sent(post) == {u.email for u in users}
    assert await retries(post) == []


async def test_an_item_that_fails_for_a_day_is_given_up(post: Post) -> None:
    user, other = await post.member(), await post.member()
    await refuse(post, user, "42501")
    await post.notify(user)
    await post.send()
    old = "annex.uuid7_floor(now() - interval '25 hours')"
    await post.execute(f"update annex.notifications set id = {old}")
    item = "(select n.id from annex.notifications n)"
    await post.execute(f"update annex.mail_retries set notification_id = {item}")
    await due_again(post)
    await post.notify(other)
    with structlog.testing.capture_logs() as logs:
        await post.send()
    (entry,) = [e for e in logs if e["log_level"] == "error"]
    assert entry["event"] == "notifications are not mailed"
    assert len(entry["notification_ids"]) == 1
    assert await retries(post) == []
    assert sent(post) == {other.email}


async def test_items_that_fail_take_turns_by_tenant_and_leave_room_for_new_ones(post: Post) -> None:
    loud = [await post.member() for _ in range(12)]
    quiet = post._replace(tenant=await new_tenant(post.callers))
    other, late = await quiet.member(), await quiet.member()
    await post.execute("alter table annex.mails add constraint refuse check (recipient = '')")
    await post.notify(*loud)
    await quiet.notify(other)
    await queued(post)
    assert len(await retries(post)) == 13
    await post.execute("alter table annex.mails drop constraint refuse")
    await due_again(post)
    await quiet.notify(late)
    async with post.callers.server.database.connect("annex_worker") as worker:
        (said,) = await worker.fetch(QUEUE, 1000)
    # Two of a call of ten are tries, one of each tenant.
    assert said["looked"] == 3
    first = await mailed(post)
    assert {*first} > {other.user_id, late.user_id}
    assert len(first) == 3


async def test_what_no_item_can_pass_loses_no_mail(post: Post) -> None:
    users = [await post.member() for _ in range(3)]
    await post.notify(*users)
    find = "function annex.find_user(uuid)"
    await post.execute(f"alter {find} rename to lost_user")
    await post.send()
    assert {r["error"] for r in await retries(post)} == {"42883"}
    await post.execute("alter function annex.lost_user(uuid) rename to find_user")
    await due_again(post)
    await post.send()
    assert sent(post) == {u.email for u in users}


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
