"""Keeps the database in order: partitions, expired events, answers that nobody will replay."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.engines import Database
from app.logs import configure_logging
from app.settings import Settings

log = structlog.get_logger()

EVERY_SECONDS = 3600
ANSWERS = 10_000
EVENTS = 1000
"""Rows that one transaction deletes: tens of milliseconds, so that nothing waits for it."""


async def keep_house(engine: AsyncEngine, retention_days: int | None = None) -> None:
    """Do it now and every hour; failures are logged and tried again.

    Several may run: every step repeats safely, and events are expired by one at a time.
    """
    while True:
        await tidy(engine, retention_days)
        await asyncio.sleep(EVERY_SECONDS)


async def tidy(engine: AsyncEngine, retention_days: int | None = None) -> None:
    """Take every step once; one that fails does not keep the others from their turn."""

    async def expire(connection: AsyncConnection) -> int:
        return await expire_events(connection, retention_days)

    steps: dict[str, Callable[[AsyncConnection], Awaitable[int]]] = {
        "partitions_made": roll_partitions,
        "events_expired": expire,
        "partitions_dropped": drop_partitions,
        "answers_deleted": purge_answers,
    }
    done = dict[str, int]()
    for name, step in steps.items():
        try:
            async with engine.connect() as connection:
                done[name] = await step(connection)
        except Exception as error:
            log.warning("housekeeping failed and will be tried again", step=name, exc_info=error)
    log.info("housekeeping", **done)


async def roll_partitions(connection: AsyncConnection) -> int:
    """Make the partitions of the next months; returns how many."""
    return await connection.scalar(select(func.annex.roll_partitions())) or 0


async def drop_partitions(connection: AsyncConnection) -> int:
    """Drop the partitions of past months that are empty; returns how many."""
    return await connection.scalar(select(func.annex.drop_partitions())) or 0


async def purge_answers(connection: AsyncConnection) -> int:
    """Delete expired answers, in batches; returns how many."""
    gone = 0
    while batch := await connection.scalar(select(func.annex.purge_idempotency_keys(ANSWERS))):
        gone += batch
    return gone


async def expire_events(connection: AsyncConnection, retention_days: int | None) -> int:
    """Delete the events of all workspaces that have expired, in batches; returns how many.

    `retention_days` is the installation's limit. Another process that is at it is left to it.
    """
    after: UUID | None = None
    gone: int = 0
    while True:
        batch = func.annex.expire_events(after, retention_days, EVENTS).table_valued(
            "workspace_id", "is_last", "expired"
        )
        row = (await connection.execute(select(batch))).one_or_none()
        if row is None:
            return gone
        after = row.workspace_id
        gone += row.expired
        if row.is_last:
            return gone


async def work(settings: Settings) -> None:
    """Run by itself, on a database of its own connections, until cancelled."""
    configure_logging(settings)
    async with Database(settings) as database:
        await keep_house(database.worker, settings.event_retention_days)
