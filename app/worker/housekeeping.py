"""The worker's job that keeps the database in order, and the list of all that it runs."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from app.database.drivers import Driver
from app.database.pools import WORKER_NAME, Database, is_lost
from app.logs import configure_logging, reason_of
from app.settings import Settings
from app.supervision import Supervised
from app.worker.mails import mailing
from app.worker.notification_mails import notifying
from app.worker.projector import Projector
from app.worker.runner import Job, Runner

log = structlog.get_logger()

EVERY_SECONDS = 3600
STATISTICS_SECONDS = 2.0
"""How often tables that have grown are looked for; plans are bad until then."""
GRACE_DAYS = 30
CLOSED_DAYS = 90
NOTIFICATION_DAYS = 365
ANSWERS = MAILS = TOKENS = SUPPRESSIONS = FANOUTS = 10_000
EVENTS = INVITATIONS = NOTIFICATIONS = ERASED = INBOXES = 1000
"""Rows that one transaction deletes, in tens of milliseconds, so that nothing waits for long."""
STEP_SECONDS = 60.0
"""How long one statement may take, the network included."""


def housekeeping(
    retention_days: int | None = None,
    grace_days: int = GRACE_DAYS,
    closed_days: int = CLOSED_DAYS,
    notification_days: int = NOTIFICATION_DAYS,
) -> Job:
    """Make the job; `retention_days` is the installation's limit for events.

    A deleted workspace stays for `grace_days`, an invitation or a key that is over for
    `closed_days`, a notification for `notification_days`. Several processes may run it: every step
    repeats safely, and one at a time expires events.
    """
    steps = partial(
        tidy,
        retention_days=retention_days,
        grace_days=grace_days,
        closed_days=closed_days,
        notification_days=notification_days,
    )
    return Job("housekeeping", EVERY_SECONDS, steps)


async def tidy(
    database: Database,
    retention_days: int | None = None,
    grace_days: int = GRACE_DAYS,
    closed_days: int = CLOSED_DAYS,
    notification_days: int = NOTIFICATION_DAYS,
) -> None:
    """Run every step once; a step that fails does not stop the others."""
    steps: dict[str, Callable[[Driver], Awaitable[int]]] = {
        "partitions_made": roll_partitions,
        "events_expired": partial(expire_events, retention_days=retention_days),
        "erased_rows_deleted": finish_erasures,
        "notifications_expired": partial(expire_notifications, days=notification_days),
        "notifications_trimmed": trim_inboxes,
        "partitions_dropped": drop_partitions,
        "answers_deleted": purge_answers,
        "workspace_rows_deleted": partial(purge_workspaces, grace_days=grace_days),
        "invitations_expired": expire_invitations,
        "closed_rows_deleted": partial(purge_closed, closed_days=closed_days),
        "mails_deleted": purge_mails,
        "tokens_deleted": purge_tokens,
        "suppressions_deleted": purge_suppressions,
        "fanouts_deleted": purge_fanouts,
    }
    done = dict[str, int]()
    for name, step in steps.items():
        try:
            async with database.worker.lend() as driver:
                done[name] = await step(driver)
        except Exception as error:
            log.warning("housekeeping failed and will be tried again", step=name, exc_info=error)
    log.info("housekeeping", **done)


async def roll_partitions(driver: Driver) -> int:
    """Make the partitions of the next months; returns how many."""
    return int(await driver.fetchval("select annex.roll_partitions()", timeout=STEP_SECONDS))


async def drop_partitions(driver: Driver) -> int:
    """Drop the partitions of past months that are empty; returns how many."""
    return int(await driver.fetchval("select annex.drop_partitions()", timeout=STEP_SECONDS))


async def purge_answers(driver: Driver) -> int:
    """Delete expired answers; returns how many."""
    return await repeat(driver, "select annex.purge_idempotency_keys($1)", ANSWERS)


async def expire_invitations(driver: Driver) -> int:
    """Close the invitations whose time is over; returns how many."""
    return await repeat(driver, "select annex.expire_invitations($1)", INVITATIONS)


async def purge_mails(driver: Driver) -> int:
    """Delete mails that ended long ago; returns how many."""
    return await repeat(driver, "select annex.purge_mails($1)", MAILS)


async def purge_tokens(driver: Driver) -> int:
    """Delete old unsubscribe tokens; returns how many."""
    return await repeat(driver, "select annex.purge_unsubscribe_tokens($1)", TOKENS)


async def purge_suppressions(driver: Driver) -> int:
    """Delete old reasons why users were not notified; returns how many."""
    return await repeat(driver, "select annex.purge_suppressions($1)", SUPPRESSIONS)


async def purge_fanouts(driver: Driver) -> int:
    """Delete the fan-outs that were given up long ago; returns how many."""
    return await repeat(driver, "select annex.purge_fanouts($1)", FANOUTS)


async def finish_erasures(driver: Driver) -> int:
    """Delete what is left of users who were erased; returns how many rows went."""
    return await repeat(driver, "select annex.finish_erasures($1)", ERASED)


async def repeat(driver: Driver, statement: str, *arguments: Any) -> int:
    """Run a statement until it deletes nothing; returns how many rows went in all."""
    gone = 0
    while batch := await driver.fetchval(statement, *arguments, timeout=STEP_SECONDS):
        gone += batch
    return gone


async def repeat_after(key: str, driver: Driver, statement: str, *arguments: Any) -> int:
    """Run a statement in batches, each after the `key` of the one before; returns how many expired.

    Ends after a batch that is marked as the last, or that returns no row.
    """
    after: UUID | None = None
    gone: int = 0
    while row := await driver.fetchrow(statement, after, *arguments, timeout=STEP_SECONDS):
        after = row[key]
        gone += row["expired"]
        if row.get("failed"):
            log.error(
                "notifications could not be deleted and are tried again",
                user_ids=[*map(str, row["failed"])],
            )
        if row["is_last"]:
            break
    return gone


async def purge_workspaces(driver: Driver, grace_days: int) -> int:
    """Delete workspaces whose grace period is over; returns how many rows went."""
    return await repeat(driver, "select annex.purge_workspaces($1)", grace_days)


async def purge_closed(driver: Driver, closed_days: int) -> int:
    """Delete the invitations and keys that were over for long; returns how many rows went."""
    return await repeat(driver, "select annex.purge_closed($1)", closed_days)


async def expire_events(driver: Driver, retention_days: int | None) -> int:
    """Delete the events of all workspaces that have expired, in batches; returns how many.

    `retention_days` is the installation's limit. If another process expires events now, this one
    leaves them to it.
    """
    statement = "select * from annex.expire_events($1, $2, $3)"
    return await repeat_after("workspace_id", driver, statement, retention_days, EVENTS)


async def expire_notifications(driver: Driver, days: int) -> int:
    """Delete the notifications that arrived so many days ago, in batches; returns how many."""
    statement = "select * from annex.expire_notifications($1, $2, $3)"
    return await repeat_after("last_id", driver, statement, days, NOTIFICATIONS)


async def trim_inboxes(driver: Driver) -> int:
    """Delete what inboxes hold over their limit, in batches; returns how many notifications.

    An inbox that fails stops no other.
    """
    gone = 0
    full = "select * from annex.full_inboxes($1, $2, $3, $4)"
    trim = "select annex.trim_inbox($1, $2, $3, $4)"
    last: Sequence[Any] = (None, None, None)
    # Goes on after the last inbox, because some fill faster than they are trimmed.
    while found := await driver.fetch(full, *last, INBOXES, timeout=STEP_SECONDS):
        for inbox in found:
            try:
                gone += await repeat(driver, trim, *inbox, NOTIFICATIONS)
            except asyncpg.PostgresError as error:
                if is_lost(error):
                    raise
                log.error(
                    "notifications could not be deleted and are tried again",
                    user_ids=[str(inbox["user_id"])],
                    reason=reason_of(error),
                )
        last = found[-1]
    return gone


async def refresh_statistics(database: Database) -> None:
    """Analyze the tables that have more than doubled, so that every session plans anew."""
    async with database.worker.lend() as driver:
        await driver.fetchval("select annex.refresh_statistics()", timeout=STEP_SECONDS)


async def work(settings: Settings, ready: Callable[[], None] = lambda: None) -> None:
    """Run the worker by itself, on connections of its own, until cancelled.

    `ready` is called before it begins. Raises `SettingsError` for templates that cannot be used.
    """
    configure_logging(settings)
    make = runner(settings)
    async with Database(settings, WORKER_NAME) as database:
        running = make(database)
        ready()
        await running.run()


def tasks_of(settings: Settings) -> Callable[[Database], list[Supervised]]:
    """Return what makes the worker's tasks for a server that runs them.

    Raises `SettingsError` for templates that cannot be used.
    """
    make = runner(settings)
    return lambda database: make(database).tasks


def runner(settings: Settings) -> Callable[[Database], Runner]:
    """Return what makes the runner of `annex worker`.

    Raises `SettingsError` for templates that cannot be used.
    """
    tidying = housekeeping(
        settings.event_retention_days,
        settings.workspace_grace_days,
        settings.closed_days,
        settings.notification_retention_days,
    )
    projector = Projector()
    statistics = Job("statistics", STATISTICS_SECONDS, refresh_statistics)
    jobs = [tidying, statistics, *mailing(settings), *notifying(settings), *projector.jobs()]
    return partial(Runner, readers=[projector], jobs=jobs)
