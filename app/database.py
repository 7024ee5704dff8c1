"""Engines, and the one way to a session: a transaction that carries its principal's claims for row level security."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import asyncpg
from litestar import Request
from litestar.di import NamedDependency
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

import db_models  # noqa: F401  (registers the guards that refuse DDL and flushes)
from app.auth.principals import Principal
from app.errors import Unavailable
from app.settings import Settings, database_url

Driver = asyncpg.Connection[Any]
# What a Postgres that is not there raises, from the socket up.
UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    TimeoutError,
)


class Database:
    """The two pools: `api` serves requests as annex_api, `worker` follows the log as annex_worker."""

    def __init__(self, settings: Settings) -> None:
        self.api = connect_lazily(
            database_url("DATABASE_URL", settings.database_url), settings.pool_size
        )
        self.worker = connect_lazily(
            database_url("WORKER_DATABASE_URL", settings.worker_database_url), 2
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.dispose()
        await self.worker.dispose()


def connect_lazily(url: URL, pool_size: int) -> AsyncEngine:
    """Make an engine whose pool opens connections when they are needed.

    Autocommit, as `transaction` says BEGIN itself: together with the claims that is one round trip instead of two.
    """
    return create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        connect_args={
            "timeout": 5,
            "server_settings": {"application_name": "annex", "standard_conforming_strings": "on"},
        },
    )


async def driver_of(connection: AsyncConnection) -> Driver:
    """Lend the asyncpg connection under a SQLAlchemy connection."""
    driver: Driver = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
    return driver


@asynccontextmanager
async def transaction(engine: AsyncEngine, principal: Principal) -> AsyncIterator[AsyncSession]:
    """Open a transaction as a principal; commits at the end, rolls back on any exception.

    The claims hold for this transaction only, as `auth.uid()` and PostgREST have it. Raises `Unavailable` when the
    database does not answer.
    """
    # A literal, not a parameter: only a simple query takes two statements. JSON has no other quote to escape.
    begin = "begin; select set_config('request.jwt.claims', '{}', true)".format(
        principal.claims_json.replace("'", "''")
    )
    connection, driver = await begin_transaction(engine, begin)
    try:
        async with AsyncSession(
            connection, expire_on_commit=False, execution_options={"populate_existing": True}
        ) as session:
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
            await connection.close()


async def begin_transaction(engine: AsyncEngine, begin: str) -> tuple[AsyncConnection, Driver]:
    """Check a connection out and begin; a pool that outlived its server is emptied once and tried again."""
    for attempt in (1, 2):
        connection = engine.connect()
        try:
            await connection.start()
            driver = await driver_of(connection)
            await driver.execute(begin)
        except UNREACHABLE as error:
            if connection.sync_connection is not None:
                await connection.invalidate()
                await connection.close()
            await engine.dispose()
            if attempt == 2:
                raise Unavailable(
                    "The database cannot be reached; try again in a moment."
                ) from error
        else:
            return connection, driver
    raise AssertionError("unreachable")


async def provide_session(
    request: Request[Any, Any, Any], principal: NamedDependency[Principal]
) -> AsyncIterator[AsyncSession]:
    """Give a request its one transaction; only this commits, and before the answer is sent."""
    async with transaction(request.app.state.database.api, principal) as session:
        session.info["scope"] = request.scope
        yield session
    if request.method != "GET":
        request.app.state.tail.wake()


Session = NamedDependency[AsyncSession]
