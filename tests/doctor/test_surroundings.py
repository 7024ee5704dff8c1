"""What the doctor says of the server's settings, of lost objects, and of addresses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.doctor import Finding, visit
from app.doctor.objects import promised
from tests.conftest import TestDatabase, execute, settings_for

REF, OTHER = "abcdefghijklmnopqrst", "tsrqponmlkjihgfedcba"


@dataclass(frozen=True)
class Fault:
    """Something that is planted, and what has to be said of it; `{}` is the database's name."""

    check: str
    wrong: str
    sql: str = ""
    undo: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


FAULTS = [
    Fault(
        "writable",
        "read-only by default",
        "alter database {} set default_transaction_read_only = on",
    ),
    Fault(
        "settings of the server",
        "default_transaction_isolation is serializable",
        "alter database {} set default_transaction_isolation = 'serializable'",
    ),
    Fault(
        "settings of the server",
        "synchronous_commit is off",
        "alter database {} set synchronous_commit = off",
    ),
    Fault(
        "settings of the server",
        "session_replication_role is replica",
        "alter database {} set session_replication_role = 'replica'",
    ),
    Fault(
        "settings of the server",
        "idle_session_timeout is 300000: connections that listen",
        "alter database {} set idle_session_timeout = '5min'",
    ),
    Fault(
        "members of Annex's roles",
        "authenticator may act as annex_api",
        "grant annex_api to authenticator",
        "revoke annex_api from authenticator",
    ),
    Fault(
        "annex_owner",
        "annex_owner has the attribute login and bypassrls",
        "alter role annex_owner login bypassrls",
        "alter role annex_owner nologin nobypassrls",
    ),
    Fault(
        "objects of the schema", "index members_user_id_idx", "drop index annex.members_user_id_idx"
    ),
    Fault("objects of the schema", "function touch", "drop function annex.touch() cascade"),
    Fault(
        "objects of the schema",
        "trigger members_owner",
        "drop trigger members_owner on annex.members",
    ),
    Fault(
        "users' addresses",
        "annex.find_user belongs to supabase_postgres, who may not read auth.users",
        "revoke all on auth.users from supabase_postgres",
    ),
    Fault(
        "https", "ANNEX_SUPABASE_URL is http://", settings={"supabase_url": "http://example.com"}
    ),
    Fault(
        "public URL", "does not answer as Annex does", settings={"public_url": "http://127.0.0.1:9"}
    ),
]


async def findings(database: TestDatabase, **settings: Any) -> dict[str, Finding | None]:
    """Let the doctor look; returns what each check says."""
    outside = {"environment": "production", "supabase_url": "http://127.0.0.1:9", **settings}
    results = await visit.visit(msgspec.structs.replace(settings_for(database), **outside))
    return {result.check: result.finding for result in results}


async def test_of_what_is_well_nothing_is_said(own_database: TestDatabase) -> None:
    found = await findings(own_database, mail_templates=None)
    assert not [found[fault.check] for fault in FAULTS if found[fault.check] is not None]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.wrong[:50])
async def test_is_found(fault: Fault, own_database: TestDatabase) -> None:
    admin = own_database.url("postgres")
    try:
        if fault.sql:
            await execute(admin, fault.sql.format(own_database.name))
        finding = (await findings(own_database, **fault.settings))[fault.check]
    finally:
        if fault.undo:
            await execute(admin, fault.undo)
    assert finding is not None
    assert fault.wrong in finding.wrong


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://annex_api@db.{OTHER}.supabase.co:1/postgres",
        f"postgresql://annex_api.{OTHER}@127.0.0.1:1/postgres",
    ],
)
async def test_a_database_of_another_project_is_found(own_database: TestDatabase, url: str) -> None:
    project = f"https://{REF}.supabase.co"
    finding = (await findings(own_database, supabase_url=project, database_url=url))["project"]
    assert finding is not None
    assert f"ANNEX_DATABASE_URL of {OTHER}" in finding.wrong


async def test_a_template_that_cannot_be_used_is_found(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    (tmp_path / "invitation.en.txt").write_text("{nonsense}")
    found = await findings(own_database, mail_templates=str(tmp_path))
    finding = found["templates of mails"]
    assert finding is not None
    assert "ANNEX_MAIL_TEMPLATES: invitation.en" in finding.wrong


async def test_what_the_migrations_make_is_read_whole(own_database: TestDatabase) -> None:
    async with own_database.connect("postgres") as admin:
        rows = await admin.fetch("""
            select 'function' as kind, proname as name from pg_proc
            where pronamespace = 'annex'::regnamespace
            union select 'table', relname from pg_class
            where relnamespace = 'annex'::regnamespace and relkind in ('r', 'p')
              and not relispartition
            union select 'trigger', tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid
            where relnamespace = 'annex'::regnamespace and not tgisinternal and tgparentid = 0
            """)
    there = {tuple(row) for row in rows}
    read = {tuple(each) for each in promised() if each.kind not in ("index", "constraint")}
    # A partition of its own name is made beside its parent.
    assert read - {("table", "events_default")} == there
