"""A session that holds every advisory lock that it can think of delays nobody."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import ROOT, Callers, TestDatabase, new_tenant, running
from tests.database.conftest import fan_out, new_user, new_workspace

# Every row is one that a version of Annex took, or takes when it is installed.
HOLD = """
select count(pg_advisory_lock(1095653376 + class, key))
from generate_series(0, 20) class, generate_series(0, 5) key
"""
HOLD_ONE_KEY = (
    "select count(pg_advisory_lock((1095653376::bigint + n) << 32)) from generate_series(0, 20) n"
)
WORK: dict[str, Callable[[Any], bool]] = {
    "select annex.roll_partitions(4)": lambda made: made == 1,
    "select is_last from annex.expire_events(null, 30)": lambda is_last: is_last is True,
    "select looked from annex.queue_notification_mails(600, 10, 10)": lambda looked: looked == 0,
    "select count(*) from annex.lease_mails(10, 60, 10)": lambda leased: leased == 1,
    "select count(*) from annex.lease_notification_mails(10, 60)": lambda leased: leased == 1,
    "select annex.sequence()": lambda moved: moved >= 0,
}


@pytest.mark.timeout(180)
async def test_who_holds_every_advisory_lock_delays_nothing(own_database: TestDatabase) -> None:
    async with (
        own_database.connect("postgres") as admin,
        own_database.connect("authenticator") as thief,
    ):
        await thief.execute("set lock_timeout = '1s'")
        await thief.execute(HOLD)
        await thief.execute(HOLD_ONE_KEY)
        await prepare(own_database)
        async with own_database.connect("annex_worker") as worker:
            await worker.execute("set lock_timeout = '500ms'")
            for statement, is_done in WORK.items():
                assert is_done(await worker.fetchval(statement)), statement
        assert await admin.fetchval(
            "select count(*) > 100 from pg_locks where locktype = 'advisory'"
        )
        async with running(own_database) as server:
            callers = Callers(server)
            tenant = await new_tenant(callers)
            keyed = {"Idempotency-Key": uuid4().hex}
            for _ in range(2):
                answer = await tenant.owner.client.post(
                    f"{tenant.path}/events", json={"type": "x"}, headers=keyed
                )
                assert answer.status_code == 201, answer.text
            assert answer.headers["Idempotent-Replayed"] == "true"
            await callers.close()


async def prepare(database: TestDatabase) -> None:
    """Make a mail of an invitation and one of a notification, both due."""
    async with database.connect("postgres") as admin:
        owner = await new_user(admin)
        workspace = await new_workspace(admin, owner)
        invitation = await admin.fetchval(
            "insert into annex.invitations (workspace_id, email, role, expires_at)"
            " values ($1, 'a@example.com', 'viewer', now() + interval '1 day') returning id",
            workspace,
        )
        await admin.execute(
            "insert into annex.mails (workspace_id, invitation_id, recipient)"
            " values ($1, $2, 'a@example.com')",
            workspace,
            invitation,
        )
        event = await admin.fetchval(
            "select annex.publish($1, 'x', recipients => array[$2::uuid])", workspace, owner
        )
        await admin.execute("select annex.sequence()")
        await fan_out(admin, event)
        await admin.execute(
            "insert into annex.mails (workspace_id, notification_id, user_id, recipient)"
            " select workspace_id, id, user_id, 'b@example.com' from annex.notifications"
        )


async def test_a_key_that_another_request_holds_is_in_progress(own_database: TestDatabase) -> None:
    take = "select annex.take_key('POST /x', 'k')"
    async with own_database.connect("postgres") as admin:
        owner = await new_user(admin)
    claims = {"role": "authenticated", "sub": str(owner)}
    async with (
        own_database.connect("annex_api", claims) as first,
        own_database.connect("annex_api", claims) as second,
    ):
        async with first.transaction():
            assert await first.fetchval(take)
            assert await second.fetchval(take) is False
        # Nothing was stored under it in the end, so whoever comes next finds nothing.
        assert await second.fetchval(take)
        kept = "select count(*) from annex.idempotency_keys where expires_at > now()"
        assert await second.fetchval(kept) == 0


def test_no_code_of_a_running_installation_takes_an_advisory_lock() -> None:
    # Installing and the development servers' do: they delay only those who install.
    allowed = ("app/installation", "app/dev", "app/contract")
    for file in [*(ROOT / "app").rglob("*.py"), *(ROOT / "supabase" / "migrations").glob("*.sql")]:
        if not str(file.relative_to(ROOT)).startswith(allowed):
            assert re.search(r"advisory_\w*\(", file.read_text()) is None, file
