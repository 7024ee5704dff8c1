"""The two connection pools, and how a connection is lent, given back and given up."""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from typing import Any, Self, TypeAlias

import asyncpg
import msgspec
import structlog
from asyncpg.pool import PoolConnectionProxy

from app.database.turns import Turns
from app.errors import Unavailable, causes
from app.settings import Settings, database_url

Driver: TypeAlias = "PoolConnectionProxy[Any]"

log = structlog.get_logger()

SHOWN = 1000
"""Characters of a slow statement that are logged."""
ACQUIRE_SECONDS = 10.0
"""How long a request waits for a connection."""
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 10.0
"""How long a request waits for an answer; the role's own statement_timeout ends it before."""
PROBE_SECONDS, PROBE_ANSWER_SECONDS = 1.0, 2.0
"""Between two questions whether the server answers, and how long it has for that."""
API_NAME, WORKER_NAME = "annex", "annex worker"
"""How `annex serve` and `annex worker` call themselves in pg_stat_activity."""
WORKERS = 10
"""Connections for the tail, wake-ups, readers and jobs."""
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
# What a transaction pooler makes of named statements: the name went to another server, or another
# client has used it on this one.
POOLER_ERRORS = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
POOLER_HINT = (
    "a transaction pooler stands before this Postgres; set ANNEX_TRANSACTION_POOLER=true, or "
    "connect directly or through a session pooler"
)


class Database:
    """The two pools: `api` serves requests as annex_api, `worker` the log as annex_worker."""

    def __init__(self, settings: Settings, name: str = API_NAME) -> None:
        self.is_pooled = settings.transaction_pooler
        self.api = Pool(
            "DATABASE_URL",
            settings.database_url,
            settings.pool_size,
            each=settings.max_statements_per_principal,
            is_pooled=self.is_pooled,
            name=name,
            slow_seconds=settings.slow_query_seconds,
        )
        self.worker = Pool(
            "WORKER_DATABASE_URL",
            settings.worker_database_url,
            WORKERS,
            is_pooled=self.is_pooled,
            name=name,
            slow_seconds=settings.slow_query_seconds,
        )
        self.probe = Probe(self.api)

    async def __aenter__(self) -> Self:
        await self.api.open()
        await self.worker.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.close()
        await self.worker.close()


class Pool:
    """Lends connections of one role; opens them when they are needed."""

    def __init__(
        self,
        setting: str,
        url: str,
        size: int,
        *,
        each: int | None = None,
        is_pooled: bool = False,
        name: str = API_NAME,
        slow_seconds: float = 0.0,
    ) -> None:
        self.slow_seconds = slow_seconds
        self.lent = 0
        self.slow = 0
        """Statements that took longer than `slow_seconds`, if that is not 0."""
        self.url = database_url(setting, url)
        self.dsn = self.url.render_as_string(hide_password=False)
        self.size = size
        self.turns = Turns(size, size if each is None else each)
        """By turns of workspaces and principals, each of which leaves some to others."""
        self.refused = Counter[str]()
        """Loans that were not to be had in time: for want of a turn, or of a connection."""
        self.pool = asyncpg.create_pool(
            self.dsn,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=300,
            # A connection plans each statement once, and is not replaced while it is in use: of
            # itself, asyncpg forgets plans after 5 minutes, and a connection after 50,000 queries.
            max_cached_statement_lifetime=0,
            max_queries=sys.maxsize,
            init=self.prepare,
            reset=keep,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            # A pooler takes no other settings than those it knows; PgBouncer knows this one.
            server_settings={"application_name": name},
            # Behind a transaction pooler no statement has a name: asyncpg then parses it in the
            # same message that runs it, on whichever server that reaches.
            statement_cache_size=0 if is_pooled else 100,
        )

    async def prepare(self, driver: "asyncpg.Connection[Any]") -> None:
        """Set a new connection up."""
        await let_json_through(driver)
        if self.slow_seconds:
            driver.add_query_logger(self.note)

    def note(self, query: "asyncpg.connection.LoggedQuery") -> None:
        """Log a statement that was slow: its text, which is ours, and none of its parameters."""
        if query.elapsed < self.slow_seconds:
            return
        self.slow += 1
        # A transaction's first message holds its claims, because a simple query takes no parameter.
        text = "begin" if query.query.startswith("begin;") else query.query
        log.warning(
            "slow query",
            seconds=round(query.elapsed, 3),
            statement=" ".join(text.split())[:SHOWN],
            failed=type(query.exception).__name__ if query.exception else None,
        )

    @property
    def in_use(self) -> int:
        """How many of its connections are lent, or are being opened for that."""
        return self.lent

    @property
    def waiting(self) -> int:
        """How many wait for their turn to get one."""
        return sum(len(q) for queues in self.turns.waiting.values() for q in queues.values())

    @property
    def host(self) -> str:
        """Where the server is, for people."""
        return f"{self.url.host or self.url.query.get('host', 'localhost')}"

    async def open(self) -> None:
        """Make the pool usable in this loop; connects to nothing yet."""
        await self.pool

    async def close(self) -> None:
        """Close every connection, also those that are lent."""
        self.pool.terminate()

    def lend(self, whose: str | None = None, group: str | None = None) -> "Loan":
        """Lend a connection for as long as the `async with` lasts.

        `whose` is the principal it is for, and `group` the workspace it is about, if there is one.
        Raises `Unavailable` when none is free within 10 s or the server does not answer.
        """
        return Loan(self, whose, group)


class Probe:
    """Asks whether a pool's server answers: at most once a second, for all who want to know."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.asked_at = -PROBE_SECONDS
        self.asking: asyncio.Task[str | None] | None = None

    async def check(self) -> None:
        """Raise `Unavailable` if the server does not answer within 2 s, or just did not."""
        now = time.monotonic()
        if self.asking is None or (self.asking.done() and now - self.asked_at >= PROBE_SECONDS):
            self.asked_at, self.asking = now, asyncio.create_task(self.ask())
        if (fault := await asyncio.shield(self.asking)) is not None:
            raise Unavailable(fault)

    async def ask(self) -> str | None:
        """Ask; returns what is wrong."""
        try:
            async with asyncio.timeout(PROBE_ANSWER_SECONDS), self.pool.lend() as driver:
                await driver.fetchval("select 1")
        except Unavailable as problem:
            return problem.detail
        except (TimeoutError, asyncpg.PostgresError):
            return "The database does not answer; try again in a moment."
        return None


class Loan:
    """A connection that is lent; one whose state is not known at the end is closed.

    A class and not a generator, because it is part of every request and costs half as much so.
    """

    __slots__ = ("driver", "group", "pool", "whose")

    def __init__(self, pool: Pool, whose: str | None, group: str | None) -> None:
        self.pool = pool
        self.whose = whose
        self.group = group

    async def __aenter__(self) -> Driver:
        pool = self.pool
        if self.whose is not None and not pool.turns.take_now(self.whose, self.group):
            try:
                async with asyncio.timeout(ACQUIRE_SECONDS):
                    await pool.turns.take(self.whose, self.group)
            except TimeoutError:
                pool.refused["no_turn"] += 1
                raise busy() from None
        # A free connection is there at once, and a new one has a time limit of its own.
        wait = None if pool.lent < pool.size else ACQUIRE_SECONDS
        pool.lent += 1
        try:
            self.driver: Driver = await pool.pool.acquire(timeout=wait)
        except BaseException as error:
            self.give()
            if isinstance(error, TimeoutError):
                pool.refused["no_connection"] += 1
                raise busy() from None
            if isinstance(error, UNREACHABLE):
                raise unreachable() from error
            raise
        return self.driver

    def give(self) -> None:
        """Give the principal's turn back."""
        self.pool.lent -= 1
        if self.whose is not None:
            self.pool.turns.give(self.whose, self.group)

    async def __aexit__(self, _: object, error: BaseException | None, trace: object) -> None:
        is_unreachable = error is not None and (isinstance(error, UNREACHABLE) or is_lost(error))
        # Cancelled or silent in the middle of a statement: asyncpg would wait until the server
        # confirms a cancellation, which a silent network never does.
        if error is not None and (
            is_unreachable or not isinstance(error, Exception) or is_unsettled(self.driver)
        ):
            give_up(self.driver)
        try:
            await self.pool.pool.release(self.driver)  # shields itself from a cancellation
        finally:
            self.give()
        if is_unreachable:
            raise unreachable() from error


def busy() -> Unavailable:
    """Say that no connection was free."""
    return Unavailable("All database connections are busy; try again in a moment.")


def unreachable() -> Unavailable:
    """Say that the server does not answer."""
    return Unavailable("The database cannot be reached; try again in a moment.")


def is_unsettled(driver: Driver) -> bool:
    """Say whether a connection has a transaction open."""
    try:
        return driver.is_in_transaction()
    except asyncpg.InterfaceError:
        return False  # it is closed, and so the pool has it back


def give_up(driver: Driver) -> None:
    """Close a connection without a word to the server; one that is closed may be given up again.

    The pool takes a closed connection back at once, and asyncpg then refuses every call on it: an
    error that would stand in the place of the one that is on its way, a cancellation among them.
    """
    with contextlib.suppress(asyncpg.InterfaceError):
        driver.terminate()


def is_lost(error: BaseException) -> bool:
    """Say whether an error of the server means that this connection is over."""
    return isinstance(
        error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    ) and not isinstance(error, asyncpg.QueryCanceledError)


async def let_json_through(driver: "asyncpg.Connection[Any]") -> None:
    """Let JSON through as it is: who needs its content decodes it."""
    await driver.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        # A byte for the format's version stands before the text.
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda value: msgspec.Raw(value[1:]),
    )


async def keep(_: "asyncpg.Connection[Any]") -> None:
    """Give a connection back as it is: statements and transactions of ours leave nothing behind."""


def is_poolers(error: BaseException) -> bool:
    """Say whether an error is what a transaction pooler makes of statements with a name."""
    return any(isinstance(cause, POOLER_ERRORS) for cause in causes(error))
