"""Each planted fault is found by its own check, and what is printed cures it."""

import asyncio
import contextlib

import pytest

from app.database.migrations import carried
from app.database.pools import WORKER_NAME, Database
from app.doctor.promises import Difference, Right, granted, policies, rights, statements
from app.doctor.rights import OWNERS, POLICIES, RIGHTS
from app.doctor.visit import Result, lines
from app.installation.database import migrate
from app.installation.removal import removal
from app.settings import Settings
from app.worker.housekeeping import runner
from tests.conftest import MIGRATING_ROLE, TestDatabase, execute
from tests.doctor.conftest import Deployment
from tests.doctor.faults import DUE_MAIL, FAULTS, Fault
from tests.doctor.schema_faults import SCHEMA_FAULTS
from tests.worker.mailbox import mailbox, settings_of

POSTGREST = """
select id, slug from annex.workspaces; select workspace_id, key, grantable from annex.roles;
select workspace_id, user_id, version from annex.members; select user_id, email from annex.profiles;
select event_id, data from annex.events; select * from annex.notifications;
select * from annex.inboxes; select * from annex.subscriptions; select * from annex.event_types;
select * from annex.workspace_ids('events:read')
"""


@pytest.mark.parametrize(
    "fault", [*SCHEMA_FAULTS, *FAULTS], ids=lambda f: f"{f.check}: {f.wrong[:40]}"
)
async def test_is_found_and_cured(fault: Fault, deployment: Deployment) -> None:
    before = await rights_in(deployment.database)
    try:
        if fault.sql:
            await deployment.execute(fault.sql)
        found = await deployment.visit(**fault.settings)
        said_of(fault, found)
        again = await cure(fault, found[fault.check], deployment)
        assert again == {}
    finally:
        if fault.undo:
            await deployment.execute(fault.undo)
    if fault.cured_by != "hand":
        assert await rights_in(deployment.database) == before
    await read_as_postgrest(deployment.database)


def said_of(fault: Fault, found: dict[str, Result]) -> None:
    """The fault's own check must have said it, and no other one found anything."""
    assert found.keys() == {fault.check}, found
    finding = found[fault.check].finding
    assert finding is not None
    assert finding.level == fault.level
    assert fault.wrong in finding.wrong
    printed = "\n".join(lines([found[fault.check]]))
    assert fault.cure in printed
    assert finding.wrong.rstrip()[-1] in ".)" or fault.check in ("SMTP",)
    assert bool(finding.sql) == (fault.cured_by == "sql" or fault.check == "partitions")


async def cure(fault: Fault, result: Result, deployment: Deployment) -> dict[str, Result]:
    """Do what the finding says; returns what is not well then."""
    assert result.finding is not None
    url = deployment.database.url(MIGRATING_ROLE)
    settings = fault.settings
    match fault.cured_by:
        case "sql":
            # As Supabase's editor runs it: in one transaction.
            await execute(deployment.database.url(fault.healer), ";".join(result.finding.sql))
        case "settings":
            settings = {}
        case "migrate":
            await migrate(url, carried(), lambda _: None)
        case "anew":
            await execute(url, removal())
            await migrate(url, carried(), lambda _: None)
            await execute(url, "select annex.roll_partitions()")
        case "worker":
            return await worked(deployment, deployment.settings(**settings), **settings)
        case "hand":
            return {}
    return await deployment.visit(**settings)


async def worked(deployment: Deployment, settings: Settings, **others: object) -> dict[str, Result]:
    """Let a worker work until all is well."""
    async with Database(settings, WORKER_NAME) as database:
        working = asyncio.create_task(runner(settings)(database).run())
        try:
            while found := await deployment.visit(**others):
                assert not working.done(), found
                await asyncio.sleep(0.2)
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
    return found


async def rights_in(database: TestDatabase) -> list[str]:
    """List every right, owner and policy of the schema."""
    async with database.admin() as admin:
        rows = [row for query in (RIGHTS, OWNERS, POLICIES) for row in await admin.fetch(query)]
    return sorted(str(tuple(row)) for row in rows)


async def read_as_postgrest(database: TestDatabase) -> None:
    """Read what a user may read there."""
    claims = {"role": "authenticated", "sub": "0190b000-0000-7000-8000-0000000000ff"}
    async with database.connect("authenticator", claims) as connection:
        await connection.execute("set role authenticated")
        await connection.execute(POSTGREST)


async def test_a_due_mail_is_sent_by_a_worker_that_has_an_smtp_server(
    deployment: Deployment,
) -> None:
    await deployment.execute(DUE_MAIL)
    async with mailbox() as box:
        settings = settings_of(box)
        found = await deployment.visit(**settings)
        assert list(found) == ["mails"]
        assert "Start `annex worker`" in lines([found["mails"]])[1]
        await worked(deployment, deployment.settings(**settings), **settings)
    assert len(box.received) == 1


def test_every_grant_and_policy_of_the_migrations_is_read() -> None:
    grants = [s for s in statements() if s.startswith("grant ") and " on " in s]
    assert len(grants) > 100
    assert {r.role for r in rights()} == {
        "annex_api",
        "annex_owner",
        "annex_worker",
        "authenticated",
        "service_role",
    }
    made = [s for s in statements() if s.startswith("create policy ")]
    assert list(policies().values()) == made


def test_a_grant_is_taken_apart() -> None:
    found = list(granted("select, update (a, b)", None, "annex.x, annex.y", "r, s"))
    assert len(found) == 12
    assert Right("table annex.y", "s", "UPDATE", "b") in found
    (one,) = granted("execute", "function", "annex.f(uuid, timestamptz, text[])", "r")
    assert one.object == "function annex.f(uuid, timestamp with time zone, text[])"


async def test_the_migrations_text_and_the_catalog_give_the_same_rights(
    database: TestDatabase,
) -> None:
    async with database.admin() as admin:
        rows = await admin.fetch(RIGHTS)
    assert not any(row["is_grantable"] for row in rows)
    assert {Right(*tuple(row)[:4]) for row in rows} == rights()


def test_a_difference_is_named_by_role_and_cured_in_few_statements() -> None:
    wide = {Right(f"table annex.t{n}", "anon", "SELECT", "") for n in range(9)}
    more = Right("table annex.roles", "authenticated", "GRANT OPTION FOR SELECT", "key")
    lost = Right("table annex.roles", "annex_api", "SELECT", "")
    difference = Difference(frozenset({*wide, more}), frozenset({lost}))
    assert difference.words() == [
        "authenticated has GRANT OPTION FOR SELECT on columns of annex.roles",
        "anon has SELECT of annex.t0, annex.t1, annex.t2, annex.t3, and 5 more",
        "annex_api lacks SELECT of annex.roles",
    ]
    tables = ", ".join(f"annex.t{n}" for n in range(9))
    assert difference.cure({"table annex.roles"}) == [
        "set role annex_owner",
        "revoke grant option for select on table annex.roles from authenticated cascade",
        "grant select on table annex.roles to annex_api",
        "reset role",
        f"revoke select on table {tables} from anon",
    ]
