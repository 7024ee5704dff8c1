"""Stream tickets: a credential in the URL or a cookie, as an EventSource cannot send headers."""

import base64
import binascii
import os
import time
from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.errors import InvalidTicket
from app.principals import Principal
from app.schemas.stream import StreamTicket

COOKIE = "annex_ticket"
CONNECT_SECONDS = 60
MAX_SECONDS = 3600
"""For all but users, whose tokens Supabase limits; the client makes a new ticket then."""
NONCE_BYTES = 12


def derive_key(secret: str, purpose: str) -> bytes:
    """Derive 32 bytes for one purpose from the secret in the settings (HKDF, RFC 5869)."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"annex " + purpose.encode())
    return hkdf.derive(secret.encode())


class Ticket(msgspec.Struct, frozen=True):
    """What a ticket says, to us alone."""

    exp: int
    connect_by: int
    path: str
    principal: Principal
    epoch: int
    pos: int
    """Where the log stood when it was issued."""


class Tickets:
    """Encrypts and reads tickets; nothing is stored, so any process takes them.

    AES-GCM (NIST SP 800-38D) with a random nonce: a ticket is opaque and cannot be made by others.
    """

    def __init__(self, secret: str) -> None:
        self.cipher = AESGCM(derive_key(secret, "ticket"))

    def issue(self, principal: Principal, path: str, epoch: int = 0, pos: int = 0) -> StreamTicket:
        """Issue a ticket for one path; a user's is good until their token expires.

        Another principal's is good for an hour at most: a key may last for years, and a ticket
        stands in a URL. `epoch` and `pos` are where the log stands now.
        """
        now = time.time()
        expires_at = now + MAX_SECONDS
        if principal.expires_at is not None:
            is_user = principal.kind == "user"
            expires_at = principal.expires_at if is_user else min(expires_at, principal.expires_at)
        said = Ticket(int(expires_at), int(now + CONNECT_SECONDS), path, principal, epoch, pos)
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self.cipher.encrypt(nonce, msgspec.json.encode(said), None)
        ticket = base64.urlsafe_b64encode(sealed).decode().rstrip("=")
        return StreamTicket(
            ticket=ticket,
            url=f"{path}?{urlencode({'ticket': ticket})}",
            connect_by=datetime.fromtimestamp(said.connect_by, UTC),
            expires_at=datetime.fromtimestamp(said.exp, UTC),
        )

    def read(self, ticket: str, path: str, *, is_reconnect: bool) -> Ticket:
        """Read a ticket presented at a path; raises `InvalidTicket`.

        After its first minute it serves reconnects only: those that show a cursor that its own
        stream can have given.
        """
        try:
            sealed = base64.b64decode(ticket + "=" * (-len(ticket) % 4), b"-_", validate=True)
            nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
            said = msgspec.json.decode(self.cipher.decrypt(nonce, content, None), type=Ticket)
        except (binascii.Error, ValueError, InvalidTag, msgspec.MsgspecError):
            raise InvalidTicket("The ticket is not one of ours; make a new one.") from None
        if said.exp <= time.time():
            raise InvalidTicket("The ticket has expired; make a new one.")
        if said.path != path:
            raise InvalidTicket("The ticket is for another stream; make one for this path.")
        if not is_reconnect and said.connect_by < time.time():
            raise InvalidTicket(
                "The ticket was not used within 60 seconds, nor with a cursor of its own stream; "
                "make a new one."
            )
        return said
