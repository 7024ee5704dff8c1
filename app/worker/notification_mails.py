"""The worker's job that mails unread notifications: queued after a while, checked when sent.

An item is mailed once at most, however many events it stands for. annex.mail_refusal decides
whether it is mailed at all, when it is queued and again just before it is sent.
"""

from email.message import EmailMessage
from functools import partial
from typing import Self
from urllib.parse import urljoin
from uuid import UUID

import msgspec
import structlog

from app.database.pools import Database
from app.services.invitations import hash_of, new_token
from app.services.unsubscriptions import PREFIX, unsubscribe_url
from app.settings import Settings
from app.worker.letters import ItemFacts, Letters, write
from app.worker.mails import (
    AT_ONCE,
    EVERY_SECONDS,
    LEASE_SECONDS,
    identified,
    send_batch,
    writing,
)
from app.worker.runner import Job, finished

log = structlog.get_logger()

LOOKED_AT_ONCE = 500
"""Items that one transaction looks at."""
BATCHES = 20
"""Batches of mails that are sent before new items are looked at again."""
STEP_SECONDS = 60.0


class Leased(msgspec.Struct, frozen=True):
    """A row of annex.lease_notification_mails."""

    id: UUID
    lease_id: UUID
    attempts: int


class Content(msgspec.Struct, frozen=True):
    """What a mail says: a row of annex.prepare_notification_mail."""

    recipient: str
    workspace_name: str
    title: str
    body: str
    url: str | None
    group_count: int
    locale: str | None
    is_critical: bool


class Templates(msgspec.Struct, frozen=True):
    """The templates of notifications, and of critical ones, whose mails nobody can end."""

    usual: Letters
    critical: Letters

    @classmethod
    def read(cls, overrides: str | None = None) -> Self:
        """Read the templates; raises `SettingsError` for one that cannot be used."""
        return cls(Letters.read(overrides, "notification"), Letters.read(overrides, "critical"))


def notifying(settings: Settings, seconds: float = EVERY_SECONDS) -> list[Job]:
    """Make the job, if there is an SMTP server and a URL that mails can lead to.

    Raises `SettingsError` for a template that cannot be used.
    """
    if settings.smtp_url is None or settings.public_url is None:
        return []
    templates = Templates.read(settings.mail_templates)
    return [Job("notification mails", seconds, partial(send_due, settings, templates))]


async def send_due(settings: Settings, templates: Templates, database: Database) -> None:
    """Send the notifications' mails that are due and queue more, by turns, until none are left.

    A new mail does not wait for a tenant's backlog, and a queued one not for items that fail.
    """
    is_last = False
    while not (await send_some(settings, templates, database) and is_last):
        is_last = await queue(settings, database)


async def send_some(settings: Settings, templates: Templates, database: Database) -> bool:
    """Send up to 100 mails that are due; returns whether no more are."""
    prepared = partial(prepare, settings, templates, database)
    for _ in range(BATCHES):
        if not await finished(send_batch(settings, database, lease, prepared)):
            return True
    return False


async def queue(settings: Settings, database: Database) -> bool:
    """Queue the mails of a batch of items that are old enough; returns whether it was the last.

    An item that fails stops no other: it is put aside, tried again later, and given up after a day.
    """
    statement = "select * from annex.queue_notification_mails($1, $2, $3)"
    delay, most = settings.notification_mail_seconds, settings.max_notification_mails_per_workspace
    async with database.worker.lend() as driver:
        _, is_last, put_aside, given_up, errors = await driver.fetchrow(
            statement, delay, most, LOOKED_AT_ONCE, timeout=STEP_SECONDS
        )
    if put_aside:
        log.error(
            "notifications could not be queued for mail and are tried again",
            notification_ids=[*map(str, put_aside)],
            errors=errors,
        )
    if given_up:
        log.error("notifications are not mailed", notification_ids=[*map(str, given_up)])
    return bool(is_last)


async def lease(database: Database) -> list[Leased]:
    """Lease a batch; none while another worker takes its own."""
    statement = "select * from annex.lease_notification_mails($1, $2)"
    async with database.worker.lend() as driver:
        return [Leased(*row) for row in await driver.fetch(statement, AT_ONCE, LEASE_SECONDS)]


async def prepare(
    settings: Settings, templates: Templates, database: Database, mail: Leased
) -> EmailMessage | None:
    """Check again, store the new token's hash and write; None if the mail is skipped or waits."""
    token = new_token(PREFIX)
    statement = "select * from annex.prepare_notification_mail($1, $2, $3, $4)"
    async with database.worker.lend() as driver:
        row = await driver.fetchrow(
            statement, mail.id, mail.lease_id, hash_of(token), settings.max_mails_per_address
        )
    if row is None:
        return None
    with writing(mail):
        content = Content(*row)
        assert settings.mail_from is not None
        unsubscribe = None if content.is_critical else unsubscribe_url(settings, token)
        facts = ItemFacts(
            workspace=content.workspace_name,
            title=content.title,
            body=content.body,
            count=content.group_count,
            url=page_of(settings, content.url),
            unsubscribe=unsubscribe,
        )
        letters = templates.critical if content.is_critical else templates.usual
        message = write(
            letters.of(content.locale), facts, settings.mail_from, content.recipient, unsubscribe
        )
        return identified(message, mail.id)


def page_of(settings: Settings, url: str | None) -> str:
    """Return where a mail leads: a path of the application, never a host that an event named."""
    assert settings.app_url is not None
    is_path = url is not None and url.startswith("/") and url[1:2] not in ("/", "\\")
    return urljoin(settings.app_url, url if is_path else "/")
