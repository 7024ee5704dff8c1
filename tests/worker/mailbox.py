"""A real SMTP server on loopback that keeps what it takes, and misbehaves on demand."""

import asyncio
import contextlib
import email
import email.policy
import ssl
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from typing import Any, NamedTuple

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.ports import free_port


class Received(NamedTuple):
    """A mail as it came over the wire."""

    sender: str
    recipients: list[str]
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        """Parse it."""
        parsed = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    @property
    def token(self) -> str:
        """Return the token of the link in the text part."""
        text = self.message.get_body(("plain",))
        assert text is not None
        return str(text.get_content()).partition("#token=")[2].split()[0]


def abort(protocol: SMTP) -> None:
    """Cut a connection."""
    transport: Any = protocol.transport
    if transport is not None:
        transport.abort()


class Mailbox:
    """Takes mails; `refuse` maps a recipient to a reply, `data` answers after the mail came."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.refuse: dict[str, str] = {}
        self.data: Callable[[], str] = lambda: "250 OK"
        self.is_quoting = False
        """Whether a refusal ends with the mail's token."""
        self.begun = 0
        """Mails that have come and may not be answered yet."""
        self.pause = 0.0
        self.drop = False
        self.port = 0
        self.server: asyncio.Server | None = None
        self.protocols: list[SMTP] = []
        self.options: dict[str, Any] = {}
        """More of aiosmtpd's: TLS, logins."""
        self.tls: ssl.SSLContext | None = None
        """TLS from the start."""

    async def handle_RCPT(
        self, _: SMTP, __: Session, envelope: Envelope, address: str, ___: list[str]
    ) -> str:
        if reply := self.refuse.get(address):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _: Session, envelope: Envelope) -> str:
        self.begun += 1
        await asyncio.sleep(self.pause)
        reply = self.data()
        assert isinstance(envelope.content, bytes)
        assert envelope.mail_from is not None
        mail = Received(envelope.mail_from, list(envelope.rcpt_tos), envelope.content)
        if reply.startswith("250"):
            self.received.append(mail)
        elif self.is_quoting:
            reply += f" https://app.example.com/join#token={mail.token} or {mail.token}"
        if self.drop:
            # The mail is taken, and the client never hears of it.
            abort(server)
        return reply

    async def start(self) -> None:
        """Listen; on the port of before, if there was one."""
        loop = asyncio.get_running_loop()

        def connect() -> SMTP:
            made = SMTP(self, loop=loop, hostname="mail.test", ident="test", **self.options)
            self.protocols.append(made)
            return made

        self.port = self.port or free_port()
        self.server = await loop.create_server(connect, "127.0.0.1", self.port, ssl=self.tls)

    async def stop(self) -> None:
        """Be down."""
        assert self.server is not None
        self.server.close()
        for protocol in self.protocols:
            abort(protocol)
        self.protocols.clear()
        await self.server.wait_closed()

    def to(self, address: str | None) -> list[Received]:
        """Return the mails to an address."""
        return [r for r in self.received if r.recipients == [address]]


@contextlib.asynccontextmanager
async def mailbox(tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[Mailbox]:
    """Run the server; `options` are aiosmtpd's."""
    made = Mailbox()
    made.tls, made.options = tls, options
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def settings_of(server: Mailbox, **others: Any) -> dict[str, Any]:
    """Return the settings by which the worker finds the server."""
    return {
        "smtp_url": f"smtp://127.0.0.1:{server.port}",
        "mail_from": "Acme Mail <no-reply@acme.example>",
        "app_url": "https://app.example.com/join",
        **others,
    }
