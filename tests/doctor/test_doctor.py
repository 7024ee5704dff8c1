"""Each planted fault is found by its own check, with what cures it; without one all is well."""

import asyncio
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from app.database.pools import WORKER_NAME
from app.dev.demo import new_signing_key
from app.doctor import connections, visit
from app.doctor.visit import Result, exit_code, lines
from app.settings import Settings
from tests.app.test_transaction_pooler import pgbouncer
from tests.conftest import TestDatabase, execute, settings_for

ANNEX = Path(sys.executable).parent / "annex"
OLD_EVENT = "annex.uuid7_floor(now() - interval '9 days')"


class KeySet:
    """A Supabase project's server, which serves its key set or something else."""

    def __init__(self) -> None:
        self.status, self.keys = 200, [public(SIGNING)]
        self.body: bytes | None = None

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = self.body or json.dumps({"keys": self.keys}).encode()
        head = (
            f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


def public(jwk: str) -> dict[str, str]:
    """Return a key as its project publishes it."""
    given: dict[str, str] = json.loads(jwk)
    return {k: v for k, v in given.items() if k != "d"}


SIGNING = new_signing_key()


@dataclass
class Deployment:
    """A database with a worker beside it, and the settings of its server."""

    database: TestDatabase
    keys: KeySet
    url: str
    others: dict[str, Any] = field(default_factory=dict)

    def settings(self, **others: Any) -> Settings:
        healthy = {
            "environment": "production",
            "supabase_url": self.url,
            "signing_key": SIGNING,
            "max_streams": 100,
            "max_streams_per_principal": 20,
            "max_streams_per_workspace": 50,
            "max_streams_per_address": 50,
            "max_connections_per_address": 100,
            "jwt_issuer": None,
            "jwt_secret": None,
        }
        return msgspec.structs.replace(settings_for(self.database), **{**healthy, **others})

    async def visit(self, **others: Any) -> dict[str, Result]:
        """Let the doctor look; returns what is not well."""
        results = await visit.visit(self.settings(**others))
        return {r.check: r for r in results if r.finding is not None}

    async def execute(self, sql: str) -> None:
        await execute(self.database.url("postgres"), sql)


@pytest.fixture
async def deployment(own_database: TestDatabase) -> AsyncIterator[Deployment]:
    keys = KeySet()
    server = await asyncio.start_server(keys.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    worker = await asyncpg.connect(
        own_database.url("annex_worker"), server_settings={"application_name": WORKER_NAME}
    )
    await execute(own_database.url("postgres"), "select annex.roll_partitions()")
    yield Deployment(own_database, keys, f"http://127.0.0.1:{port}")
    await worker.close()
    server.close()


async def test_of_a_healthy_deployment_nothing_is_said(deployment: Deployment) -> None:
    results = await visit.visit(deployment.settings())
    assert [r.finding for r in results if r.finding is not None] == []
    assert len(results) > 35
    assert exit_code(results) == 0
    assert all(line.startswith("ok ") for line in lines(results))


@dataclass(frozen=True)
class Fault:
    """Something that is planted: SQL, settings, or both; and what has to be said of it."""

    check: str
    wrong: str
    cure: str
    sql: str = ""
    undo: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    level: str = "error"


FAULTS = [
    Fault(
        "rights of the roles",
        "annex_api may change the schema",
        "revoke create on schema annex from annex_api",
        "grant create on schema annex to annex_api",
    ),
    Fault(
        "rights of the roles",
        "annex_worker, which bypasses row level security",
        "alter role annex_worker nosuperuser nobypassrls",
        "alter role annex_worker bypassrls",
        "alter role annex_worker nobypassrls",
    ),
    Fault(
        "migrations",
        "lacks the migrations 12_mails",
        "annex migrate",
        "delete from annex.migrations where name = '12_mails'",
    ),
    Fault(
        "newer migrations",
        "does not know: 99_later",
        "Upgrade Annex",
        "insert into annex.migrations (name) values ('99_later')",
        level="warning",
    ),
    Fault(
        "row level security",
        "annex.api_keys",
        "alter table annex.api_keys enable row level security, force",
        "alter table annex.api_keys disable row level security",
    ),
    Fault(
        "row level security",
        "not forced, on annex.members",
        "force row level security",
        "alter table annex.members no force row level security",
    ),
    Fault(
        "policies",
        "annex.limits has no policy",
        "Run the statement of the migration again",
        "drop policy limits_owner on annex.limits",
    ),
    Fault(
        "rights of PostgREST's roles",
        "anon has SELECT on the whole table annex.api_keys",
        "revoke all on annex.api_keys from anon",
        "grant select on annex.api_keys to anon",
    ),
    Fault(
        "rights of PostgREST's roles",
        "authenticated has SELECT on the whole table annex.invitations",
        "column grants stay",
        "grant select on annex.invitations to authenticated",
    ),
    Fault(
        "rights of PostgREST's roles",
        "PUBLIC may execute annex.lease_mails",
        "revoke execute on function annex.lease_mails from PUBLIC",
        "grant execute on function annex.lease_mails to public",
    ),
    Fault(
        "owner",
        "annex.roles belongs to supabase_postgres",
        "alter table annex.roles owner to annex_owner",
        "alter table annex.roles owner to supabase_postgres",
    ),
    Fault(
        "triggers",
        "members_owner on annex.members is off",
        "enable trigger members_owner",
        "alter table annex.members disable trigger members_owner",
    ),
    Fault(
        "publications",
        "everything holds",
        "alter publication everything drop table",
        "create publication everything for all tables",
        level="warning",
    ),
    Fault(
        "exposure in PostgREST",
        "PostgREST serves public, storage and not annex",
        "'public, storage, annex'",
        "alter role authenticator set pgrst.db_schemas = 'public, storage'",
        "alter role authenticator reset pgrst.db_schemas",
        level="advice",
    ),
    Fault(
        "partitions",
        "There is no partition events_",
        "annex worker",
        "do $$ declare t text; begin for t in select c.oid::regclass from pg_class c where"
        " c.relispartition and c.relkind = 'r' and c.relname > to_char(now(), '\"events_\"YYYY_MM')"
        " and c.relname ~ '^events_[0-9]' and c.relnamespace = 'annex'::regnamespace"
        " loop execute 'drop table ' || t; end loop; end $$",
        level="warning",
    ),
    Fault(
        "default partition",
        "annex.events_default holds events",
        "Keep `annex worker` running",
        "insert into annex.events (event_id, workspace_id, type, source, actor, principal)"
        " values (annex.uuid7_floor('2001-01-01'), gen_random_uuid(), 'a.b', 'x', '{}', 'system')",
        level="warning",
    ),
    Fault(
        "fan-out",
        "An event has waited 9 hours for its notifications",
        "Start `annex worker`",
        "insert into annex.fanouts (event_id, due_at)"
        " values (gen_random_uuid(), now() - interval '9 hours')",
        "delete from annex.fanouts",
    ),
    Fault(
        "fan-out",
        "An event has waited 9 days for its notifications",
        "Start `annex worker`",
        "insert into annex.log (pos, event_id, workspace_id)"
        f" values (1, {OLD_EVENT}, gen_random_uuid())",
        "delete from annex.log",
    ),
    Fault(
        "fan-out",
        "The fan-out of 1 event(s) was given up",
        "how to begin again",
        "insert into annex.fanouts (event_id, failed_at) values (gen_random_uuid(), now())",
        "delete from annex.fanouts",
        level="warning",
    ),
    Fault(
        "housekeeping",
        "Answers that expired 9 hours ago",
        "Start `annex worker`",
        "insert into annex.idempotency_keys values ('user:x', 'POST /', 'k',"
        " decode(repeat('00', 32), 'hex'), 201, '{}', '', now() - interval '9 hours')",
        level="warning",
    ),
    Fault(
        "housekeeping",
        "Of a user who was erased 9 hours ago",
        "Start `annex worker`",
        "insert into annex.erasures values (gen_random_uuid(), now() - interval '9 hours')",
        level="warning",
    ),
    Fault(
        "notifications",
        "Notifications of 9 days ago are still stored, and ANNEX_NOTIFICATION_RETENTION_DAYS is 5",
        "the same ANNEX_NOTIFICATION_RETENTION_DAYS",
        "insert into auth.users (id) select gen_random_uuid();"
        "insert into annex.profiles (user_id) select id from auth.users;"
        "insert into annex.workspaces (slug, name) values ('old', 'Old');"
        "insert into annex.notifications (workspace_id, user_id, event_id, type, actor, category,"
        " reason, title, arrived_at) select w.id, p.user_id, gen_random_uuid(), 'a.b', 'x', 'x',"
        " 'recipient', 'x', now() - interval '9 days' from annex.workspaces w, annex.profiles p"
        " where w.slug = 'old' limit 1",
        settings={"notification_retention_days": 5},
        level="warning",
    ),
    Fault(
        "readers",
        "The reader slow is at 3 of 10 and has not moved for 2 hours",
        "delete from annex.readers where name = 'slow'",
        "update annex.log_state set head = 10; insert into annex.readers"
        " values ('slow', 3, now() - interval '2 hours')",
    ),
    Fault(
        "sequencer",
        "An event has waited 9 days",
        "each of them sequences the log",
        "insert into annex.pending (event_id, workspace_id)"
        f" values ({OLD_EVENT}, gen_random_uuid())",
    ),
    Fault(
        "retention",
        "The log begins 9 days ago, and ANNEX_EVENT_RETENTION_DAYS is 5",
        "the same ANNEX_EVENT_RETENTION_DAYS",
        "insert into annex.log (pos, event_id, workspace_id)"
        f" values (1, {OLD_EVENT}, gen_random_uuid());"
        "insert into annex.readers values ('projector', 1)",
        settings={"event_retention_days": 5},
        level="warning",
    ),
    Fault(
        "time limits of the roles",
        "annex_api has lost its statement_timeout",
        "alter role annex_api set statement_timeout",
        "alter role annex_api reset statement_timeout",
        "alter role annex_api set statement_timeout = '5s'",
        level="warning",
    ),
    Fault(
        "connections of a role",
        "annex_api may have 60 connections, and one process takes 70",
        "alter role annex_api connection limit -1",
        "alter role annex_api connection limit 60",
        "alter role annex_api connection limit -1",
        settings={"pool_size": 70},
    ),
    Fault(
        "connections of the server",
        "take up to 211 connections",
        "Lower ANNEX_POOL_SIZE",
        settings={"pool_size": 200},
    ),
    Fault(
        "time zone",
        "time zone is Asia/Kolkata",
        "set timezone = 'UTC'",
        "alter role annex_worker set timezone = 'Asia/Kolkata'",
        "alter role annex_worker reset timezone",
        level="advice",
    ),
    Fault(
        "pooler",
        "no pooler stands before this Postgres",
        "Take the setting out",
        settings={"transaction_pooler": True},
        level="advice",
    ),
    Fault(
        "key set",
        "cannot be reached (ConnectError)",
        "Set ANNEX_SUPABASE_URL",
        settings={"supabase_url": "http://127.0.0.1:9", "signing_key": None},
    ),
    Fault(
        "SMTP",
        "cannot be used (SMTPConnectError)",
        "smtps:// is 465",
        settings={"smtp_url": "smtp://127.0.0.1:9", "mail_from": "a@b.example"},
    ),
    Fault(
        "trusted proxies",
        "trusts 0.0.0.0/0: any client can claim any address",
        "Name the addresses",
        settings={"trusted_proxies": ["0.0.0.0/0"]},
    ),
    Fault(
        "CORS",
        "also behind your proxies",
        "Name the origins",
        settings={"trusted_proxies": ["10.0.0.0/8"], "cors_origins": ["*"]},
        level="warning",
    ),
    Fault(
        "environment",
        "ANNEX_ENVIRONMENT is development",
        "Take the setting out",
        settings={"environment": "development"},
        level="advice",
    ),
    Fault(
        "limits",
        "ANNEX_MAX_STREAMS_PER_PRINCIPAL (1000) is above ANNEX_MAX_STREAMS (100)",
        "well below",
        settings={"max_streams_per_principal": 1000},
        level="warning",
    ),
    Fault(
        "limits",
        "leaves none of the 10 connections",
        "below ANNEX_POOL_SIZE",
        settings={"max_statements_per_principal": 10},
        level="warning",
    ),
    Fault(
        "operator",
        "/metrics refuses everybody",
        "annex operator-key",
        settings={"operator_key_hashes": []},
        level="advice",
    ),
]


def said_of(fault: Fault, found: dict[str, Result]) -> None:
    """The fault's own check must have said it, and no other one found anything."""
    assert list(found) == [fault.check], found
    finding = found[fault.check].finding
    assert finding is not None
    assert finding.level == fault.level
    assert fault.wrong in finding.wrong
    assert fault.cure in finding.cure
    assert finding.wrong.rstrip()[-1] in ".)" or fault.check in ("SMTP",)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.check}: {f.wrong[:40]}")
async def test_is_found(fault: Fault, deployment: Deployment) -> None:
    try:
        if fault.sql:
            await deployment.execute(fault.sql)
        said_of(fault, await deployment.visit(**fault.settings))
    finally:
        if fault.undo:
            await deployment.execute(fault.undo)


async def test_a_url_of_another_role_is_found(deployment: Deployment) -> None:
    url = deployment.database.url("annex_worker")
    found = await deployment.visit(database_url=url)
    finding = found["roles"].finding
    assert finding is not None
    assert finding.wrong == "ANNEX_DATABASE_URL connects as annex_worker, not as annex_api."


async def test_a_superuser_is_found(deployment: Deployment) -> None:
    found = await deployment.visit(database_url=deployment.database.url("postgres"))
    finding = found["rights of the roles"].finding
    assert finding is not None
    assert "postgres, which bypasses row level security" in finding.wrong


async def test_a_database_that_does_not_answer_is_found_and_the_rest_is_checked(
    deployment: Deployment,
) -> None:
    away = "postgresql://annex_api@127.0.0.1:9/postgres"
    found = await deployment.visit(database_url=away, cors_origins=["*"])
    assert list(found) == ["connection", "CORS"]
    finding = found["connection"].finding
    assert finding is not None
    assert finding.wrong.startswith("ANNEX_DATABASE_URL does not connect: ")


async def test_two_databases_are_found(deployment: Deployment, database: TestDatabase) -> None:
    found = await deployment.visit(database_url=database.url("annex_api"))
    finding = found["one database"].finding
    assert finding is not None
    assert deployment.database.name in finding.wrong


async def test_a_database_without_the_schema_is_one_finding(deployment: Deployment) -> None:
    await deployment.execute("drop schema annex cascade")
    found = await deployment.visit()
    finding = found["migrations"].finding
    assert finding is not None
    assert finding.wrong == "The database has no schema annex."


async def test_a_transaction_pooler_that_the_settings_do_not_know_is_found(
    deployment: Deployment,
) -> None:
    with pgbouncer(deployment.database, servers=4) as pooled:
        urls = {"database_url": pooled.url("annex_api")}
        found = await deployment.visit(**urls, worker_database_url=pooled.url("annex_worker"))
    finding = found["pooler"].finding
    assert finding is not None
    assert "ANNEX_DATABASE_URL leads through a transaction pooler" in finding.wrong
    assert "ANNEX_TRANSACTION_POOLER=true" in finding.cure


async def test_a_missing_worker_is_found(own_database: TestDatabase) -> None:
    settings = msgspec.structs.replace(settings_for(own_database), environment="production")
    results = {r.check: r.finding for r in await visit.visit(settings)}
    finding = results["worker"]
    assert finding is not None
    assert "No `annex worker` is connected" in finding.wrong


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"{}", "answers 404"),
        (200, b"<html>", "not with a key set"),
        (200, b'{"msg": "hello"}', "not with a key set"),
        (200, b'{"keys": []}', "The project's key set is empty"),
    ],
)
async def test_what_is_no_key_set_is_found(
    deployment: Deployment, status: int, body: bytes, said: str
) -> None:
    deployment.keys.status, deployment.keys.body = status, body
    finding = (await deployment.visit(signing_key=None))["key set"].finding
    assert finding is not None
    assert said in finding.wrong


async def test_a_signing_key_that_the_project_does_not_have_is_found(
    deployment: Deployment,
) -> None:
    found = await deployment.visit(signing_key=new_signing_key())
    finding = found["signing key"].finding
    assert finding is not None
    assert "is not in the project's key set" in finding.wrong


async def test_a_refused_smtp_login_is_found(deployment: Deployment) -> None:
    async with refusing() as port:
        found = await deployment.visit(
            smtp_url=f"smtp://u:p@127.0.0.1:{port}", mail_from="a@b.example"
        )
    finding = found["SMTP"].finding
    assert finding is not None
    assert "refuses ANNEX_SMTP_URL's login: 535" in finding.wrong


@contextlib.asynccontextmanager
async def refusing() -> AsyncIterator[int]:
    """Run an SMTP server that takes no password."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            if line.upper().startswith(b"EHLO"):
                writer.write(b"250-here\r\n250 AUTH PLAIN\r\n")
            elif line.upper().startswith(b"AUTH"):
                writer.write(b"535 5.7.8 wrong password\r\n")
            else:
                writer.write(b"250 fine\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_too_few_open_files_are_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    finding = (await deployment.visit())["open files"].finding
    assert finding is not None
    assert finding.wrong.startswith("A process may open 256 files here, and ANNEX_MAX_STREAMS=100")


@pytest.mark.parametrize(("seconds", "level"), [(8, "warning"), (600, "error")])
async def test_a_clock_that_is_wrong_is_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, seconds: int, level: str
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(seconds=seconds)

    monkeypatch.setattr(connections, "datetime", Late)
    finding = (await deployment.visit())["clock"].finding
    assert finding is not None
    assert (finding.level, f"{seconds} s apart" in finding.wrong) == (level, True)


async def test_an_old_postgres_is_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OLDEST", 990000)
    finding = (await deployment.visit())["version of Postgres"].finding
    assert finding is not None
    assert re.match(r"This is Postgres [0-9]{2}; Annex needs 15", finding.wrong)


def doctor(cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")} | env
    command = [str(ANNEX), "doctor", *arguments]
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


async def test_the_command_says_every_wrong_setting_and_exits_with_2(tmp_path: Path) -> None:
    done = doctor(tmp_path, ANNEX_SIGNING_KEY="none", ANNEX_SECRET_KEY="short")
    assert done.returncode == 2
    assert "error    settings: ANNEX_DATABASE_URL is not set" in done.stdout
    assert "Traceback" not in done.stderr


async def test_the_command_reports_as_json_and_exits_with_the_worst(
    deployment: Deployment, tmp_path: Path
) -> None:
    settings = deployment.settings()
    env = {
        "ANNEX_DATABASE_URL": settings.database_url,
        "ANNEX_WORKER_DATABASE_URL": settings.worker_database_url,
        "ANNEX_SUPABASE_URL": deployment.url,
        "ANNEX_SECRET_KEY": settings.secret_key,
        "ANNEX_SIGNING_KEY": SIGNING,
        "ANNEX_MAX_STREAMS": "3000",
        "ANNEX_CORS_ORIGINS": "*",
    }
    done = await asyncio.to_thread(doctor, tmp_path, "--json", **env)
    found = {r["check"]: r["finding"] for r in json.loads(done.stdout) if r["finding"]}
    assert done.returncode == 1, done.stdout
    assert found.keys() == {"CORS", "operator"}
