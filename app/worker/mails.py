"""The worker's job that empties the outbox, over SMTP.

Delivery is at least once. A mail is leased, gets a token whose hash is stored, and is then sent; a
worker that dies in between leaves a lease that ends, and the mail is sent again with a new token.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
import msgspec
import structlog

from app.database.pools import Database
from app.logs import redact
from app.services.invitations import accept_url, hash_of, new_token
from app.setting_values import SMTP_SCHEMES
from app.settings import Settings
from app.worker.letters import Facts, Letters, write
from app.worker.runner import Job, finished

log = structlog.get_logger()

EVERY_SECONDS = 2.0
AT_ONCE = 5
"""Mails that are sent at the same time, each over a connection of its own."""
COMMAND_SECONDS = 20.0
SEND_SECONDS = 60.0
"""How long one mail may take in all; a lease is longer, so that no other worker sends it too."""
LEASE_SECONDS = 300
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 30, 3600
MAX_ATTEMPTS = 20
"""After these, over most of a day, a mail is given up; its invitation stays open."""
CLOSED = "The invitation is closed."


class Mail(msgspec.Struct, frozen=True):
    """A leased mail: a row of annex.lease_mails."""

    id: UUID
    lease_id: UUID
    recipient: str
    attempts: int
    workspace_name: str
    invited_by_name: str
    role_name: str | None
    locale: str | None
    expires_at: datetime


class Leased(Protocol):
    """A mail of any kind that is leased."""

    @property
    def id(self) -> UUID: ...

    @property
    def lease_id(self) -> UUID: ...

    @property
    def attempts(self) -> int: ...


LeasedT = TypeVar("LeasedT", bound=Leased)


class Refusal(Exception):
    """The SMTP server does not take the mail; the text says why, without secrets."""

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        # A filter quotes what it does not like: the mail's link, whose token may still be good.
        self.reason = redact(reason)
        self.is_final = is_final


def mailing(settings: Settings, seconds: float = EVERY_SECONDS) -> list[Job]:
    """Make the job of invitations, if there is an SMTP server; several processes may run it.

    Raises `SettingsError` for a template that cannot be used.
    """
    if settings.smtp_url is None:
        return []
    letters = Letters.read(settings.mail_templates)
    return [Job("mails", seconds, partial(send_due, settings, letters))]


async def send_due(settings: Settings, letters: Letters, database: Database) -> None:
    """Send the invitations' mails that are due."""
    await empty(
        settings, database, partial(lease, settings), partial(prepare, settings, letters, database)
    )


async def empty(
    settings: Settings,
    database: Database,
    lease: Callable[[Database], Awaitable[Sequence[LeasedT]]],
    prepare: Callable[[LeasedT], Awaitable[EmailMessage | None]],
) -> None:
    """Send what is due of one kind, batch after batch; a batch that was begun is sent to its end.

    `lease` leases a batch; `prepare` writes a mail, or returns None for one that is not sent.
    """
    while await finished(send_batch(settings, database, lease, prepare)):
        pass


async def send_batch(
    settings: Settings,
    database: Database,
    lease: Callable[[Database], Awaitable[Sequence[LeasedT]]],
    prepare: Callable[[LeasedT], Awaitable[EmailMessage | None]],
) -> int:
    """Send a batch at once; a failure stops no other mail. Returns how many mails were due."""
    batch = await lease(database)
    ends = await asyncio.gather(
        *(hand_over(settings, database, mail, prepare(mail)) for mail in batch),
        return_exceptions=True,
    )
    for mail, error in zip(batch, ends, strict=True):
        if error is not None:
            # It is tried again when its lease has ended.
            log.error("a mail could not be finished", mail=str(mail.id), exc_info=error)
    return len(batch)


async def lease(settings: Settings, database: Database) -> list[Mail]:
    """Lease a batch; none while another worker takes its own."""
    statement = "select * from annex.lease_mails($1, $2, $3)"
    async with database.worker.lend() as driver:
        rows = await driver.fetch(statement, AT_ONCE, LEASE_SECONDS, settings.max_mails_per_address)
    return [Mail(*row) for row in rows]


async def prepare(
    settings: Settings, letters: Letters, database: Database, mail: Mail
) -> EmailMessage | None:
    """Store a new token's hash and write a mail; one whose invitation is over is finished."""
    token = new_token()
    minted = "select annex.mint_invitation($1, $2, $3)"
    async with database.worker.lend() as driver:
        is_open = await driver.fetchval(minted, mail.id, mail.lease_id, hash_of(token))
    if not is_open:
        await finish(database, mail, CLOSED, None)
        return None
    with writing(mail):
        return compose(settings, letters, mail, token)


async def hand_over(
    settings: Settings, database: Database, mail: Leased, prepared: Awaitable[EmailMessage | None]
) -> None:
    """Send a leased mail once it is prepared, and record its outcome, whatever goes wrong.

    A mail that is prepared as None is not sent.
    """
    try:
        message = await prepared
        if message is None:
            return
        await send(settings, message, message["To"].addresses[0].addr_spec)
    except Exception as raised:
        refusal = raised if isinstance(raised, Refusal) else unexpected(mail, raised)
        is_final = refusal.is_final or mail.attempts >= MAX_ATTEMPTS
        retry = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(mail.attempts - 1, 10))
        log.warning(
            "a mail was not sent",
            mail=str(mail.id),
            attempts=mail.attempts,
            reason=refusal.reason,
            again_in_seconds=None if is_final else retry,
        )
        await finish(database, mail, refusal.reason, None if is_final else retry)
    else:
        await finish(database, mail, None, None)


@contextlib.contextmanager
def writing(mail: Leased) -> Iterator[None]:
    """Raise a final `Refusal` for an error in here: the next try would write the same mail."""
    try:
        yield
    except Exception as error:
        raise Refusal(unexpected(mail, error).reason, is_final=True) from error


def unexpected(mail: Leased, error: Exception) -> Refusal:
    """Log an error that nobody planned; returns it as a refusal that may pass."""
    log.error("a mail met an unexpected error", mail=str(mail.id), exc_info=error)
    return Refusal(type(error).__name__, is_final=False)


async def finish(database: Database, mail: Leased, error: str | None, retry: int | None) -> None:
    """Record a mail's outcome; changes nothing if the lease was lost."""
    statement = "select annex.finish_mail($1, $2, $3, $4)"
    async with database.worker.lend() as driver:
        await driver.fetchval(statement, mail.id, mail.lease_id, error, retry)


def compose(settings: Settings, letters: Letters, mail: Mail, token: str) -> EmailMessage:
    """Write the mail; each attempt has the same Message-ID, so that a server may know it again."""
    assert settings.mail_from is not None
    url = accept_url(settings, token)
    assert url is not None
    facts = Facts(
        workspace=mail.workspace_name,
        inviter=mail.invited_by_name,
        role=mail.role_name or "",
        url=url,
        expires=f"{mail.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
    )
    message = write(letters.of(mail.locale), facts, settings.mail_from, mail.recipient)
    return identified(message, mail.id)


def identified(message: EmailMessage, mail_id: UUID) -> EmailMessage:
    """Add the date and the mail's own Message-ID, which is the same at each attempt."""
    message["Date"] = format_datetime(datetime.now(UTC))
    host = message["From"].addresses[0].domain
    message["Message-ID"] = f"<{mail_id}@{host}>"
    return message


def smtp_client(settings: Settings, timeout_seconds: float = COMMAND_SECONDS) -> aiosmtplib.SMTP:
    """Make a client of the settings' SMTP server; connects to nothing yet."""
    assert settings.smtp_url is not None
    server = urlsplit(settings.smtp_url)
    options: dict[str, Any] = {
        "hostname": server.hostname,
        "port": server.port or SMTP_SCHEMES[server.scheme],
        "username": unquote(server.username) if server.username else None,
        "password": unquote(server.password) if server.password else None,
        "use_tls": server.scheme == "smtps",
        # None: if the server offers it.
        "start_tls": {"smtps": False, "smtp+starttls": True}.get(server.scheme),
        # Asking DNS for the full name would block everything else.
        "local_hostname": socket.gethostname(),
        "timeout": timeout_seconds,
    }
    return aiosmtplib.SMTP(**options)


async def send(settings: Settings, message: EmailMessage, recipient: str) -> None:
    """Hand one mail to the SMTP server (RFC 5321); raises `Refusal`.

    A refusal is final if the server rejects this mail or its recipient for good; others may pass.
    """
    assert settings.mail_from is not None
    client = smtp_client(settings)
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await client.connect()
            await client.send_message(
                message, sender=parseaddr(settings.mail_from)[1], recipients=[recipient]
            )
    except aiosmtplib.SMTPRecipientsRefused as error:
        first = error.recipients[0]
        reason = f"{first.code} {first.message}"
        raise Refusal(reason, is_final=first.code >= 500) from None
    except aiosmtplib.SMTPDataError as error:
        raise Refusal(f"{error.code} {error.message}", is_final=error.code >= 500) from None
    except aiosmtplib.SMTPResponseException as error:
        # Of the greeting, the login or the sender: of every mail, and for the operator to mend.
        raise Refusal(f"{error.code} {error.message}", is_final=False) from None
    except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
        raise Refusal(type(error).__name__, is_final=False) from None
    finally:
        # Without QUIT: the server has answered DATA, or has had its time.
        client.close()
