"""Engines, and the one way to a session: a transaction that carries its principal's claims."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeAlias, TypeVar

import anyio
import asyncpg
import msgspec
from litestar.di import NamedDependency
from sqlalchemy import Select, text
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from app.auth.principals import Principal
from app.errors import Unavailable, causes
from app.settings import Settings, SettingsError, database_url
from db_models import Base

T = TypeVar("T")
Driver: TypeAlias = "asyncpg.Connection[Any]"
# What a Postgres that is not there raises, from the socket up.
UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    # Of a connection to which a crashing server said goodbye, and which is not closed yet.
    asyncpg.InternalClientError,
    TimeoutError,
)
# What a transaction pooler makes of statements with a name: it was given to another server, or has
# been given to this one by somebody else.
POOLER_ERRORS = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
POOLER_HINT = (
    "a transaction pooler stands before this Postgres; set ANNEX_TRANSACTION_POOLER=true, or "
    "connect directly or through a session pooler"
)
# To plan a statement under row level security over every partition takes longer than to run it, so
# that each connection plans once, for any parameters. Said here, as a pooler takes no such setting
# when it connects.
BEGIN = (
    "begin; select set_config('request.jwt.claims', E'{}', true),"
    " set_config('plan_cache_mode', 'force_generic_plan', true)"
)


class Database:
    """The two pools: `api` serves requests as annex_api, `worker` the log as annex_worker."""

    def __init__(self, settings: Settings) -> None:
        self.is_pooled = settings.transaction_pooler
        api = database_url("DATABASE_URL", settings.database_url)
        worker = database_url("WORKER_DATABASE_URL", settings.worker_database_url)
        self.api = connect_lazily(api, settings.pool_size, is_pooled=self.is_pooled)
        # The tail, its wake-ups, and housekeeping beside them.
        self.worker = connect_lazily(worker, 3, is_pooled=self.is_pooled)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.dispose()
        await self.worker.dispose()


def connect_lazily(url: URL, pool_size: int, *, is_pooled: bool = False) -> AsyncEngine:
    """Make an engine whose pool opens connections when they are needed.

    Autocommit, as `transaction` says BEGIN itself: together with the claims that is one round trip
    instead of two. Behind a transaction pooler no statement has a name: asyncpg then parses it in
    the same message that runs it, on whichever server that reaches.
    """
    unnamed = {"statement_cache_size": 0, "prepared_statement_cache_size": 0} if is_pooled else {}
    return create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        # `transaction` leaves none open, and SQLAlchemy would not know of it.
        pool_reset_on_return=None,
        # What Postgres stores as JSON goes out as it is; who needs its content decodes it.
        json_deserializer=msgspec.Raw,
        # A pooler takes no other settings than those it knows; PgBouncer knows this one.
        connect_args={
            "timeout": 5,
            "server_settings": {"application_name": "annex"},
            **unnamed,
        },
    )


def driver_of(connection: AsyncConnection) -> Driver:
    """Lend the asyncpg connection under a SQLAlchemy connection that was started."""
    assert connection.sync_connection is not None
    driver: Driver = connection.sync_connection.connection.driver_connection  # type: ignore[assignment]
    return driver


class Compiled:
    """A statement that SQLAlchemy compiles once and the driver runs in a session's transaction.

    For what runs with every request and for the hottest lists: it spares SQLAlchemy's work a
    statement, see docs/benchmarks.md. What varies is a bind parameter; rows are the driver's.
    """

    def __init__(self, statement: Select[Any]) -> None:
        result = statement.compile(dialect=dialect())  # type: ignore[no-untyped-call]
        assert isinstance(result, PGCompiler)
        assert result.positiontup is not None
        self.sql, self.names = str(result), list(result.positiontup)

    async def open(self, session: AsyncSession, **parameters: Any) -> "asyncpg.cursor.Cursor[Any]":
        """Run it, and return a cursor that fetches as many rows as it is asked for."""
        driver: Driver = session.info["driver"]
        return await driver.cursor(self.sql, *[parameters[n] for n in self.names])

    async def fetch(self, session: AsyncSession, **parameters: Any) -> list[asyncpg.Record]:
        """Run it, and return all rows."""
        driver: Driver = session.info["driver"]
        return await driver.fetch(self.sql, *[parameters[n] for n in self.names])


@asynccontextmanager
async def transaction(engine: AsyncEngine, principal: Principal) -> AsyncIterator[AsyncSession]:
    """Open a transaction as a principal; commits at the end, rolls back on any exception.

    The claims hold for this transaction only, as `auth.uid()` and PostgREST have it. Raises
    `Unavailable` when the database does not answer.
    """
    # A literal, not a parameter: only a simple query takes two statements. With E'' it reads the
    # same whatever standard_conforming_strings says.
    claims = principal.claims_json.replace("\\", "\\\\").replace("'", "''")
    begin = BEGIN.format(claims)
    connection, driver, _ = await connect(engine, lambda driver: driver.execute(begin))
    session = AsyncSession(
        connection,
        expire_on_commit=False,
        execution_options={"populate_existing": True},
        info={"connection": connection, "driver": driver},
    )
    try:
        yield session
        await driver.execute("commit")
    except BaseException:
        # Shielded: a cancelled request must not give a connection back with its transaction open.
        with anyio.CancelScope(shield=True):
            if driver.is_closed():
                await connection.invalidate()
            elif driver.is_in_transaction():
                await driver.execute("rollback")
        raise
    finally:
        with anyio.CancelScope(shield=True):
            # What ran on the driver alone has left nothing to close.
            if session.in_transaction():
                await session.close()
            await connection.close()


async def read_alone(
    engine: AsyncEngine, statement: Compiled, **parameters: Any
) -> list[asyncpg.Record]:
    """Run a statement that needs no transaction but its own; raises `Unavailable`."""
    values = [parameters[n] for n in statement.names]
    connection, _, rows = await connect(engine, lambda driver: driver.fetch(statement.sql, *values))
    with anyio.CancelScope(shield=True):
        await connection.close()
    return rows


async def connect(
    engine: AsyncEngine, begin: Callable[[Driver], Awaitable[T]]
) -> tuple[AsyncConnection, Driver, T]:
    """Check a connection out and begin with it; raises `Unavailable`.

    A pool that outlived its server lends dead connections: each is thrown away, up to the first one
    that had to be made.
    """
    pool: Any = engine.pool
    for _ in range(pool.size() + 1):
        connection = engine.connect()
        has_started = False
        try:
            await connection.start()
            has_started = True
            driver = driver_of(connection)
            return connection, driver, await begin(driver)
        except BaseException as error:
            # Shielded: a cancelled request must not keep a connection that others wait for.
            with anyio.CancelScope(shield=True):
                if connection.sync_connection is not None:
                    await connection.invalidate()
                    await connection.close()
            if not isinstance(error, UNREACHABLE):
                raise
            cause = error
            if not has_started:
                break
    raise Unavailable("The database cannot be reached; try again in a moment.") from cause


Session = NamedDependency[AsyncSession]


async def check_database(database: Database) -> None:
    """Refuse a database that is not ours or not safe to serve.

    Raises `SettingsError` with what to do.
    """
    for engine, role in ((database.api, "annex_api"), (database.worker, "annex_worker")):
        setting = f"ANNEX_{'WORKER_' if role == 'annex_worker' else ''}DATABASE_URL"
        where = f"{engine.url.host or engine.url.query.get('host', 'localhost')}"
        try:
            if not database.is_pooled and await changes_servers(engine):
                raise SettingsError(f"{setting}: {POOLER_HINT}.")
            async with engine.connect() as connection:
                found = (await connection.execute(text(WHO))).one()
                names = list(Base.metadata.tables)
                missing = await connection.scalars(text(MISSING), {"names": names})
        except UNREACHABLE as error:
            raise SettingsError(
                f"Postgres at {where} does not answer ({type(error).__name__}); is the server "
                f"running, and is {setting} right?"
            ) from None
        except (DBAPIError, asyncpg.PostgresError) as error:
            if is_poolers(error):
                raise SettingsError(f"{setting}: {POOLER_HINT}.") from None
            reason = str(getattr(error, "orig", None) or error).partition(">: ")
            raise SettingsError(
                f"Postgres at {where} refuses {setting}: {reason[2] or reason[0]}."
            ) from None
        if found.rolsuper or found.rolbypassrls:
            raise SettingsError(
                f"{setting} connects as {found.rolname}, which bypasses row level security; "
                f"connect as {role}."
            )
        if found.rolname != role:
            raise SettingsError(f"{setting} connects as {found.rolname}; connect as {role}.")
        if absent := sorted(missing):
            raise SettingsError(
                f"The database lacks {absent[0]}; apply supabase/migrations with "
                "`supabase db push`, or with `annex migrate` in development."
            )
        if found.may_ddl:
            raise SettingsError(
                f"{role} may change the schema annex or act as its owner; revoke that right."
            )


async def changes_servers(engine: AsyncEngine) -> bool:
    """Say whether a pooler gives a connection another server with each transaction.

    With named statements that would be worse than an error: another client's statement may have the
    same name there. Tells nothing of a pooler with a single server, which is never another one.
    """
    async with engine.connect() as connection:
        driver = driver_of(connection)
        # A pooler answers to a number of its own.
        if driver.get_server_pid() == await driver.fetchval(PID):
            return False
    probe = connect_lazily(engine.url, 2, is_pooled=True)
    try:
        async with probe.connect() as one, probe.connect() as other, asyncio.timeout(5):
            first, second = driver_of(one), driver_of(other)
            # Two transactions at once take two servers. Given back in this order, the next one of
            # the first client gets the other server; or the one after that, if they take turns.
            await first.execute("begin")
            pid = await first.fetchval(PID)
            await second.execute("begin")
            await first.execute("commit")
            await second.execute("commit")
            return any([await first.fetchval(PID) != pid for _ in range(2)])
    except TimeoutError:
        return False
    finally:
        await probe.dispose()


def is_poolers(error: BaseException) -> bool:
    """Say whether an error is what a transaction pooler makes of statements with a name."""
    return any(isinstance(cause, POOLER_ERRORS) for cause in causes(error))


PID = "select pg_backend_pid()"
WHO = """
select r.rolname, r.rolsuper, r.rolbypassrls,
  exists (select from pg_namespace n where n.nspname = 'annex' and has_schema_privilege(n.oid,
  'create')) or exists (select from pg_roles o where o.rolname = 'annex_owner' and
  pg_has_role(o.oid, 'member')) as may_ddl
from pg_roles r where r.rolname = session_user
"""
# By name and not by privilege: an existing table may well be closed to the role that asks.
MISSING = """
select name from unnest(cast(:names as text[])) as name
where name not in (
  select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
)
"""
