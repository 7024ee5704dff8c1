"""The two connection pools, and how a connection is lent, given back and given up."""

import asyncio
import time
from collections import Counter
from typing import Self

import asyncpg
import structlog

from app.database.drivers import Driver, let_json_through
from app.database.turns import Turns
from app.errors import Unavailable, causes
from app.settings import Settings, database_url

log = structlog.get_logger()

SHOWN = 1000
"""Characters of a slow statement that are logged."""
ACQUIRE_SECONDS = 10.0
"""How long a request waits for a connection."""
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 10.0
"""How long a request waits for an answer; the role's own statement_timeout ends it before."""
IDLE_SECONDS = 300.0
"""A connection that nobody has used for so long is closed."""
PROBE_SECONDS, PROBE_ANSWER_SECONDS = 1.0, 2.0
"""Between two questions whether the server answers, and how long it has for that."""
API_NAME, WORKER_NAME = "annex", "annex worker"
"""How `annex serve` and `annex worker` call themselves in pg_stat_activity."""
NO_TURN, NO_CONNECTION = "no_turn", "no_connection"
"""How metrics call what was not to be had in time."""
WORKERS = 10
"""Connections for the tail, wake-ups, readers and jobs."""
# What a Postgres that is not there raises, from the socket up.
UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    # Of a connection to which a crashing server said goodbye, and which is not closed yet.
    asyncpg.InternalClientError,
    TimeoutError,
)
# While a connection is opened, this is about the server, too. Later, asyncpg raises it for calls of
# ours that are wrong, as well.
NOT_OPENED = (*UNREACHABLE, asyncpg.InterfaceError)
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
        return self

    async def __aexit__(self, *_: object) -> None:
        self.api.close()
        self.worker.close()


class Pool:
    """Lends connections of one role; opens them when they are needed.

    Not asyncpg's pool, because that wraps a connection anew for each loan and gives it back in a
    task of its own, which took a tenth of a request's time.
    """

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
        self.is_pooled = is_pooled
        self.name = name
        self.lent = 0
        """Connections that are lent, or are being opened for that."""
        self.slow = 0
        """Statements that took longer than `slow_seconds`, if that is not 0."""
        self.url = database_url(setting, url)
        self.dsn = self.url.render_as_string(hide_password=False)
        self.size = size
        self.turns = Turns(size, size if each is None else each)
        """By turns of workspaces and principals, each of which leaves some to others."""
        self.refused = Counter[str]()
        """Loans that failed because no turn, or no connection, was free in time."""
        self.places = asyncio.Semaphore(size)
        self.open = set[Driver]()
        self.idle = dict[Driver, float]()
        """Connections that nobody has, and since when; the last one used is lent first."""
        self.timer: asyncio.TimerHandle | None = None
        self.is_closed = False

    async def take(self) -> Driver:
        """Take an idle connection or a new one; the caller then calls `take_back`.

        Raises `Unavailable` when all are lent for 10 s, and what a missing server raises.
        """
        if self.places.locked():
            try:
                async with asyncio.timeout(ACQUIRE_SECONDS):
                    await self.places.acquire()
            except TimeoutError:
                self.refused[NO_CONNECTION] += 1
                raise busy() from None
        else:
            await self.places.acquire()
        try:
            while self.idle:
                driver, _ = self.idle.popitem()
                if not driver.is_closed():
                    return driver
                self.open.discard(driver)
            return await self.connect()
        except BaseException:
            self.places.release()
            raise

    def take_back(self, driver: Driver) -> None:
        """Keep a connection for the next loan; one that is closed is forgotten."""
        self.places.release()
        if driver.is_closed():
            self.open.discard(driver)
            return
        self.idle[driver] = time.monotonic()
        if self.timer is None:
            self.sweep()

    def sweep(self) -> None:
        """Close connections that were idle for long; runs again when the next may be due."""
        now, self.timer = time.monotonic(), None
        for driver, since in list(self.idle.items()):
            if now - since < IDLE_SECONDS:
                due = since + IDLE_SECONDS - now
                self.timer = asyncio.get_running_loop().call_later(due, self.sweep)
                return
            del self.idle[driver]
            self.open.discard(driver)
            driver.terminate()

    async def connect(self) -> Driver:
        """Open a connection, and set it up."""
        driver: Driver = await asyncpg.connect(
            self.dsn,
            connection_class=Driver,
            # A connection plans each statement once: of itself, asyncpg forgets it in 5 minutes.
            max_cached_statement_lifetime=0,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            # A pooler takes no other settings than those it knows; PgBouncer knows this one.
            server_settings={"application_name": self.name},
            # Behind a transaction pooler no statement has a name: asyncpg then parses it in the
            # same message that runs it, on whichever server that reaches.
            statement_cache_size=0 if self.is_pooled else 100,
        )
        self.open.add(driver)
        try:
            await self.prepare(driver)
            if self.is_closed:
                raise ConnectionError("the pool was closed meanwhile")
        except BaseException:
            self.open.discard(driver)
            driver.terminate()
            raise
        return driver

    async def prepare(self, driver: Driver) -> None:
        """Set a new connection up."""
        driver.peers = self.open
        await let_json_through(driver)
        if self.slow_seconds:
            driver.note = self.note

    def note(self, query: str, seconds: float, error: BaseException | None) -> None:
        """Log a statement that was slow: its text, which is ours, and none of its parameters."""
        if seconds < self.slow_seconds:
            return
        self.slow += 1
        # A transaction's first message holds its claims, because a simple query takes no parameter.
        text = "begin" if query.startswith("begin;") else query
        log.warning(
            "slow query",
            seconds=round(seconds, 3),
            statement=" ".join(text.split())[:SHOWN],
            failed=type(error).__name__ if error else None,
        )

    @property
    def waiting(self) -> int:
        """How many wait for their turn, including those that gave up and are not swept yet."""
        return sum(len(q) for queues in self.turns.waiting.values() for q in queues.values())

    @property
    def host(self) -> str:
        """Where the server is, for people."""
        return f"{self.url.host or self.url.query.get('host', 'localhost')}"

    def close(self) -> None:
        """Close every connection, also those that are lent."""
        self.is_closed = True
        if self.timer is not None:
            self.timer.cancel()
        for driver in self.open:
            driver.terminate()
        self.open.clear()
        self.idle.clear()

    def lend(
        self, whose: str | None = None, group: str | None = None, *, is_kept: bool = True
    ) -> "Loan":
        """Lend a connection for as long as the `async with` lasts.

        `whose` is the principal it is for, and `group` the workspace it is about, if there is one.
        A loan that is not `is_kept` ends with the connection closed. Waits 10 s for a turn, 10 s
        for a place in the pool, and 5 s for a new connection; raises `Unavailable` after that.
        """
        return Loan(self, whose, group, is_kept)


class Probe:
    """Asks whether a pool's server answers: at most once a second, for all callers."""

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
        """Ask; returns what is wrong, None if nothing is."""
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

    __slots__ = ("driver", "group", "is_kept", "pool", "whose")
    driver: Driver

    def __init__(self, pool: Pool, whose: str | None, group: str | None, is_kept: bool) -> None:
        self.pool = pool
        self.whose = whose
        self.group = group
        self.is_kept = is_kept

    async def __aenter__(self) -> Driver:
        pool = self.pool
        if self.whose is not None and not pool.turns.take_now(self.whose, self.group):
            try:
                async with asyncio.timeout(ACQUIRE_SECONDS):
                    await pool.turns.take(self.whose, self.group)
            except TimeoutError:
                pool.refused[NO_TURN] += 1
                raise busy() from None
        pool.lent += 1
        try:
            self.driver = await pool.take()
        except BaseException as error:
            self.give()
            if isinstance(error, NOT_OPENED):
                raise unreachable() from error
            raise
        return self.driver

    def give(self) -> None:
        """Give the principal's turn back."""
        self.pool.lent -= 1
        if self.whose is not None:
            self.pool.turns.give(self.whose, self.group)

    async def __aexit__(self, _: object, error: BaseException | None, trace: object) -> None:
        driver = self.driver
        is_unreachable = error is not None and says_unreachable(error, driver)
        # Cancelled in the middle of a statement, or called in a way that leaves asyncpg in the
        # middle of one: nobody knows in what state the next one would get it.
        is_cut_off = error is not None and (
            not isinstance(error, Exception) or isinstance(error, asyncpg.InterfaceError)
        )
        if not self.is_kept or is_unreachable or is_cut_off or is_unsettled(driver):
            driver.terminate()
        self.pool.take_back(driver)
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
    return not driver.is_closed() and driver.is_in_transaction()


def says_unreachable(error: BaseException, driver: Driver) -> bool:
    """Say whether an error means that the server does not answer, or has closed the connection."""
    if isinstance(error, asyncpg.InterfaceError):
        # Of a connection that is open, it is a fault of ours: a wrong argument, two calls at once.
        return driver.is_closed()
    return isinstance(error, UNREACHABLE) or is_lost(error)


def is_lost(error: BaseException) -> bool:
    """Say whether an error of the server means that this connection is over."""
    return isinstance(
        error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    ) and not isinstance(error, asyncpg.QueryCanceledError)


def is_poolers(error: BaseException) -> bool:
    """Say whether an error is what a transaction pooler makes of statements with a name."""
    return any(isinstance(cause, POOLER_ERRORS) for cause in causes(error))
