"""Whether the work beside requests gets done: worker, readers, log, mails, retention."""

from datetime import UTC, datetime
from typing import Any

from app.database.pools import WORKER_NAME
from app.doctor import Check, Finding, Site, advice, error, warning

LATE_SECONDS = 60.0
STALE_SECONDS = 300.0
"""A reader that is behind and has not moved for so long stands still."""
HOUSE_HOURS = 3
"""Housekeeping runs every hour; what it has not done after these is not being done."""
RETENTION_DAYS = 2
"""Expiry goes by the day; events that are older than the limit by so many should be gone."""
WORKERS = """
select count(*) from pg_stat_activity
where datname = current_database() and usename = 'annex_worker' and application_name = $1
"""
READERS = """
select r.name, r.pos, r.updated_at from annex.readers r
where r.updated_at < now() - make_interval(secs => $1) and r.pos < $2
order by r.pos
"""
START = "Start `annex worker`, and see what its log says."


async def health(site: Site) -> Any:
    """Ask since when work has waited."""
    return await site.worker.fetchrow("select * from annex.health()")


def seconds_since(moment: datetime | None) -> float:
    """Return the age of a moment; 0 for none."""
    return 0.0 if moment is None else (datetime.now(UTC) - moment).total_seconds()


def ago(seconds: float) -> str:
    """Write an age for people."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


async def find_worker(site: Site) -> Finding | None:
    """At least one worker must run; `annex dev` has its own, which looks like its server.

    Behind a transaction pooler nobody can tell whose a connection is; what waits tells it there.
    """
    if site.settings.transaction_pooler or await site.worker.fetchval(WORKERS, WORKER_NAME):
        return None
    if site.settings.is_development:
        return advice(
            "No `annex worker` of its own is connected.",
            "`annex dev` has one within. Beside `annex serve`, start one.",
        )
    return error(
        "No `annex worker` is connected: nobody is notified, no mail is sent, nothing expires.",
        "Start `annex worker` beside `annex serve`, with the same settings, and keep it running.",
    )


async def find_housekeeping(site: Site) -> Finding | None:
    """What expired more than a few hours ago should have been deleted."""
    found = await health(site)
    late = seconds_since(found["answer_expired_since"])
    if late >= HOUSE_HOURS * 3600:
        return warning(
            f"Answers that expired {ago(late)} ago are still stored: housekeeping does not run.",
            START,
        )
    late = seconds_since(found["erasure_since"])
    if late >= HOUSE_HOURS * 3600:
        return warning(
            f"Of a user who was erased {ago(late)} ago, the log still holds ids: housekeeping does "
            "not run.",
            START,
        )
    return None


async def find_reader(site: Site) -> Finding | None:
    """A reader that is behind must move."""
    head = (await health(site))["head"]
    for row in await site.worker.fetch(READERS, STALE_SECONDS, head):
        return error(
            f"The reader {row['name']} is at {row['pos']} of {head} and has not moved for "
            f"{ago(seconds_since(row['updated_at']))}.",
            f"{START} If the reader is gone for good, run this as the role that migrated; "
            "retention waits for it for a week otherwise:",
            f"delete from annex.readers where name = '{row['name']}'",
        )
    return None


async def find_pending(site: Site) -> Finding | None:
    """Committed events get a position within seconds, from any process that runs."""
    late = seconds_since((await health(site))["pending_since"])
    if late < LATE_SECONDS:
        return None
    return error(
        f"An event has waited {ago(late)} for its position in the log: nobody sees it.",
        "Start `annex serve` or `annex worker`; each of them sequences the log. If one runs, a "
        "long transaction may hold the lock: look into pg_stat_activity.",
    )


async def find_mails(site: Site) -> Finding | None:
    """Mails are sent within seconds, if there is an SMTP server."""
    late = seconds_since((await health(site))["mail_due_since"])
    if late < LATE_SECONDS:
        return None
    if site.settings.smtp_url is None:
        cure = "Set ANNEX_SMTP_URL, ANNEX_MAIL_FROM and ANNEX_APP_URL for `annex worker`."
    else:
        cure = START
    return warning(f"A mail has been due for {ago(late)} and no worker takes it.", cure)


async def find_fanouts(site: Site) -> Finding | None:
    """Events reach inboxes within moments, and all of them do."""
    [row] = await site.worker.fetch("select * from annex.fanout_health()")
    late = seconds_since(row["due_since"])
    if late >= LATE_SECONDS:
        return error(f"An event has waited {ago(late)} for its notifications.", START)
    if row["given_up"]:
        return warning(
            f"The fan-out of {row['given_up']} event(s) was given up: not everybody was notified.",
            "`select event_id, error from annex.fanouts where failed_at is not null` says why. "
            "When the cause is gone, run this as the role that migrated, and each begins again:",
            "update annex.fanouts set attempts = 0, failed_at = null, due_at = now()"
            " where failed_at is not null",
        )
    return None


async def find_retention(site: Site) -> Finding | None:
    """Events older than the installation's limit should be gone."""
    days = site.settings.event_retention_days
    age = seconds_since((await health(site))["oldest_event_at"]) / 86400
    if days is None or age < days + RETENTION_DAYS:
        return None
    return warning(
        f"The log begins {age:.0f} days ago, and ANNEX_EVENT_RETENTION_DAYS is {days}: events do "
        "not expire.",
        "Give `annex worker` the same ANNEX_EVENT_RETENTION_DAYS. If it has, look for a reader "
        "that stands still (`select * from annex.readers`), for which retention waits a week.",
    )


async def find_old_notifications(site: Site) -> Finding | None:
    """Notifications older than the installation's limit should be gone."""
    days = site.settings.notification_retention_days
    age = seconds_since((await health(site))["oldest_notification_at"]) / 86400
    if age < days + RETENTION_DAYS:
        return None
    return warning(
        f"Notifications of {age:.0f} days ago are still stored, and "
        f"ANNEX_NOTIFICATION_RETENTION_DAYS is {days}: housekeeping does not delete them.",
        "Give `annex worker` the same ANNEX_NOTIFICATION_RETENTION_DAYS; its log says what fails.",
    )


CHECKS = (
    Check("worker", find_worker, ("migrations",)),
    Check("housekeeping", find_housekeeping, ("migrations",)),
    Check("readers", find_reader, ("migrations",)),
    Check("sequencer", find_pending, ("migrations",)),
    Check("fan-out", find_fanouts, ("migrations",)),
    Check("mails", find_mails, ("migrations",)),
    Check("retention", find_retention, ("migrations",)),
    Check("notifications", find_old_notifications, ("migrations",)),
)
