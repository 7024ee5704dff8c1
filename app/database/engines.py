"""Engines and connections."""

from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeAlias, TypeVar

import anyio
import asyncpg
import msgspec
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import Unavailable, causes
from app.settings import Settings, database_url

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
        hide_parameters=True,
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


def is_poolers(error: BaseException) -> bool:
    """Say whether an error is what a transaction pooler makes of statements with a name."""
    return any(isinstance(cause, POOLER_ERRORS) for cause in causes(error))
