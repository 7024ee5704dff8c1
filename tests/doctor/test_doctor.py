"""What the doctor says of a deployment that is well, and of what takes more than SQL to plant."""

import asyncio
import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from app.dev.demo import new_signing_key
from app.doctor import Check, Finding, Site, connections, error, server, visit
from app.doctor.visit import exit_code, lines
from app.settings import Settings
from tests.app.test_transaction_pooler import pgbouncer
from tests.conftest import MIGRATING_ROLE, TestDatabase, execute, settings_for
from tests.doctor.conftest import SIGNING, Deployment

ANNEX = Path(sys.executable).parent / "annex"
ENV = {
    "ANNEX_DATABASE_URL": "postgresql://annex_api@127.0.0.1:9/postgres",
    "ANNEX_WORKER_DATABASE_URL": "postgresql://annex_worker@127.0.0.1:9/postgres",
    "ANNEX_SUPABASE_URL": "http://127.0.0.1:9",
    "ANNEX_SECRET_KEY": "thirty-two characters of our own, at least",
}


async def test_of_a_healthy_deployment_nothing_is_said(deployment: Deployment) -> None:
    results = await visit.visit(deployment.settings())
    assert [r.finding for r in results if r.finding is not None] == []
    assert len(results) > 35
    assert exit_code(results) == 0
    assert all(line.startswith("ok ") for line in lines(results))


@pytest.mark.parametrize(
    ("api", "worker", "wrong"),
    [
        (
            "annex_worker",
            "annex_worker",
            "ANNEX_DATABASE_URL connects as annex_worker, not as annex_api.",
        ),
        (
            "annex_worker",
            "annex_api",
            "ANNEX_DATABASE_URL connects as annex_worker, not as annex_api. "
            "ANNEX_WORKER_DATABASE_URL connects as annex_api, not as annex_worker.",
        ),
        (
            "postgres",
            "annex_worker",
            "ANNEX_DATABASE_URL connects as postgres, which bypasses row level security, "
            "not as annex_api.",
        ),
        (
            "annex_api",
            "authenticator",
            "ANNEX_WORKER_DATABASE_URL connects as authenticator, not as annex_worker.",
        ),
    ],
)
async def test_a_url_of_another_role_is_one_finding(
    deployment: Deployment, api: str, worker: str, wrong: str
) -> None:
    of = deployment.database.url
    found = await deployment.visit(database_url=of(api), worker_database_url=of(worker))
    assert {name: r.finding and r.finding.wrong for name, r in found.items()} == {"roles": wrong}


async def test_a_database_that_does_not_answer_is_found_and_the_rest_is_checked(
    deployment: Deployment,
) -> None:
    away = "postgresql://annex_api@127.0.0.1:9/postgres"
    settings = deployment.settings(database_url=away, cors_origins=["*"])
    results = await visit.visit(settings)
    found = {r.check: r.finding for r in results if r.finding}
    assert list(found) == ["connection", "CORS"]
    skipped = [r.check for r in results if r.skipped_for == "connection"]
    assert skipped == [check.name for check in visit.IN_DATABASE]
    finding = found["connection"]
    assert finding.wrong.startswith("ANNEX_DATABASE_URL does not connect: ")


async def test_two_databases_are_found(deployment: Deployment, database: TestDatabase) -> None:
    found = await deployment.visit(database_url=database.url("annex_api"))
    finding = found["one database"].finding
    assert finding is not None
    assert deployment.database.name in finding.wrong


async def test_a_worker_in_another_database_is_one_finding(deployment: Deployment) -> None:
    other = TestDatabase(deployment.database.postgres, "postgres")
    found = await deployment.visit(worker_database_url=other.url("annex_worker"))
    assert found.keys() == {"one database"}


async def test_a_database_without_the_schema_is_one_finding(deployment: Deployment) -> None:
    await deployment.execute("drop schema annex cascade")
    results = await visit.visit(deployment.settings())
    wrong = {r.check: r.finding.wrong for r in results if r.finding}
    assert wrong == {"schema": "The database has no schema annex."}
    assert {"migrations", "partitions", "policies", "readers"} <= {
        r.check for r in results if r.skipped_for == "schema"
    }
    assert lines(results)[-1].startswith("skipped  migrations, newer migrations, edited migrations")
    assert lines(results)[-1].endswith(" more: not checked, because of what `schema` found.")


async def test_what_was_skipped_is_no_reason_of_a_denial(deployment: Deployment) -> None:
    async def find(_: Site) -> Finding | None:
        return error("a", "b")

    async def denied(_: Site) -> Finding | None:
        raise asyncpg.InsufficientPrivilegeError("permission denied for table events")

    checks = (
        Check("schema", find),
        Check("rights in the schema", find, ("schema",)),
        Check("another", denied),
    )
    site = Site(deployment.settings(), httpx.AsyncClient(), ())
    results = await visit.run_all(checks, site)
    assert [r.skipped_for for r in results] == [None, "schema", None]
    assert "permission denied" in lines(results[2:])[0]
    results = await visit.run_all((Check("owners", find), Check("another", denied)), site)
    assert [r.skipped_for for r in results] == [None, "owners"]


async def test_a_check_needs_only_those_before_it() -> None:
    for checks in (visit.IN_DATABASE, visit.OUTSIDE):
        before = set[str]()
        for check in checks:
            assert set(check.needs) <= before, check.name
            before.add(check.name)


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


@pytest.mark.parametrize(
    ("environment", "level", "cure"),
    [
        ("production", "error", "Start `annex worker` beside `annex serve`"),
        ("development", "advice", "`annex dev` has one within. Beside `annex serve`, start one."),
    ],
)
async def test_a_missing_worker_is_found(
    own_database: TestDatabase, environment: str, level: str, cure: str
) -> None:
    settings = msgspec.structs.replace(settings_for(own_database), environment=environment)
    results = {r.check: r.finding for r in await visit.visit(settings)}
    finding = results["worker"]
    assert finding is not None
    assert finding.level == level
    says_more = "nobody is notified" in finding.wrong
    assert says_more == (environment == "production")
    assert finding.cure.startswith(cure)


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


@pytest.mark.parametrize("password", ["", ":sec@nowhere.invalid/ret"])
async def test_a_host_that_is_none_may_be_part_of_a_password(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    connect = asyncpg.connect

    async def resolve(dsn: str, **options: Any) -> Any:
        # Not by this machine's resolver, which may be slow or redirect.
        if "nowhere.invalid" in dsn:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return await connect(dsn, **options)

    monkeypatch.setattr(asyncpg, "connect", resolve)
    url = f"postgresql://annex_worker{password}@nowhere.invalid/postgres"
    finding = (await deployment.visit(worker_database_url=url))["connection"].finding
    assert finding is not None
    assert finding.wrong.startswith("ANNEX_WORKER_DATABASE_URL does not connect: ")
    assert "no such host" in finding.wrong
    assert "`@` is `%40`" in finding.cure


async def test_a_role_that_may_not_log_in_is_found_and_cured(deployment: Deployment) -> None:
    await deployment.execute("alter role annex_worker nologin")
    try:
        found = await deployment.visit()
        assert list(found) == ["connection"]
        assert lines([found["connection"]])[1:] == [
            "         Run this as the role that migrated:",
            "           alter role annex_worker login;",
        ]
        finding = found["connection"].finding
        assert finding is not None
        await execute(deployment.database.url(MIGRATING_ROLE), ";".join(finding.sql))
        assert await deployment.visit() == {}
    finally:
        await deployment.execute("alter role annex_worker login")


async def test_a_role_that_is_not_there_is_said(deployment: Deployment) -> None:
    finding = (await deployment.visit(database_url=deployment.database.url("annex_apy")))[
        "connection"
    ].finding
    assert finding is not None
    assert 'role "annex_apy" does not exist' in finding.wrong
    assert finding.cure == "Put the user annex_api and its password into ANNEX_DATABASE_URL."


async def test_a_role_that_never_logs_in_is_not_told_to(deployment: Deployment) -> None:
    url = deployment.database.url("annex_owner")
    finding = (await deployment.visit(worker_database_url=url))["connection"].finding
    assert finding is not None
    assert "is not permitted to log in" in finding.wrong
    assert finding.cure.startswith("Put the user annex_worker and its password into ANNEX_WORKER_")
    assert finding.sql == ()


@pytest.mark.parametrize("user", ["annex_api", "annex_api.abcdefghijklmnopqrst"])
def test_a_refused_password_may_be_of_a_role_that_is_not_there_yet(user: str) -> None:
    refused = asyncpg.InvalidPasswordError('password authentication failed for user "annex_api"')
    cure = connections.unreachable("ANNEX_DATABASE_URL", user, refused).cure
    assert cure.startswith("If the role annex_api is not there yet, migrate first")
    assert "`alter role annex_api password …`" in cure


def test_a_host_that_does_not_answer_is_said() -> None:
    finding = connections.unreachable("ANNEX_DATABASE_URL", "annex_api", TimeoutError())
    assert finding.wrong == "ANNEX_DATABASE_URL does not connect: no answer within 5 s."
    assert "no firewall is between" in finding.cure


def test_a_refused_password_of_another_user_is_none_to_set_again() -> None:
    refused = asyncpg.InvalidPasswordError('password authentication failed for user "postgres"')
    cure = connections.unreachable("ANNEX_DATABASE_URL", "postgres", refused).cure
    assert cure == "Put the user annex_api and its password into ANNEX_DATABASE_URL."


async def test_an_smtp_server_without_a_sign_in_is_found(deployment: Deployment) -> None:
    async with refusing(offers="250 SIZE 1000") as port:
        found = await deployment.visit(
            smtp_url=f"smtp://u:p@127.0.0.1:{port}", mail_from="a@b.example"
        )
    finding = found["SMTP"].finding
    assert finding is not None
    assert "offers no sign-in on this connection" in finding.wrong
    assert "smtp+starttls://" in finding.cure


async def test_a_refused_smtp_login_is_found(deployment: Deployment) -> None:
    async with refusing() as port:
        found = await deployment.visit(
            smtp_url=f"smtp://u:p@127.0.0.1:{port}", mail_from="a@b.example"
        )
    finding = found["SMTP"].finding
    assert finding is not None
    assert "refuses ANNEX_SMTP_URL's login: 535" in finding.wrong


@contextlib.asynccontextmanager
async def refusing(offers: str = "250 AUTH PLAIN") -> AsyncIterator[int]:
    """Run an SMTP server that takes no password."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            if line.upper().startswith(b"EHLO"):
                writer.write(f"250-here\r\n{offers}\r\n".encode())
            elif line.upper().startswith(b"AUTH"):
                writer.write(b"535 5.7.8 wrong password\r\n")
            else:
                writer.write(b"250 fine\r\n")
            await writer.drain()
        writer.close()

    with contextlib.closing(await asyncio.start_server(talk, "127.0.0.1", 0)) as server:
        yield server.sockets[0].getsockname()[1]


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


async def test_a_replica_is_found(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IS_REPLICA", "select true")
    finding = (await deployment.visit())["primary"].finding
    assert finding is not None
    assert finding.wrong.startswith("The database is a read replica")


async def test_connections_that_run_out_meanwhile_are_said(deployment: Deployment) -> None:
    """The doctor itself holds the only one."""
    async with deployment.database.admin() as admin:
        others = "select count(*) from pg_stat_activity where usename = 'annex_api'"
        limit = 1 + await admin.fetchval(others)
    await deployment.execute(f"alter role annex_api connection limit {limit}")
    try:
        found = await deployment.visit()
    finally:
        await deployment.execute("alter role annex_api connection limit -1")
    assert list(found) == ["pooler", "connections of a role"]
    finding = found["pooler"].finding
    assert finding is not None
    assert finding.wrong.startswith("This could not be checked: ")


async def test_a_signing_key_whose_kid_is_of_another_one_is_found(deployment: Deployment) -> None:
    other = json.loads(new_signing_key()) | {"kid": json.loads(SIGNING)["kid"]}
    finding = (await deployment.visit(signing_key=json.dumps(other)))["signing key"].finding
    assert finding is not None
    assert "is another one than ANNEX_SIGNING_KEY, which has the same kid" in finding.wrong


async def test_a_slot_that_nobody_reads_is_found_and_dropped(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SLOT_BYTES", 0)
    await deployment.execute("select pg_create_physical_replication_slot('gone', true)")
    try:
        found = await deployment.visit()
        finding = found["replication slots"].finding
        assert finding is not None
        assert "Nobody reads the replication slot gone, which keeps " in finding.wrong
        await deployment.execute(";".join(finding.sql))
        assert await deployment.visit() == {}
    finally:
        await deployment.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
        )


async def test_a_prepared_transaction_that_was_forgotten_is_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PREPARED_SECONDS", 0)
    connection = await asyncpg.connect(deployment.database.url("postgres"))
    gid = f"forgotten-{deployment.database.name}"
    await connection.execute("begin")
    await connection.execute("select pg_current_xact_id()")
    await connection.execute(f"prepare transaction '{gid}'")
    try:
        finding = (await deployment.visit())["prepared transactions"].finding
    finally:
        await connection.execute(f"rollback prepared '{gid}'")
        await connection.close()
    assert finding is not None
    assert f"The prepared transaction {gid} of postgres" in finding.wrong
    assert f"`rollback prepared '{gid}'`" in finding.cure
    assert await deployment.visit() == {}


async def test_another_version_of_the_collation_is_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "COLLATION", "select '2.31', '2.36'")
    finding = (await deployment.visit())["collation"].finding
    assert finding is not None
    assert "made with version 2.31 of the collation, and the server has 2.36" in finding.wrong


async def test_a_network_without_encryption_is_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "encryption" not in await deployment.visit()
    monkeypatch.setattr(connections, "is_near", lambda _: False)
    monkeypatch.setattr(connections, "IS_ENCRYPTED", "select true")
    url = "postgresql://annex_api@db.example.com/postgres"
    site = Site(
        deployment.settings(database_url=url), httpx.AsyncClient(), (await idle(deployment),) * 2
    )
    assert await connections.find_encryption(site) is None
    monkeypatch.setattr(connections, "IS_ENCRYPTED", "select false")
    finding = await connections.find_encryption(site)
    await site.api.close()
    assert finding is not None
    assert "ANNEX_DATABASE_URL leads over a network without encryption" in finding.wrong


async def idle(deployment: Deployment) -> "asyncpg.Connection[Any]":
    return await asyncpg.connect(deployment.database.url("annex_api"))


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


def test_workers_are_processes_of_every_serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = list[int]()

    async def look(settings: Settings) -> list[visit.Result]:
        seen.append(settings.processes)
        return []

    monkeypatch.setattr(visit, "visit", look)
    monkeypatch.chdir(tmp_path)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ANNEX_PROCESSES", "2")
    visit.diagnose(3)
    assert seen == [6]


async def test_the_command_says_every_wrong_setting_and_exits_with_2(tmp_path: Path) -> None:
    done = doctor(tmp_path, ANNEX_SIGNING_KEY="none", ANNEX_SECRET_KEY="short")
    assert done.returncode == 2
    assert "error    settings: ANNEX_DATABASE_URL is not set" in done.stdout
    assert "Traceback" not in done.stderr


async def test_the_command_says_which_names_are_misspelt(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANNEX_TRUSTED_PROXY=10.0.0.7\n")
    done = doctor(tmp_path, ANNEX_DATABSE_URL="postgresql://u:hidden@h/d")
    meant = (("DATABSE_URL", "DATABASE_URL"), ("TRUSTED_PROXY", "TRUSTED_PROXIES"))
    for name, right in meant:
        said = f"ANNEX_{name} is no setting of Annex; did you mean ANNEX_{right}?"
        assert f"warning  settings: {said}" in done.stdout
    assert "error    settings: ANNEX_DATABASE_URL is not set" in done.stdout
    assert "hidden" not in done.stdout + done.stderr


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
    assert found.keys() == {"trusted proxies", "CORS", "operator"}
