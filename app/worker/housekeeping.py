"""Keeps the database in order: next months' partitions, answers that nobody will replay."""

import asyncio

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import Database
from app.logs import configure_logging
from app.settings import Settings

log = structlog.get_logger()

EVERY_SECONDS = 3600
BATCH = 10_000


async def keep_house(engine: AsyncEngine) -> None:
    """Do it now and every hour; failures are logged and tried again.

    Several may run: both steps repeat safely.
    """
    while True:
        try:
            await tidy(engine)
        except Exception as error:
            log.warning("housekeeping failed and will be tried again", exc_info=error)
        await asyncio.sleep(EVERY_SECONDS)


async def tidy(engine: AsyncEngine) -> None:
    """Make the partitions of the next months and delete expired answers, in batches."""
    async with engine.connect() as connection:
        made = await connection.scalar(select(func.annex.roll_partitions()))
        gone = 0
        while batch := await connection.scalar(select(func.annex.purge_idempotency_keys(BATCH))):
            gone += batch
    log.info("housekeeping", partitions_made=made, answers_deleted=gone)


async def work(settings: Settings) -> None:
    """Run by itself, on a database of its own connections, until cancelled."""
    configure_logging(settings)
    async with Database(settings) as database:
        await keep_house(database.worker)
