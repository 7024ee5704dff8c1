"""Stream tickets: a credential in the URL, as a browser's EventSource cannot send headers."""

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import jwt
import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.errors import InvalidTicket
from app.principals import Principal
from app.schemas.stream import StreamTicket

CONNECT_SECONDS = 60
MAX_SECONDS = 3600
"""For credentials that do not expire by themselves; the client makes a new ticket then."""


def derive_key(secret: str, purpose: str) -> bytes:
    """Derive 32 bytes for one purpose from the secret in the settings (HKDF, RFC 5869)."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"annex " + purpose.encode())
    return hkdf.derive(secret.encode())


class Tickets:
    """Signs and reads tickets; nothing is stored, so any process takes them."""

    def __init__(self, secret: str) -> None:
        self.key = derive_key(secret, "ticket")

    def issue(self, principal: Principal, path: str) -> StreamTicket:
        """Issue a ticket for one path, good until the principal expires, or for an hour."""
        now = time.time()
        expires_at = principal.expires_at or now + MAX_SECONDS
        payload: dict[str, Any] = {
            "exp": int(expires_at),
            "connect_by": int(now + CONNECT_SECONDS),
            "path": path,
            "principal": msgspec.to_builtins(principal),
        }
        ticket = jwt.encode(payload, self.key, "HS256")
        return StreamTicket(
            ticket=ticket,
            url=f"{path}?{urlencode({'ticket': ticket})}",
            connect_by=datetime.fromtimestamp(payload["connect_by"], UTC),
            expires_at=datetime.fromtimestamp(payload["exp"], UTC),
        )

    def read(self, ticket: str, path: str, *, is_reconnect: bool) -> Principal:
        """Read a ticket presented at a path; raises `InvalidTicket`.

        After its first minute it serves reconnects only: those that show a cursor, which nobody has
        who did not read from a stream or a list before.
        """
        try:
            payload = jwt.decode(ticket, self.key, ["HS256"], options={"require": ["exp"]})
        except jwt.ExpiredSignatureError:
            raise InvalidTicket("The ticket has expired; make a new one.") from None
        except jwt.InvalidTokenError:
            raise InvalidTicket("The ticket is not one of ours; make a new one.") from None
        if payload["path"] != path:
            raise InvalidTicket("The ticket is for another stream; make one for this path.")
        if not is_reconnect and payload["connect_by"] < time.time():
            raise InvalidTicket("The ticket was not used within 60 seconds; make a new one.")
        return msgspec.convert(payload["principal"], Principal)
