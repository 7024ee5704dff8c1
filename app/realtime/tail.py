"""The log tail: one a process, gives positions to what is pending and feeds the hub."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import UNREACHABLE, Driver, driver_of
from app.realtime.hub import Hub

log = structlog.get_logger()

BATCH = 1000
# Seconds to wait after a read that found nothing: short after activity, then longer. A wake-up ends
# the wait.
WAITS = (0.005, 0.025, 0.1)
QUIET_READS = 20
"""Empty reads before the next longer wait."""
ANSWER_SECONDS = 10
"""A server that is silent for longer is taken for dead; its socket may never tell."""
BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)


class Tail:
    """Reads the log to its end for ever; errors back off and go on, so that it never dies."""

    def __init__(self, engine: AsyncEngine, hub: Hub) -> None:
        self.engine = engine
        self.hub = hub
        self.is_following = False
        self.wakeup = asyncio.Event()
        self.reads_begun = 0
        self.last_full_read = 0
        self.read_finished = asyncio.Condition()

    def wake(self) -> None:
        """Read now: something was committed in this process."""
        self.wakeup.set()

    async def run(self) -> None:
        """Follow the log until cancelled."""
        failures = 0
        while True:
            try:
                async with self.engine.connect() as connection:
                    try:
                        driver = driver_of(connection)
                        await self.open(driver)
                        failures = 0
                        await self.follow(driver)
                    finally:
                        # SQLAlchemy did not see the driver fail, and would lend it again.
                        await connection.invalidate()
            except Exception as error:
                self.is_following = False
                pause = BACKOFF[min(failures, len(BACKOFF) - 1)]
                failures += 1
                expected = isinstance(error, UNREACHABLE)
                log.warning(
                    "the log tail lost the database and will try again",
                    seconds=pause,
                    error=str(error),
                    exc_info=None if expected else error,
                )
                await asyncio.sleep(pause)

    async def open(self, driver: Driver) -> None:
        """Learn where the log stands; a new epoch resets the hub's readers."""
        epoch, head, retained_from = await driver.fetchrow(  # type: ignore[misc]
            "select * from annex.open_log($1, $2)", self.hub.epoch, self.hub.head
        )
        if epoch != self.hub.epoch:
            self.hub.restart(epoch, head, retained_from)
        self.hub.retained_from = retained_from

    async def follow(self, driver: Driver) -> None:
        """Read batch after batch.

        In autocommit, as a position must be committed when it is seen.
        """
        statement = await driver.prepare("select * from annex.tail($1, $2)")
        quiet = 0
        while True:
            self.wakeup.clear()
            self.reads_begun += 1
            began = self.reads_begun
            rows: Sequence[Any] = await statement.fetch(
                self.hub.head, BATCH, timeout=ANSWER_SECONDS
            )
            self.is_following = True
            if rows:
                self.hub.publish(rows)
                quiet = 0
            if len(rows) == BATCH:
                await asyncio.sleep(0)
                continue
            async with self.read_finished:
                self.last_full_read = began
                self.read_finished.notify_all()
            wait = WAITS[min(quiet // QUIET_READS, len(WAITS) - 1)]
            quiet += 1
            try:
                async with asyncio.timeout(wait):
                    await self.wakeup.wait()
            except TimeoutError:
                pass
            else:
                quiet = 0

    async def catch_up(self, seconds: float = 5) -> None:
        """Wait until a read that began after now has come to the log's end; raises TimeoutError."""
        wanted = self.reads_begun + 1
        self.wake()
        async with asyncio.timeout(seconds), self.read_finished:
            await self.read_finished.wait_for(lambda: self.last_full_read >= wanted)
