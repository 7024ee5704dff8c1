"""The log tail: one a process, gives positions to what is pending and feeds the hub."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engines import POOLER_HINT, UNREACHABLE, Driver, driver_of, is_poolers
from app.realtime.hub import Hub

log = structlog.get_logger()

BATCH = 1000
# Seconds to wait after a read that found nothing: short after activity, then longer. A wake-up ends
# the wait.
WAITS = (0.005, 0.025, 0.1)
QUIET_READS = 20
"""Empty reads before the next longer wait."""
REST_SECONDS_EACH = 0.0002
MAX_REST_SECONDS = 0.05
"""Between reads, however often woken, by what the last one brought: from 5,000 events/s on, many
small reads would cost the writers more than few large ones cost the readers."""
ANSWER_SECONDS = 10
"""A server that is silent for longer is taken for dead; its socket may never tell."""
BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)
REOPEN_SECONDS = 60.0
"""Between two looks at where the log begins, and whether it is still the same."""
CHANNEL = "annex_log"
COALESCE_SECONDS = 0.005
"""At most one notification in so long: each takes a lock of all databases of the server."""
LISTEN_AGAIN_SECONDS = 30.0


class Tail:
    """Reads the log to its end for ever; errors back off and go on, so that it never dies."""

    def __init__(self, engine: AsyncEngine, hub: Hub, *, notifies: bool = True) -> None:
        self.engine = engine
        self.hub = hub
        self.is_following = False
        self.woken = asyncio.Event()
        self.others = Wakeup(self.woken.set) if notifies else None
        self.reads_begun = 0
        self.last_full_read = 0
        self.read_finished = asyncio.Condition()
        self.ended_at = time.monotonic()
        self.reopen_at = 0.0
        self.gaps = 0
        """Times that positions were missing; it stays 0 unless we slept longer than retention."""

    @property
    def lag_seconds(self) -> float:
        """How old what readers know may be: since the last read began that came to the end."""
        return time.monotonic() - self.ended_at

    def wake(self) -> None:
        """Read now, and let the other processes read: something was committed in this one."""
        self.woken.set()
        if self.others is not None:
            self.others.tell()

    async def run(self) -> None:
        """Follow the log until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_using(self.engine, self.follow, "the log cannot be followed"))
            if self.others is not None:
                lost = "other processes cannot be woken; they poll"
                tasks.create_task(keep_using(self.engine, self.others.follow, lost))

    async def follow(self, driver: Driver) -> None:
        """Read batch after batch.

        In autocommit, as a position must be committed when it is seen: without BEGIN, the answer is
        complete only after the server's own COMMIT.
        """
        try:
            await self.open(driver)
            quiet = 0
            while True:
                self.woken.clear()
                self.reads_begun += 1
                began, began_at = self.reads_begun, time.monotonic()
                read = await self.read(driver, BATCH)
                self.is_following = True
                if read:
                    quiet = 0
                if read == BATCH:
                    await asyncio.sleep(0)
                    continue
                self.ended_at = began_at
                async with self.read_finished:
                    self.last_full_read = began
                    self.read_finished.notify_all()
                if time.monotonic() >= self.reopen_at:
                    await self.open(driver)
                await asyncio.sleep(min(read * REST_SECONDS_EACH, MAX_REST_SECONDS))
                wait = WAITS[min(quiet // QUIET_READS, len(WAITS) - 1)]
                quiet += 1
                try:
                    async with asyncio.timeout(wait):
                        await self.woken.wait()
                except TimeoutError:
                    pass
                else:
                    quiet = 0
        finally:
            self.is_following = False

    async def open(self, driver: Driver) -> None:
        """Learn where the log stands; a new epoch resets the hub's readers.

        Also every minute: behind a pooler or a proxy, the server may become another one while the
        connection stays.
        """
        epoch, head, retained_from = await driver.fetchrow(  # type: ignore[misc]
            "select * from annex.open_log($1, $2)",
            self.hub.epoch,
            self.hub.head,
            timeout=ANSWER_SECONDS,
        )
        if epoch != self.hub.epoch:
            self.hub.restart(epoch, head, retained_from)
        elif retained_from - 1 > self.hub.head:
            self.skip_to(retained_from - 1)
        self.hub.retained_from = max(self.hub.retained_from, retained_from)
        self.reopen_at = time.monotonic() + REOPEN_SECONDS

    async def read(self, driver: Driver, max_entries: int) -> int:
        """Read on from the hub's head and hand it over; returns how many entries there were."""
        entries: Sequence[Any] = await driver.fetch(
            "select * from annex.tail($1, $2)", self.hub.head, max_entries, timeout=ANSWER_SECONDS
        )
        if entries:
            self.hand_over(entries, await self.read_events(driver, entries))
        return len(entries)

    async def read_events(self, driver: Driver, entries: Sequence[Any]) -> Mapping[UUID, Any]:
        """Read the events that somebody follows in this process; most tails need few of them."""
        ids = [entry["event_id"] for entry in entries if self.hub.is_followed(entry)]
        if not ids:
            return {}
        statement = "select * from annex.read_events($1)"
        rows = await driver.fetch(statement, ids, timeout=ANSWER_SECONDS)
        return {row["event_id"]: row for row in rows}

    def hand_over(self, entries: Sequence[Any], events: Mapping[UUID, Any]) -> None:
        """Hand entries to the hub; where positions are missing before one, readers are reset."""
        head = self.hub.head
        if entries[-1]["pos"] - head == len(entries):
            self.hub.publish(entries, events)
            return
        before = [head, *(entry["pos"] for entry in entries[:-1])]
        holes = [n for n, entry in enumerate(entries) if entry["pos"] != before[n] + 1]
        self.hub.publish(entries[: holes[0]], events)
        # To the last one: a reader that is told of a loss need be told only once.
        self.skip_to(entries[holes[-1]]["pos"] - 1)
        self.hub.publish(entries[holes[-1] :], events)

    def skip_to(self, head: int) -> None:
        """Go on after a position although we have not seen all before it."""
        self.gaps += 1
        log.error("the log lacks positions; readers are reset", after=self.hub.head, until=head)
        self.hub.gap(head)

    async def catch_up(self, seconds: float = 5) -> None:
        """Wait until a read that began after now has come to the log's end; raises TimeoutError."""
        wanted = self.reads_begun + 1
        self.woken.set()
        async with asyncio.timeout(seconds), self.read_finished:
            await self.read_finished.wait_for(lambda: self.last_full_read >= wanted)


class Wakeup:
    """Tells other processes of a commit, and hears of theirs.

    Only for speed: the tails poll as well. What is lost here, or a connection that died unnoticed,
    costs some of those milliseconds. Never in a writer's transaction, whose COMMIT would then wait
    for all others that notify.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self.heard = heard
        self.due = asyncio.Event()

    def tell(self) -> None:
        """Notify soon."""
        self.due.set()

    async def follow(self, driver: Driver) -> None:
        """Listen, and notify when it is due."""
        own_pid = driver.get_server_pid()

        def hear(_: object, pid: int, *__: object) -> None:
            if pid != own_pid:
                self.heard()

        # Nothing here is worth a wait for the disk.
        await driver.execute("set synchronous_commit = off", timeout=ANSWER_SECONDS)
        async with asyncio.timeout(ANSWER_SECONDS):
            await driver.add_listener(CHANNEL, hear)
        driver.add_termination_listener(lambda _: self.due.set())
        while True:
            try:
                async with asyncio.timeout(LISTEN_AGAIN_SECONDS):
                    await self.due.wait()
            except TimeoutError:
                # Shows whether the connection still lives.
                await driver.execute(f"listen {CHANNEL}", timeout=ANSWER_SECONDS)
                continue
            self.due.clear()
            await driver.execute(f"notify {CHANNEL}", timeout=ANSWER_SECONDS)
            await asyncio.sleep(COALESCE_SECONDS)


async def keep_using(
    engine: AsyncEngine, use: Callable[[Driver], Awaitable[None]], lost: str
) -> None:
    """Lend a connection until cancelled; after an error another one, the later the more failed."""
    failures = 0
    while True:
        connected_at = math.inf
        try:
            async with engine.connect() as connection:
                connected_at = time.monotonic()
                try:
                    await use(driver_of(connection))
                finally:
                    # SQLAlchemy did not see the driver fail, and would lend it again.
                    await connection.invalidate()
        except Exception as error:
            if time.monotonic() - connected_at > 1:
                failures = 0
            pause = BACKOFF[min(failures, len(BACKOFF) - 1)]
            failures += 1
            expected = isinstance(error, UNREACHABLE) or is_poolers(error)
            log.warning(
                lost,
                again_in_seconds=pause,
                error=POOLER_HINT if is_poolers(error) else str(error),
                exc_info=None if expected else error,
            )
            await asyncio.sleep(pause)
