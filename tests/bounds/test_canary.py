"""Secrets planted in what fails: no log line may hold one."""

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import jwt
import msgspec
import pytest
import structlog

from app.auth.signing import Signer
from app.auth.tokens import Tokens
from app.dev.demo import demo_settings
from app.errors import Unavailable
from app.logs import Handler, configure_logging
from app.supervision import Supervised
from tests.conftest import ROOT, SECRETS, Callers, TestDatabase, new_tenant, settings_for
from tests.faults.processes import Process, environment
from tests.realtime.reader import calling, until

CANARY = "canary-0123456789"


@pytest.fixture(params=["production", "development"])
def configured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Logging as in each environment, undone afterwards."""
    settings = msgspec.structs.replace(
        demo_settings(SECRETS, "postgresql:///x", "postgresql:///x"), environment=request.param
    )
    configure_logging(settings)
    yield
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, Handler)]:
        root.removeHandler(handler)


def fail(secret: str) -> None:
    """Fail with the secret in a local variable, in the message and in a cause."""
    kept = {"password": secret}
    try:
        raise ValueError(secret)
    except ValueError as error:
        raise ExceptionGroup(f"failed with {kept}", [KeyError(secret)]) from error


@pytest.mark.usefixtures("configured")
def test_an_exception_is_logged_without_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        fail(CANARY)
    except ExceptionGroup as error:
        structlog.get_logger().error("unexpected", exc_info=error)
        logging.getLogger("asyncio").error("Task failed\nfuture: %r", error, exc_info=error)
        logging.getLogger("library").warning("argument %s", CANARY)
    said = capsys.readouterr().err
    assert said.count("test_canary.py") >= 2
    assert "KeyError" in said
    assert CANARY not in said


RAISED = [
    asyncpg.DataError(f"invalid input for query argument $1: '{CANARY}'"),
    asyncpg.CheckViolationError(f"DETAIL:  Failing row contains ({CANARY})."),
    ExceptionGroup(CANARY, [ConnectionRefusedError(111, CANARY), ValueError(CANARY)]),
    Unavailable(CANARY),
    jwt.PyJWKSetError(CANARY),
    httpx.ConnectError(CANARY),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
@pytest.mark.usefixtures("configured")
async def test_a_task_that_fails_is_told_without_what_its_error_holds(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        try:
            raise KeyError(CANARY)
        except KeyError as cause:
            raise error from cause

    task = Supervised("reader", run)
    keeping = asyncio.create_task(task.keep())
    await until(lambda: task.restarts > 0)
    keeping.cancel()
    # The key set's refresh logs its own failure.
    async with httpx.AsyncClient(transport=httpx.MockTransport(raising(error))) as client:
        settings = demo_settings(
            SECRETS, "postgresql:///x", "postgresql:///x", supabase_url="https://x.example"
        )
        tokens = Tokens(settings, client, Signer(None, None))
        with contextlib.suppress(type(error)):
            await tokens.fetch()
    said = capsys.readouterr().err
    assert "a background task ended" in said
    assert type(error).__name__ in said
    assert CANARY not in said


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    """Make a host that answers with an error."""

    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


class Planted:
    """Makes secrets, each a text of its own, and looks for them."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.secrets = list[str]()

    def __call__(self) -> str:
        """Make a secret that looks like nothing in particular."""
        made = f"Kanarie{next(self.numbers)}q{uuid4().hex}"
        self.secrets.append(made)
        return made

    def found(self, text: str) -> list[str]:
        """Return what of the secrets is in a text, or so much of one that it would do."""
        return [secret for secret in self.secrets if secret[:24] in text]


@contextlib.asynccontextmanager
async def working(database: TestDatabase, log: Path, **others: Any) -> AsyncIterator[None]:
    """Run `annex worker` in a process of its own; its output goes into a file."""
    settings = settings_for(database, log_level="debug", **others)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from app.cli import main; main()", "worker"),
            cwd=ROOT,
            env=clean | environment(settings),
            stdout=output,
            stderr=output,
        )
    try:
        yield
        assert child.returncode is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


@pytest.mark.timeout(180)
async def test_no_output_and_no_answer_holds_a_secret(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    planted = Planted()
    urls: dict[str, Any] = {
        name: own_database.url(role).replace(f"{role}@", f"{role}:{planted()}@")
        for name, role in (
            ("database_url", "annex_api"),
            ("worker_database_url", "annex_worker"),
        )
    }
    planted.secrets += [SECRETS.secret_key, SECRETS.jwt_secret, SECRETS.operator_key]
    mail: dict[str, Any] = {
        "smtp_url": f"smtp+starttls://somebody:{planted()}@127.0.0.1:9",
        "mail_from": "Annex <annex@example.com>",
        "app_url": "https://app.example.com/join",
    }
    process = Process(own_database, tmp_path, **urls, **mail, log_level="debug")
    worker_log = tmp_path / "worker.log"
    try:
        server = await process.started(90)
        async with (
            working(own_database, worker_log, **urls, **mail),
            calling(server) as callers,
            own_database.connect("postgres") as admin,
        ):
            answers = await everything_fails(callers, admin, planted)
            await asyncio.sleep(2)  # the worker tries its mails and readers meanwhile
    finally:
        process.kill()
    said = {
        "api": process.said,
        "worker": worker_log.read_text(errors="replace"),
        # Which writes statements that fail, as it does without settings of its own.
        "postgres": own_database.postgres.log.read_text(errors="replace"),
    }
    assert "STATEMENT:" in said["postgres"]
    assert {status for status, _ in answers} >= {400, 401, 403, 404, 409, 500, 503}
    assert '"path"' in said["api"] or "path=" in said["api"]
    assert len(said["worker"].splitlines()) > 3
    for name, text in (*said.items(), *((str(status), body) for status, body in answers)):
        assert planted.found(text) == [], (name, text[:500])


async def everything_fails(callers: Callers, admin: Any, planted: Planted) -> list[tuple[int, str]]:
    """Send secrets everywhere while all goes wrong; returns what was refused and how."""
    tenant = await new_tenant(callers)
    owner, path = tenant.owner.client, tenant.path
    planted.secrets.append(owner.headers["authorization"].split(".")[2])
    address = f"{planted().lower()}@example.com"
    planted.secrets[-1] = address.partition("@")[0]
    key = await callers.key(tenant.id, "events:publish", "events:read")
    planted.secrets.append(key.client.headers["authorization"].removeprefix("Bearer "))
    invitation = {"role": "viewer", "emails": [address]}
    assert (await owner.post(f"{path}/invitations", json=invitation)).status_code == 201
    async with asyncio.timeout(90):  # until the worker has met its mail server
        while not await admin.fetchval("select max(attempts) from annex.mails"):
            await asyncio.sleep(0.2)
    assert (await owner.patch(path, json={"metadata": {"pin": planted()}})).status_code == 200
    answers = list[tuple[int, str]]()

    async def send(client: httpx.AsyncClient, method: str, url: str, **options: Any) -> None:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.request(method, url, **options)
            if answer.is_error:
                answers.append((answer.status_code, answer.text))

    async def send_all() -> None:
        event = {"type": "x", "data": {"card": planted()}, "context": {"token": planted()}}
        json = {"Content-Type": "application/json"}
        tickets = {"ticket": planted(), "last_event_id": planted(), "access_token": planted()}
        strangers = [f"annex_sk_{planted()}", f"eyJ{planted()}.{planted()}.{planted()}", planted()]
        headers = {"Cookie": f"annex_ticket={planted()}", "X-Api-Key": planted()}
        for client in (owner, key.client):
            await send(client, "POST", f"{path}/events", json=event, headers=headers)
            await send(client, "POST", f"{path}/events", json={**event, "typ": planted()})
            cut = f'{{"type": "{planted()}", "data": '
            await send(client, "POST", f"{path}/events", content=cut, headers=json)
            await send(client, "POST", f"{path}/events/batch", json=[event, {"type": 7}])
            once = {"Idempotency-Key": planted()}
            await send(client, "POST", f"{path}/events", json=event, headers=once)
            await send(client, "GET", f"{path}/events", params={"cursor": planted()})
            await send(client, "GET", f"{path}/members", params={"q": planted()})
            await send(client, "PATCH", path, json={"metadata": {"pin": planted()}})
            await send(client, "DELETE", f"{path}/members/{tenant.owner.user_id}")
            await send(client, "POST", "/api/v1/api-keys/verify", json={"key": planted()})
            respond = {"token": planted(), "accept": True}
            await send(client, "POST", "/api/v1/invitations/respond", json=respond)
            await send(client, "GET", f"/api/v1/workspaces/{uuid4()}/events", params=tickets)
        for credential in strangers:
            await send(callers.client(credential), "GET", f"{path}/events", params=tickets)

    await send_all()
    # The database refuses, is slow to answer, and lets go of its connections.
    await admin.execute("alter function annex.publish_events rename to publish_events_")
    await admin.execute("revoke select on annex.members from annex_api")
    await send_all()
    await admin.execute("alter function annex.publish_events_ rename to publish_events")
    await admin.execute("grant select on annex.members to annex_api")

    async def cut() -> None:
        for _ in range(20):
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename in ('annex_api', 'annex_worker') and datname = current_database()"
            )
            await asyncio.sleep(0.1)

    await asyncio.gather(send_all(), cut())
    await admin.execute("alter role annex_api nologin")
    await admin.execute("alter role annex_worker nologin")
    try:
        await cut()
        await send_all()
    finally:
        await admin.execute("alter role annex_api login")
        await admin.execute("alter role annex_worker login")
    return answers
