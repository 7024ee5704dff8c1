"""The projector: a reader of the log that queues events for fan-out, and the jobs that notify.

The reader's cursor waits for no inbox: it only queues. New events are fanned out as soon as the
batch is committed. What is left of a large one is fanned out by a job of its own, page by page.
Tenants take turns in both, so that nobody waits for another's events. A page and how far it came
are one transaction: a kill loses and repeats nothing. An event whose fan-out fails is put aside,
and the others go on.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

import asyncpg
import structlog

from app.database.drivers import Driver
from app.database.pools import Database, is_lost
from app.logs import reason_of
from app.worker.runner import Entry, Job

log = structlog.get_logger()

PAGE = 500
"""Candidates of a page: a transaction of a few hundred milliseconds at most."""
NEW_EVENTS, BEGUN_EVENTS = 50, 10
"""Events that share a page."""
PAGE_SECONDS = 8.0
"""How long a page may take before its events are tried one by one; less than a command may."""
LONG_SECONDS = 0.5
"""A longer call may have left events to the next one, because annex.deliver stops after 1 s."""
FANOUT_SECONDS = 0.25
"""How often a job looks for events of another process; those of its own wake it at once."""
WAKE_SECONDS = 1.0


class Projector:
    """Queues the events of each batch for fan-out."""

    name = "projector"

    def __init__(self) -> None:
        self.has_queued = asyncio.Event()
        self.has_begun = asyncio.Event()

    async def handle(self, connection: Driver, batch: Sequence[Entry]) -> None:
        """Queue a batch, except personal events, which notify nobody."""
        events = [entry["event_id"] for entry in batch if entry["user_id"] is None]
        if events:
            await connection.execute("select annex.queue_fanouts($1)", events)

    def committed(self) -> None:
        """Wake the job that fans new events out."""
        self.has_queued.set()

    def jobs(self) -> list[Job]:
        """Make the jobs; several processes may run them."""
        return [
            Job("fan-out", FANOUT_SECONDS, self.fan_out_new, self.has_queued),
            Job("large fan-outs", FANOUT_SECONDS, partial(fan_out, True), self.has_begun),
            Job("wake", WAKE_SECONDS, wake),
        ]

    async def fan_out_new(self, database: Database) -> None:
        """Fan out the first page of each new event."""
        if await fan_out(False, database):
            self.has_begun.set()


async def fan_out(is_begun: bool, database: Database) -> bool:
    """Fan out what is due, page by page; returns whether an event has more than its part."""
    has_more = False
    async with database.worker.lend() as driver:
        while True:
            began = time.monotonic()
            page = await fan_out_page(driver, is_begun)
            has_more = has_more or page.begun > 0
            # The rest of a begun event is due again, and so are events that a long call did not
            # reach. Events that were queued meanwhile wake the job.
            is_all = page.events < NEW_EVENTS and time.monotonic() - began < LONG_SECONDS
            if not page.events or (is_all and not is_begun):
                return has_more


class Page(NamedTuple):
    """What became of a page."""

    events: int
    begun: int
    """Events that have more recipients than were their part."""


async def fan_out_page(driver: Driver, is_begun: bool) -> Page:
    """Fan out a page of what is due.

    If that fails, each event is tried by itself, and put aside if that fails too.
    """
    limit = BEGUN_EVENTS if is_begun else NEW_EVENTS
    try:
        return await deliver(driver, "annex.due_fanouts($1, $2)", is_begun, limit)
    except (asyncpg.PostgresError, TimeoutError) as error:
        if is_lost(error):
            raise
    begun = 0
    events = await driver.fetchval("select annex.due_fanouts($1, $2)", is_begun, limit) or []
    for event in events:
        try:
            begun += (await deliver(driver, "array[$1::uuid]", event)).begun
        except (asyncpg.PostgresError, TimeoutError) as error:
            if is_lost(error):
                raise
            await put_aside(driver, event, reason_of(error))
    return Page(len(events), begun)


async def deliver(driver: Driver, events: str, *arguments: object) -> Page:
    """Fan out a page of the events that an expression names.

    Those that name a user whose inbox stays in use are put aside, and wait for nobody else.
    """
    served, begun, held = await driver.fetchrow(
        f"select * from annex.deliver({events}, ${len(arguments) + 1})",
        *arguments,
        PAGE,
        timeout=PAGE_SECONDS,
    )
    for event in held:
        await put_aside(driver, event, "inbox in use")
    return Page(served + len(held), begun)


async def put_aside(driver: Driver, event: UUID, reason: str) -> None:
    """Store why an event's fan-out failed, and log it."""
    row = await driver.fetchrow("select * from annex.put_fanout_aside($1, $2)", event, reason)
    if row is None:
        return
    tell = log.error if row["is_given_up"] else log.warning
    tell(
        "a fan-out was given up" if row["is_given_up"] else "a fan-out failed and is tried again",
        event_id=str(event),
        attempts=row["attempts"],
        reason=reason,
    )


async def wake(database: Database) -> None:
    """Bring back the notifications that were snoozed until now; logs those that cannot be."""
    async with database.worker.lend() as driver:
        woken = True
        while woken:
            row = await driver.fetchrow("select * from annex.wake_notifications($1)", PAGE)
            woken = row["woken"]
            if row["put_off"]:
                log.error(
                    "snoozed notifications could not come back and are tried again",
                    notification_ids=[*map(str, row["put_off"])],
                )
