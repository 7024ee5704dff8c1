"""The projector: a reader of the log that turns events into notifications, and the jobs beside it.

Its function fans out the first part of each event in the transaction that moves the cursor. What is
left of a large one is fanned out by a job, page by page and event by event in turn, so that nobody
waits for it. A page and how far it came are one transaction: a kill loses and repeats nothing.
"""

from collections.abc import Sequence

from app.database.pools import Database, Driver
from app.worker.runner import Entry, Job

PAGE = 500
"""Candidates of a page: a transaction of a few hundred milliseconds at most."""
FANOUT_SECONDS = 0.05
WAKE_SECONDS = 1.0


class Projector:
    """Queues the events of each batch for fan-out, and fans out the first part of each."""

    name = "projector"

    async def handle(self, connection: Driver, batch: Sequence[Entry]) -> None:
        """Handle a batch; personal events notify nobody."""
        events = [entry["event_id"] for entry in batch if entry["user_id"] is None]
        if events:
            await connection.execute("select annex.project($1, $2)", events, PAGE)


def projecting() -> list[Job]:
    """Make the jobs; several processes may run them."""
    return [Job("fan-out", FANOUT_SECONDS, fan_out), Job("wake", WAKE_SECONDS, wake)]


async def fan_out(database: Database) -> None:
    """Fan out what is queued, page by page."""
    async with database.worker.lend() as driver:
        while await driver.fetchval("select annex.deliver(null, $1)", PAGE):
            pass


async def wake(database: Database) -> None:
    """Bring back the notifications that were snoozed until now."""
    async with database.worker.lend() as driver:
        while await driver.fetchval("select annex.wake_notifications($1)", PAGE) == PAGE:
            pass
