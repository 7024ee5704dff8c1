"""A migrated Postgres, a live server and a client that holds every answer against the contract."""

import asyncio
import contextlib
import functools
import inspect
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import httpx
import hypothesis
import msgspec
import pytest
import schemathesis
import structlog
import yaml

from app.auth.keys import Key
from app.dev.demo import Secrets, demo_settings, mint_token, new_signing_key
from app.dev.migrations import apply
from app.dev.postgres import THROWAWAY, VARIABLE, EmbeddedPostgres, chosen
from app.http.application import Application
from app.main import create_app
from app.server import Server, configure, listen
from app.settings import Settings
from controllers.service import yaml_loader
from tests.called import CALLS, NAME, TRACKED, is_counting, is_whole
from tests.versions import Chooser, has_none

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "docs" / "openapi.yaml"
MIGRATING_ROLE = "supabase_postgres"
# No deadline an example and no random seed: a busy machine or a lucky draw must not fail a test.
hypothesis.settings.register_profile("annex", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("annex")
# Shared, because httpx otherwise reads all of the machine's certificates for each client.
NO_TLS = httpx.create_ssl_context(verify=False)
# For test parameters, which every worker of xdist must collect alike.
NOBODYS_ID = "0190b000-0000-7000-8000-0000000000ff"
# Fails in a transaction that was left open and has failed.
RESET = "reset session authorization; reset all; close all; unlisten *"
SECRETS = Secrets(
    secret_key="a secret key for tests, long enough to pass",
    jwt_secret="a jwt secret for tests, long enough to pass",
    api_key=str(Key("sk", "t" * 12, "t" * 32)),
    operator_key=str(Key("op", "o" * 12, "o" * 32)),
    signing_key=new_signing_key(),
)

# All clients of a test have one address, and some tests open thousands of streams.
UNLIMITED = {
    "rate_limit_requests": 1_000_000,
    "max_failures_per_address": 1_000_000,
    "max_connections_per_address": 100_000,
    "max_streams_per_principal": 100_000,
    "max_streams_per_workspace": 100_000,
    "max_streams_per_address": 100_000,
    "max_filters_per_workspace": 100_000,
    "max_events_per_minute": 100_000_000,
    "max_event_bytes_per_minute": 10**12,
}


LONGEST = (
    "tests/test_contract.py",
    "tests/test_generated_clients.py",
    "tests/install/",
    "tests/test_first_hour.py",
    "tests/doctor/",
    "tests/installation/",
    "tests/database/test_plans.py",
    "tests/worker/test_notification_mails.py",
    "tests/realtime/test_recipes.py",
    "tests/faults/test_chaos.py",
    "tests/inbox/",
)
"""Files that begin first, or the last of them would run when all other workers are idle."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files unread that `-m postgres` chooses nothing of."""
    if config.option.markexpr == "postgres" and collection_path.is_file():
        return has_none(collection_path, ROOT, os.environ.get(VARIABLE, "")) or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on Postgres' version, before `-m` chooses, and limit tests on the loop.

    There, because what a signal's handler raises inside uvloop is lost.
    """
    counts = Counter(item.path for item in items)
    items.sort(key=lambda i: (not i.nodeid.startswith(LONGEST), -counts[i.path], i.path))
    depends_on_version = Chooser(os.environ.get(VARIABLE, ""))
    for item in items:
        if depends_on_version(item.nodeid):
            item.add_marker("postgres")
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            usual = item.config.getoption("timeout") or item.config.getini("timeout")
            seconds = float(marker.args[0] if marker else usual)
            # pytest's own limit is for what hangs beyond that: it ends the loop of all tests.
            item.add_marker(pytest.mark.timeout(seconds + 60), append=False)
            item.obj = limited(item.obj, seconds)


def limited(test: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Let a test fail when it takes longer, and the next one begin."""

    @functools.wraps(test)
    async def run(*given: Any, **named: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*given, **named)

    return run


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of xdist counted; one that crashed says nothing."""
    if said := getattr(node, "workeroutput", {}).get(NAME):
        CALLS.add(said)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped something, or called too little: such a gate guards nothing."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[NAME] = CALLS.say()
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # xdist's workers have none
        return
    wrong = []
    if os.environ.get("ANNEX_FAIL_ON_SKIP") == "1" and reporter.stats.get("skipped"):
        wrong.append("ANNEX_FAIL_ON_SKIP=1: a skipped test fails this run.")
    if session.exitstatus == pytest.ExitCode.OK and is_whole(session.config):
        wrong += [f"On this Postgres no test calls {f}." for f in sorted(CALLS.all - CALLS.called)]
        if not CALLS.all:
            wrong.append("Nothing counted which functions were called.")
    for line in wrong:
        reporter.write_line(f"\n{line}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run everything on one loop a session, so that server and tests can share it."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres(worker_id: str, pytestconfig: pytest.Config) -> Iterator[EmbeddedPostgres]:
    """A server of this worker's own, thrown away at the end."""
    folder = ROOT / ".data" / f"tests-{worker_id}-{os.getpid()}"
    settings = {**THROWAWAY, "max_connections": "120", "max_prepared_transactions": "20"}
    if is_counting(pytestconfig):
        settings |= TRACKED
        CALLS.is_on = True
    with EmbeddedPostgres(folder, version=chosen(), settings=settings) as server:
        yield server
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def template(postgres: EmbeddedPostgres) -> str:
    """A database that was migrated as the Supabase CLI would, to make others from."""
    await execute(postgres.admin_url, "create database template_annex")
    url = postgres.url("postgres", "template_annex")
    await execute(url, (ROOT / "supabase" / "local" / "platform.sql").read_text())
    await apply(url, ROOT / "supabase" / "migrations", MIGRATING_ROLE)
    # Some tests' users make hundreds of workspaces.
    await execute(url, "update annex.limits set value = 1000000 where name = 'workspaces_per_user'")
    return "template_annex"


@dataclass(frozen=True)
class TestDatabase:
    """A migrated database of its own, and how each role logs in to it."""

    __test__: ClassVar[bool] = False  # pytest takes whatever is called Test… for tests

    postgres: EmbeddedPostgres
    name: str
    idle: list[asyncpg.Connection] | None = field(default=None, compare=False)
    """Connections of `admin`, for who made the database to close."""

    def url(self, role: str) -> str:
        """The URL by which a role logs in: SET ROLE proves nothing where session_user decides."""
        return self.postgres.url(role, self.name)

    @contextlib.asynccontextmanager
    async def connect(
        self, role: str, claims: dict[str, Any] | None = None
    ) -> AsyncIterator[asyncpg.Connection]:
        """Log in as a role; with claims, as the API or PostgREST would say them."""
        connection = await asyncpg.connect(self.url(role))
        try:
            if claims is not None:
                await connection.execute(
                    "select set_config('request.jwt.claims', $1, false)", encode(claims)
                )
            yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator[asyncpg.Connection]:
        """Log in as the superuser; what is set for the session is reset afterwards.

        The connection is kept for the next ones: a new one costs Postgres 8 ms of CPU, and most
        tests would make several.
        """
        if self.idle is None:
            async with self.connect("postgres") as connection:
                yield connection
            return
        found = self.idle.pop() if self.idle else None
        if found is None or found.is_closed():
            found = await asyncpg.connect(self.url("postgres"))
        try:
            yield found
            await found.execute(RESET)
        except BaseException:
            found.terminate()
            raise
        self.idle.append(found)


@contextlib.asynccontextmanager
async def new_database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[TestDatabase]:
    """Make a database from the template, and drop it again."""
    name = f"test_{uuid4().hex[:12]}"
    # The log would carry each page, for a crash that no test survives.
    made = f"create database {name} template {template} strategy file_copy"
    await execute(postgres.admin_url, made)
    idle: list[asyncpg.Connection] = []
    try:
        yield TestDatabase(postgres, name, idle)
    finally:
        for connection in idle:
            connection.terminate()
        if CALLS.is_on:
            await CALLS.count(TestDatabase(postgres, name).url("postgres"))
        await execute(postgres.admin_url, f"drop database {name} with (force)")


@pytest.fixture(scope="session")
async def database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[TestDatabase]:
    """The database that this worker's server and tests share; each test takes a fresh workspace."""
    async with new_database(postgres, template) as made:
        yield made


@pytest.fixture
async def own_database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[TestDatabase]:
    """A database for one test that needs the whole log, or breaks something."""
    async with new_database(postgres, template) as made:
        yield made


def settings_for(database: TestDatabase, **others: Any) -> Settings:
    """Make the settings of a server on a test database."""
    urls = {
        "api_url": others.pop("database_url", database.url("annex_api")),
        "worker_url": others.pop("worker_database_url", database.url("annex_worker")),
    }
    others = {"log_level": "error", **UNLIMITED, **others}
    return demo_settings(SECRETS, **urls, **others)


@dataclass(frozen=True)
class Running:
    """A live server: its URL, its application and how to make tokens for it."""

    url: str
    app: Application
    settings: Settings
    database: TestDatabase
    opened: list["Callers"] = field(default_factory=list, compare=False)
    """Callers that are not closed yet."""

    async def close(self) -> None:
        """Close what a test that failed left open, or the loop of the next ones could not end."""
        for callers in [*self.opened]:
            await callers.close()


@contextlib.asynccontextmanager
async def running(database: TestDatabase, port: int = 0, **others: Any) -> AsyncIterator[Running]:
    """Serve on a real socket in this loop; httpx's ASGI transport would buffer endless streams."""
    settings = settings_for(database, **others)
    app = create_app(settings)
    listener = listen("127.0.0.1", port)
    config = configure(app, settings)
    config.timeout_graceful_shutdown = 2
    server = Server(app, config)
    with contextlib.closing(listener):
        live = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app, settings, database)
        serving = asyncio.create_task(server._serve([listener]))
        began = asyncio.create_task(server.began.wait())
        try:
            await asyncio.wait({serving, began}, return_when=asyncio.FIRST_COMPLETED)
            yield live
        finally:
            began.cancel()
            await live.close()
            server.should_exit = True
            await serving


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """What a server that starts in the test writes to standard error."""
    before = structlog.get_config()
    yield capsys
    structlog.configure(**before)


@pytest.fixture(scope="session")
async def server(database: TestDatabase) -> AsyncIterator[Running]:
    """The live server that most tests share."""
    async with running(database) as live:
        yield live


def read_contract() -> dict[str, Any]:
    """Read docs/openapi.yaml; the loader in C takes a fifth of the other's second."""
    found: dict[str, Any] = yaml.load(CONTRACT.read_text(), Loader=yaml_loader())
    return found


class Client(httpx.AsyncClient):
    """Checks every answer against docs/openapi.yaml, so that every test is a contract test."""

    schema = schemathesis.openapi.from_dict(read_contract())

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send, then validate status, headers, media type and body."""
        try:
            response = await super().send(request, **options)
        except AttributeError as error:
            if "getpeername" not in str(error):
                raise
            # anyio's word for a connection that was reset as soon as it was made.
            raise httpx.ConnectError(str(error), request=request) from error
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        await response.aread()
        operation = self.schema.find_operation_by_path(request.method, request.url.path)
        if operation is not None and response.status_code != 405:
            operation.validate_response(response)
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
        return response


class Caller(NamedTuple):
    """Somebody who calls the API."""

    client: Client
    user_id: UUID | None
    email: str | None
    claims: dict[str, Any]


@pytest.fixture
async def callers(server: Running) -> AsyncIterator["Callers"]:
    """Makes users, keys and operators with a client each, on the shared server."""
    made = Callers(server)
    yield made
    await made.close()


class Callers:
    """Makes callers of one server, and closes their clients."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.clients: list[Client] = []
        server.opened.append(self)

    def client(self, credential: str | None = None) -> Client:
        """Make a client that sends a bearer credential, or none."""
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        client = Client(
            base_url=self.server.url,
            headers=headers,
            timeout=20,
            verify=NO_TLS,
            trust_env=False,  # looking for proxies took longer than a request
        )
        self.clients.append(client)
        return client

    async def user(
        self,
        *,
        aal: str = "aal1",
        user_id: UUID | None = None,
        email: str | None = None,
        is_confirmed: bool = True,
        provider: str = "email",
    ) -> Caller:
        """Make a signed-in user, known to Supabase."""
        user_id = user_id or uuid4()
        email = email or f"{user_id.hex[:12]}@example.com"
        async with self.server.database.admin() as admin:
            await admin.execute(
                "insert into auth.users (id, email, email_confirmed_at, raw_app_meta_data)"
                " values ($1, $2, case when $3 then now() end,"
                " jsonb_build_object('provider', $4::text)) on conflict do nothing",
                user_id,
                email,
                is_confirmed,
                provider,
            )
        token = mint_token(self.server.settings, str(user_id), email, aal=aal)
        claims = {"role": "authenticated", "sub": str(user_id), "email": email, "aal": aal}
        return Caller(self.client(token), user_id, email, claims)

    async def key(self, workspace_id: str, *permissions: str, **columns: Any) -> Caller:
        """Make an API key of a workspace, which may give every role that it holds itself."""
        key = Key.make("sk")
        async with self.server.database.admin() as admin:
            values = {
                "workspace_id": UUID(workspace_id),
                "name": "Test",
                "prefix": key.prefix,
                "secret_hash": key.hash,
                "permissions": list(permissions),
                "grantable": ["owner", "admin", "member", "viewer", "*"],
                **columns,
            }
            places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
            key_id = await admin.fetchval(
                f"insert into annex.api_keys ({', '.join(values)}) values ({places}) returning id",
                *values.values(),
            )
        claims = {"role": "annex_key", "sub": str(key_id)}
        return Caller(self.client(str(key)), None, None, claims)

    def operator(self) -> Caller:
        """Make a client with the operator's key."""
        claims = {"role": "annex_operator", "sub": "oooooooooooo"}
        return Caller(self.client(SECRETS.operator_key), None, None, claims)

    async def close(self) -> None:
        """Close every client."""
        for client in self.clients:
            await client.aclose()
        if self in self.server.opened:
            self.server.opened.remove(self)


class Tenant(NamedTuple):
    """A workspace, with its owner."""

    id: str
    slug: str
    path: str
    owner: Caller


async def new_tenant(callers: Callers, **fields: Any) -> Tenant:
    """Make a user and a workspace of theirs, over HTTP."""
    owner = await callers.user()
    body = {"name": f"Workspace {uuid4().hex[:8]}", **fields}
    response = await owner.client.post("/api/v1/workspaces", json=body)
    assert response.status_code == 201, response.text
    made = response.json()
    return Tenant(made["id"], made["slug"], f"/api/v1/workspaces/{made['id']}", owner)


@pytest.fixture
async def tenant(callers: Callers) -> Tenant:
    """A fresh workspace and its owner."""
    return await new_tenant(callers)


async def add_member(callers: Callers, tenant: Tenant, role: str) -> Caller:
    """Make a user and put them into a workspace, as an invitation will."""
    member = await callers.user()
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "insert into annex.profiles (user_id, email) values ($1, $2)",
            member.user_id,
            member.email,
        )
        await admin.execute(
            "insert into annex.members (workspace_id, user_id, role) values ($1, $2, $3)",
            UUID(tenant.id),
            member.user_id,
            role,
        )
    return member


def tomorrow() -> str:
    """Write the time in a day, as RFC 3339 has it; a fixed date would pass some day."""
    return f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


def encode(value: Any) -> str:
    """Write JSON."""
    return msgspec.json.encode(value).decode()


async def execute(url: str, sql: str) -> None:
    """Run statements on a connection of their own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
