"""The worker: readers that follow the log with a stored cursor, and jobs that run now and then."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from app.database.drivers import Driver
from app.database.pools import Database
from app.realtime.wakeup import Wakeup
from app.supervision import Supervised, using

log = structlog.get_logger()

BATCH = 500
"""Entries that a reader handles in one transaction."""
WAITS = (0.005, 0.025, 0.1)
"""Seconds to wait after a read that found nothing: short after activity, then longer."""
QUIET_READS = 20
"""Reads that find nothing before the next of WAITS is taken."""
REST_SECONDS, REST_SECONDS_EACH, MAX_REST_SECONDS = 0.015, 0.0004, 0.035
"""Seconds from the start of a read that found something to the next read; more for each entry, up
to a maximum; none after a full batch. Entries that arrive meanwhile share a batch, because an event
that is alone in a page takes twice the CPU of one among five, and three times that of one among
ten or more."""
FOLLOW_SECONDS = 1.0
"""How often a reader that is not the leader asks again."""
FINISH_SECONDS = 8.0
"""How long a batch may go on when the worker is told to stop; containers are killed after 10 s."""
LOOK = """
select exists (
  select from annex.readers r, annex.read_log(r.pos, 1) where r.name = $1
)
"""
# The commit does not wait for the disk, because a crash loses rows and cursor together, or neither.
# The commit of a position, by which readers see an event, does wait.
READ = """
select r.pos as after_pos, l.* from (
  select pos, set_config('synchronous_commit', 'off', true) from annex.readers
  where name = $1 for update skip locked
) r
left join lateral annex.read_log(r.pos, $2) l on true
"""
Result = TypeVar("Result")


async def until_told(running: Coroutine[Any, Any, None]) -> None:
    """Run until SIGINT or SIGTERM, which cancel it; a second signal ends its last batch as well.

    Both have a handler, because the first process of a container ignores signals without one.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(running)
    has_been_told = False

    def tell() -> None:
        nonlocal has_been_told
        has_been_told = True
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell)
    try:
        await task
    except asyncio.CancelledError:
        if not has_been_told:
            task.cancel()
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def finished(batch: Coroutine[Any, Any, Result]) -> Result:
    """Run a batch to its end, even if the caller is cancelled; after that, for 8 s at most."""
    task = asyncio.create_task(batch)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        ended, _ = await asyncio.wait({task}, timeout=FINISH_SECONDS)
        for error in (e.exception() for e in ended if not e.cancelled()):
            if error is not None:
                log.warning("a batch failed while the worker stopped", exc_info=error)
        raise
    finally:
        task.cancel()


class Entry(Protocol):
    """A row of annex.read_log: pos, event_id, workspace_id, user_id, rights_of."""

    def __getitem__(self, name: str) -> Any: ...


class Reader(Protocol):
    """Follows the log from a stored cursor: its rows and its cursor are one transaction."""

    name: str

    async def handle(self, connection: Driver, batch: Sequence[Entry]) -> None:
        """Handle entries in order, on a connection in the transaction that moves the cursor.

        An error rolls both back; the batch comes again.
        """

    def committed(self) -> None:
        """Note that the batch is committed."""


class Job(msgspec.Struct, frozen=True):
    """Work for every start and then for intervals; it must be safe to repeat."""

    name: str
    seconds: float
    run: Callable[[Database], Awaitable[object]]
    wake: asyncio.Event | None = None
    """Starts the next run at once when it is set."""


class Runner:
    """Runs readers and jobs, each supervised; several processes may run the same.

    The process that leads a reader locks its row for one transaction at a time, so that this works
    through a transaction pooler. Readers sequence the log, too, so that no API process is needed.
    """

    def __init__(
        self, database: Database, readers: Sequence[Reader] = (), jobs: Sequence[Job] = ()
    ) -> None:
        self.database = database
        following = [Following(database, reader) for reader in readers]
        self.tasks = [
            *(Supervised(f"reader {f.reader.name}", f.run) for f in following),
            *(Supervised(f"job {j.name}", Repeating(database, j).run) for j in jobs),
        ]
        if not readers:
            self.tasks.append(Supervised("sequencer", Sequencing(database).run))
        elif not database.is_pooled:

            def wake() -> None:
                for one in following:
                    one.pause.woken.set()

            listening = Wakeup(wake)
            # A server that runs them, too, has a wake-up of its own: names tell tasks apart.
            self.tasks.append(
                Supervised("wakeup of readers", using(database.worker, listening.follow))
            )

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            for task in self.tasks:
                group.create_task(task.keep())


class Repeating:
    """Runs one job."""

    def __init__(self, database: Database, job: Job) -> None:
        self.database = database
        self.job = job

    async def run(self) -> None:
        """Run the job now and at intervals; an error ends it, and it is begun again."""
        while True:
            began = time.monotonic()
            await self.job.run(self.database)
            await self.pause(max(0.0, self.job.seconds - (time.monotonic() - began)))

    async def pause(self, seconds: float) -> None:
        """Wait until the time has passed or the job is woken."""
        if self.job.wake is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.job.wake.wait()
        self.job.wake.clear()


class Sequencing:
    """Gives positions to pending events in a process without readers."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def run(self) -> None:
        """Sequence batch after batch."""
        pause = Pause()
        while True:
            async with self.database.worker.lend() as driver:
                moved = await driver.fetchval("select annex.sequence($1)", 1000)
            await pause.after(bool(moved))


class Following:
    """Follows the log for one reader."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self.database = database
        self.reader = reader
        self.pause = Pause()
        self.is_quiet = False
        """Whether the last batch was empty."""

    async def run(self) -> None:
        """Handle batch after batch, as long as this process leads; wait while another one does."""
        async with self.database.worker.lend() as driver:
            await driver.execute(
                "insert into annex.readers (name) values ($1) on conflict (name) do nothing",
                self.reader.name,
            )
        while True:
            began = time.monotonic()
            handled = await finished(self.batch())
            if handled:
                self.reader.committed()
            if handled is None:
                await asyncio.sleep(FOLLOW_SECONDS)
                continue
            if 0 < handled < BATCH:
                rest = min(REST_SECONDS + handled * REST_SECONDS_EACH, MAX_REST_SECONDS)
                await asyncio.sleep(max(0.0, began + rest - time.monotonic()))
            await self.pause.after(handled > 0)

    async def batch(self) -> int | None:
        """Give positions to pending events, then do what `step` does."""
        async with self.database.worker.lend() as driver:
            # In autocommit and before the batch, because a position must be committed before a
            # reader sees it.
            await driver.fetchval("select annex.sequence($1)", 1000)
            if self.is_quiet and not await driver.fetchval(LOOK, self.reader.name):
                return 0  # the usual case takes no transaction
            size = await self.step(driver)
            self.is_quiet = size == 0
            return size

    async def step(self, driver: Driver) -> int | None:
        """Handle one batch in one transaction; returns its size, None if another process leads."""
        async with driver.transaction():
            batch = await driver.fetch(READ, self.reader.name, BATCH)
            if not batch:
                return None
            if batch[0]["pos"] is None:
                return 0
            await self.reader.handle(driver, batch)
            await driver.execute(
                "update annex.readers set pos = $2, updated_at = now() where name = $1",
                self.reader.name,
                batch[-1]["pos"],
            )
            return len(batch)


class Pause:
    """Waits between reads: not after one that found something, then shortly, then longer."""

    def __init__(self) -> None:
        self.quiet = 0
        self.woken = asyncio.Event()
        """Ends the wait; set when another process has committed something."""

    async def after(self, found: bool) -> None:
        """Wait after a read, unless it found something."""
        self.quiet = 0 if found or self.woken.is_set() else self.quiet + 1
        if not found:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAITS[min(self.quiet // QUIET_READS, len(WAITS) - 1)]):
                    await self.woken.wait()
        self.woken.clear()
