"""Secrets planted in what fails: no log line may hold one."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

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
from tests.bounds.provoked import (
    Planted,
    everything_fails,
    limits_refuse,
    paths_hold,
    the_database_raises,
)
from tests.conftest import ROOT, SECRETS, TestDatabase, settings_for
from tests.faults.processes import Process, environment
from tests.realtime.reader import calling, until

CANARY = "canary-0123456789"
# So that each limit is met soon, and a key set has no host.
TIGHT: dict[str, Any] = {
    "max_streams_per_principal": 1,
    "header_seconds": 1,
    "body_seconds": 1,
    "supabase_url": "http://127.0.0.1:9",
}


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
    planted.secrets.append(msgspec.json.decode(SECRETS.signing_key or "")["d"])
    raised, in_paths = Planted(), Planted()
    mail: dict[str, Any] = {
        "smtp_url": f"smtp+starttls://somebody:{planted()}@127.0.0.1:9",
        "mail_from": "Annex <annex@example.com>",
        "app_url": "https://app.example.com/join",
    }
    process = Process(own_database, tmp_path, **urls, **mail, **TIGHT, log_level="debug")
    worker_log = tmp_path / "worker.log"
    postgres_log = partial(own_database.postgres.log.read_text, errors="replace")
    try:
        server = await process.started(90)
        async with (
            working(own_database, worker_log, **urls, **mail),
            calling(server) as callers,
            own_database.connect("postgres") as admin,
        ):
            answers = await everything_fails(callers, admin, planted)
            answers += await limits_refuse(callers, planted)
            answers += await paths_hold(callers, in_paths)
            answers += await the_database_raises(callers, admin, raised, postgres_log)
            await asyncio.sleep(2)  # the worker tries its mails and readers meanwhile
    finally:
        process.kill()
    said = {
        "api": process.said,
        "worker": worker_log.read_text(errors="replace"),
        # Which writes statements that fail, as it does without settings of its own.
        "postgres": postgres_log(),
    }
    assert "STATEMENT:" in said["postgres"]
    expected = {400, 401, 403, 404, 408, 409, 410, 413, 422, 429, 431, 500, 503}
    assert {status for status, _ in answers} >= expected
    assert '"path"' in said["api"] or "path=" in said["api"]
    assert len(said["worker"].splitlines()) > 3
    for name, text in (*said.items(), *((str(status), body) for status, body in answers)):
        assert planted.found(text) == [], (name, text[:500])
        # What the test itself raises in Postgres is in Postgres' log; a path is told to its sender.
        if name != "postgres":
            assert raised.found(text) == [], (name, text[:500])
        if name in said:
            assert in_paths.found(text) == [], (name, text[:500])
    assert "a background task ended" in said["worker"]
    assert "the key set cannot be fetched" in said["api"]
