"""The worker's job that mails what was not read: queued after a while, asked again when sent.

An item is mailed once at most, however many events it stands for. Whether it is mailed at all is
decided by annex.mail_refusal, when it is queued and again just before it is sent.
"""

from email.message import EmailMessage
from functools import partial
from typing import Self
from urllib.parse import urljoin
from uuid import UUID

import msgspec

from app.database.pools import Database
from app.services.invitations import hash_of, new_token
from app.services.unsubscriptions import PREFIX, unsubscribe_url
from app.settings import Settings
from app.worker.letters import Letters, News, write
from app.worker.mails import (
    AT_ONCE,
    EVERY_SECONDS,
    LEASE_SECONDS,
    deliver_all,
    hand_over,
    identified,
    writing,
)
from app.worker.runner import Job, finished

LOOKED_AT_ONCE = 500
"""Items that one transaction looks at."""
STEP_SECONDS = 60.0


class Mail(msgspec.Struct, frozen=True):
    """A leased mail: a row of annex.lease_notification_mails."""

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


class Stationery(msgspec.Struct, frozen=True):
    """The templates of notifications, and of those that nobody can end."""

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
    stationery = Stationery.read(settings.mail_templates)
    return [Job("notification mails", seconds, partial(send_due, settings, stationery))]


async def send_due(settings: Settings, stationery: Stationery, database: Database) -> None:
    """Queue and send what is due, batch after batch; one mail's failure is no other's."""
    while await queue(settings, database) == LOOKED_AT_ONCE:
        pass
    while await finished(send_batch(settings, stationery, database)):
        pass


async def send_batch(settings: Settings, stationery: Stationery, database: Database) -> int:
    """Send a batch; returns how many mails were due."""
    batch = await lease(database)
    return await deliver_all(batch, partial(deliver, settings, stationery, database))


async def queue(settings: Settings, database: Database) -> int:
    """Queue the mails of items that are old enough; returns how many items were looked at."""
    statement = "select annex.queue_notification_mails($1, $2, $3)"
    delay, most = settings.notification_mail_seconds, settings.max_notification_mails_per_workspace
    async with database.worker.lend() as driver:
        looked: int = await driver.fetchval(
            statement, delay, most, LOOKED_AT_ONCE, timeout=STEP_SECONDS
        )
        return looked


async def lease(database: Database) -> list[Mail]:
    """Lease a batch; none while another worker takes its own."""
    statement = "select * from annex.lease_notification_mails($1, $2)"
    async with database.worker.lend() as driver:
        return [Mail(*row) for row in await driver.fetch(statement, AT_ONCE, LEASE_SECONDS)]


async def deliver(
    settings: Settings, stationery: Stationery, database: Database, mail: Mail
) -> None:
    """Ask again, store the new token's hash, send, and say how it fared."""
    await hand_over(settings, database, mail, prepare(settings, stationery, database, mail))


async def prepare(
    settings: Settings, stationery: Stationery, database: Database, mail: Mail
) -> EmailMessage | None:
    """Write a mail; one that is skipped or waits is let go."""
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
        news = News(
            workspace=content.workspace_name,
            title=content.title,
            body=content.body,
            count=content.group_count,
            url=page_of(settings, content.url),
            unsubscribe=unsubscribe,
        )
        letters = stationery.critical if content.is_critical else stationery.usual
        message = write(
            letters.of(content.locale), news, settings.mail_from, content.recipient, unsubscribe
        )
        return identified(message, mail.id)


def page_of(settings: Settings, url: str | None) -> str:
    """Return where a mail leads: a path of the application, never a host that an event named."""
    assert settings.app_url is not None
    is_path = url is not None and url.startswith("/") and url[1:2] not in ("/", "\\")
    return urljoin(settings.app_url, url if is_path else "/")
