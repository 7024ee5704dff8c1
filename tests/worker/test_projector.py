"""The projector beside events that cannot be fanned out: the others go on, and nothing is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest
import structlog

from app.database.pools import Database
from app.logs import configure_logging, reason_of
from app.worker import projector
from tests.conftest import TestDatabase, settings_for
from tests.database.conftest import Connection, fan_out, join, new_user, new_workspace
from tests.inbox.conftest import projected

SABOTAGE = """
create function public.sabotage() returns trigger language plpgsql as $$
begin {what}; return new; end $$;
create trigger sabotage before insert on annex.notifications
  for each row when (new.type = 'test.poison') execute function public.sabotage();
"""
MEND = "drop trigger sabotage on annex.notifications"


class Site(NamedTuple):
    """A database of its own, a workspace in it and a member."""

    database: TestDatabase
    admin: Connection
    workspace: UUID
    member: UUID

    async def publish(self, kind: str = "test.made", *users: UUID) -> UUID:
        """Publish an event to users, or to the member."""
        event: UUID = await self.admin.fetchval(
            "select annex.publish($1, $2, recipients => $3)",
            self.workspace,
            kind,
            [*users] or [self.member],
        )
        return event

    async def is_told(self, event: UUID) -> bool:
        """Say whether somebody was notified of an event."""
        found = "select exists (select from annex.notifications where event_id = $1)"
        return bool(await self.admin.fetchval(found, event))

    async def has_caught_up(self) -> bool:
        """Say whether the reader's cursor is at the end of the log."""
        return bool(
            await self.admin.fetchval(
                "select not exists (select from annex.pending) and exists ("
                "select from annex.readers r, annex.log_state s"
                " where r.name = 'projector' and r.pos = s.head)"
            )
        )

    async def fanout(self, event: UUID) -> asyncpg.Record | None:
        """Return how far an event's fan-out is; None if it is not queued."""
        return await self.admin.fetchrow("select * from annex.fanouts where event_id = $1", event)

    async def hurry(self) -> None:
        """Let the time of the next try come."""
        await self.admin.execute("update annex.fanouts set due_at = now()")


@pytest.fixture
async def site(own_database: TestDatabase) -> AsyncIterator[Site]:
    async with own_database.connect("postgres") as admin:
        workspace = await new_workspace(admin, await new_user(admin))
        member = await new_user(admin)
        await join(admin, workspace, member, "viewer")
        yield Site(own_database, admin, workspace, member)


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 30) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("raise exception 'a secret'", "RaiseError P0001"),
        ("perform 1 / 0", "DivisionByZeroError 22012"),
        ("perform pg_sleep(30)", "TimeoutError"),
    ],
)
async def test_an_event_that_cannot_be_fanned_out_stops_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch, what: str, error: str
) -> None:
    monkeypatch.setattr(projector, "PAGE_SECONDS", 1.0)
    await site.admin.execute(SABOTAGE.format(what=what))
    events = [await site.publish() for _ in range(3)]
    poison = await site.publish("test.poison")
    events += [await site.publish() for _ in range(3)]
    async with projected(site.database):
        for event in events:
            await until(partial(site.is_told, event))
        await until(site.has_caught_up)
        await until(lambda: site.fanout(poison))
        kept = await site.fanout(poison)
        assert kept is not None
        assert not await site.is_told(poison)
        await until(lambda: tried(site, poison, 1))
        kept = await site.fanout(poison)
        assert kept is not None
        assert kept["error"] == error
        # It is tried again, and once it is mended it arrives, once.
        await site.hurry()
        await until(lambda: tried(site, poison, 2))
        later = await site.publish()
        await until(lambda: site.is_told(later))
        await site.admin.execute(MEND)
        await site.hurry()
        await until(lambda: site.is_told(poison))
    assert await site.fanout(poison) is None
    assert await site.admin.fetchval("select count(*) from annex.notifications") == 8


async def tried(site: Site, event: UUID, times: int) -> bool:
    """Say whether an event's fan-out has failed so often."""
    kept = await site.fanout(event)
    return kept is not None and kept["attempts"] >= times


async def test_an_inbox_that_somebody_holds_delays_its_own_items_alone(site: Site) -> None:
    other = await new_user(site.admin)
    await join(site.admin, site.workspace, other, "viewer")
    async with site.database.connect("postgres") as holder, projected(site.database):
        await site.publish()
        await until(site.has_caught_up)
        async with holder.transaction():
            await holder.execute(
                "select from annex.profiles where user_id = $1 for no key update", other
            )
            held = [await site.publish("test.made", other) for _ in range(50)]
            began = time.monotonic()
            events = [await site.publish() for _ in range(5)]
            for event in events:
                await until(partial(site.is_told, event), 5)
            # Held ones are put aside together after 50 ms; one by one, they would wait for seconds.
            assert time.monotonic() - began < 1.5
            await until(site.has_caught_up)
            assert not any([await site.is_told(event) for event in held])
        await site.hurry()
        for event in held:
            await until(partial(site.is_told, event))


async def test_who_changes_items_without_a_pause_holds_up_no_other_recipient(site: Site) -> None:
    other = await new_user(site.admin)
    await join(site.admin, site.workspace, other, "viewer")
    event = await site.publish("test.made", site.member, other)
    changes = asyncio.Semaphore(0)
    change = (
        "with held as (select from annex.profiles where user_id = $1 for no key update)"
        " select pg_sleep(0.02) from held"
    )

    async def flood() -> None:
        async with site.database.connect("postgres") as connection:
            while True:
                await connection.execute(change, other)
                changes.release()

    async with asyncio.TaskGroup() as tasks:
        flooding = [tasks.create_task(flood()) for _ in range(3)]
        for _ in range(20):
            await changes.acquire()
        await site.admin.execute("select annex.queue_fanouts($1)", [event])
        for _ in range(3):  # a busy machine may take longer than the tenth of a second in line
            held = await site.admin.fetchval(
                "select held from annex.deliver(annex.due_fanouts(false))"
            )
            if not held:
                break
        for task in flooding:
            task.cancel()
    assert held == []
    assert await site.admin.fetchval("select count(*) from annex.notifications") == 2


async def test_who_snoozed_comes_back_whoever_else_is_busy(site: Site) -> None:
    other = await new_user(site.admin)
    await join(site.admin, site.workspace, other, "viewer")
    events = [await site.publish("test.made", user) for user in (site.member, other)]
    await fan_out(site.admin, *events)
    await site.admin.execute(
        "update annex.notifications set snoozed_until = now() - interval '1 second'"
    )
    await site.admin.execute(
        "update annex.inboxes set active = 0, unseen = 0, unread = 0, snoozed = 1"
    )
    woken = "select woken from annex.wake_notifications()"
    async with site.database.connect("postgres") as holder, holder.transaction():
        await holder.execute(
            "select from annex.profiles where user_id = $1 for no key update", other
        )
        async with site.database.connect("annex_worker") as worker:
            assert await worker.fetchval(woken) == 1
    async with site.database.connect("annex_worker") as worker:
        assert await worker.fetchval(woken) == 1
    assert await site.admin.fetchval("select sum(active) from annex.inboxes") == 2


async def test_what_is_given_up_is_an_error_in_the_log_without_the_errors_message(
    site: Site,
) -> None:
    event = await site.publish()
    await site.admin.execute("select annex.queue_fanouts($1)", [event])
    await site.admin.execute("update annex.fanouts set attempts = 10")
    settings = settings_for(site.database, log_level="warning")
    configure_logging(settings)
    async with Database(settings) as pools, pools.worker.lend() as driver:
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                reason = reason_of(asyncpg.RaiseError("a secret"))
                await projector.put_aside(driver, event, reason)
    assert [(line["log_level"], line["attempts"]) for line in lines] == [
        ("warning", 11),
        ("error", 12),
    ]
    assert lines[1]["event"] == "a fan-out was given up"
    assert "secret" not in str(lines)
