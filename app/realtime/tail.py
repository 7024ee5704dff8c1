"""The log tail: one a process, gives positions to what is pending and feeds the hub."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog

from app.database.drivers import Driver
from app.database.pools import Pool
from app.realtime.hub import Hub
from app.realtime.wakeup import Wakeup
from app.supervision import Supervised, using

log = structlog.get_logger()

BATCH = 1000
# Seconds to wait after a read that found nothing: short after activity, then longer. A wake-up ends
# the wait.
WAITS = (0.005, 0.025, 0.1)
QUIET_READS = 20
"""Empty reads before the next longer wait."""
REST_SECONDS_EACH = 0.0002
MAX_REST_SECONDS = 0.05
"""Seconds between reads for each entry of the last one, and at most, however often the tail is
woken: from 5,000 events/s on, many small reads would cost writers more than few large ones."""
UNFOLLOWED_REST_SECONDS = 0.02
"""Seconds between reads while no stream is open here; a stream that opens waits no longer."""
ANSWER_SECONDS = 10
"""A server that is silent for longer counts as dead, because its socket may never tell."""
REOPEN_SECONDS = 60.0
"""Seconds between two checks of where the log begins, and whether it is still the same."""


class Tail:
    """Reads the log to its end, again and again, and hands new entries to the hub."""

    def __init__(self, pool: Pool, hub: Hub, *, notifies: bool = True) -> None:
        self.pool = pool
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
        """Times that positions were missing; 0 unless the process slept longer than retention."""

    @property
    def lag_seconds(self) -> float:
        """Seconds since the last read began that came to the log's end: how late events may be."""
        return time.monotonic() - self.ended_at

    def wake(self) -> None:
        """Read now and wake the other processes, because this one has committed something."""
        self.woken.set()
        if self.others is not None:
            self.others.tell()

    def tasks(self) -> list[Supervised]:
        """List its background tasks."""
        found = [Supervised("tail", using(self.pool, self.follow))]
        if self.others is not None:
            found.append(Supervised("wakeup", using(self.pool, self.others.follow)))
        return found

    async def follow(self, driver: Driver) -> None:
        """Read batch after batch.

        In autocommit, because a position must be committed when a reader sees it: without BEGIN,
        the answer is complete only after the server's own COMMIT.
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
                rest = min(read * REST_SECONDS_EACH, MAX_REST_SECONDS)
                if read and not self.hub.counts.connections:
                    rest = max(rest, UNFOLLOWED_REST_SECONDS)
                await asyncio.sleep(rest)
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

        Runs every minute as well, because behind a pooler or a proxy the server may become another
        one while the connection stays.
        """
        epoch, head, retained_from = await driver.fetchrow(
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
        """Read entries after the hub's head and hand them over; returns how many there were."""
        entries: Sequence[Any] = await driver.fetch(
            "select * from annex.tail($1, $2)", self.hub.head, max_entries, timeout=ANSWER_SECONDS
        )
        if entries:
            await self.hand_over(entries, await self.read_events(driver, entries))
        return len(entries)

    async def read_events(self, driver: Driver, entries: Sequence[Any]) -> Mapping[UUID, Any]:
        """Read the events that somebody follows in this process; most tails need few of them."""
        ids = [entry["event_id"] for entry in entries if self.hub.is_followed(entry)]
        if not ids:
            return {}
        statement = "select * from annex.read_events($1)"
        rows = await driver.fetch(statement, ids, timeout=ANSWER_SECONDS)
        return {row["event_id"]: row for row in rows}

    async def hand_over(self, entries: Sequence[Any], events: Mapping[UUID, Any]) -> None:
        """Hand entries to the hub; resets readers if positions are missing."""
        head = self.hub.head
        if entries[-1]["pos"] - head == len(entries):
            await self.hub.publish(entries, events)
            return
        before = [head, *(entry["pos"] for entry in entries[:-1])]
        holes = [n for n, entry in enumerate(entries) if entry["pos"] != before[n] + 1]
        await self.hub.publish(entries[: holes[0]], events)
        # After the last hole, so that a reader is told of a loss only once.
        self.skip_to(entries[holes[-1]]["pos"] - 1)
        await self.hub.publish(entries[holes[-1] :], events)

    def skip_to(self, head: int) -> None:
        """Move the head past positions that are missing; resets readers."""
        self.gaps += 1
        log.error("the log lacks positions; readers are reset", after=self.hub.head, until=head)
        self.hub.gap(head)

    async def catch_up(self, seconds: float = 5) -> None:
        """Wait until a read that began after now has come to the log's end; raises TimeoutError."""
        wanted = self.reads_begun + 1
        self.woken.set()
        async with asyncio.timeout(seconds), self.read_finished:
            await self.read_finished.wait_for(lambda: self.last_full_read >= wanted)
