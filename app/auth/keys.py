"""API keys and operator keys: `annex_sk_` or `annex_op_`, a public prefix, a secret, a checksum."""

import hashlib
import hmac
import secrets
import string
import zlib
from typing import Any, Literal, Self
from uuid import UUID

import msgspec
from sqlalchemy import Select, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Boolean, DateTime, Integer, LargeBinary, Text, Uuid

from app.database.pools import Pool
from app.database.statements import Compiled
from app.errors import AddressNotAllowed, InvalidKey
from app.http.addresses import Address, is_within
from app.principals import Principal

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 32, 6


class Key(msgspec.Struct, frozen=True):
    """A key as its holder sends it; 32 base62 characters of secret are 190 bits."""

    kind: Literal["sk", "op"]
    prefix: str
    secret: str

    @classmethod
    def make(cls, kind: Literal["sk", "op"]) -> Self:
        """Make a new random key."""
        draw = "".join(secrets.choice(ALPHABET) for _ in range(PREFIX_LENGTH + SECRET_LENGTH))
        return cls(kind, draw[:PREFIX_LENGTH], draw[PREFIX_LENGTH:])

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a key; one with a wrong shape or checksum raises `InvalidKey` without a look-up."""
        kind, body = text[6:8], text[9:]
        end = PREFIX_LENGTH + SECRET_LENGTH
        if (
            not text.startswith(("annex_sk_", "annex_op_"))
            or len(body) != end + CHECKSUM_LENGTH
            or checksum(text[:-CHECKSUM_LENGTH]) != body[end:]
        ):
            raise InvalidKey("The key is mistyped or cut off; copy it again.")
        return cls("sk" if kind == "sk" else "op", body[:PREFIX_LENGTH], body[PREFIX_LENGTH:end])

    def __str__(self) -> str:
        text = f"annex_{self.kind}_{self.prefix}{self.secret}"
        return text + checksum(text)

    def __repr__(self) -> str:
        return f"Key(annex_{self.kind}_{self.prefix}…)"

    @property
    def hash(self) -> bytes:
        """SHA-256 of the whole key.

        Enough for 190 random bits, where a slow hash would only slow us.
        """
        return hashlib.sha256(str(self).encode()).digest()


def checksum(text: str) -> str:
    """CRC-32 as six base62 digits: tells a typing error from an unknown key, and helps scanners."""
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        value, digit = divmod(value, 62)
        digits = ALPHABET[digit] + digits
    return digits


def find_api_key(prefix: Any) -> Select[Any]:
    """Select a usable key by its prefix."""
    found = func.annex.find_api_key(prefix).table_valued(
        column("id", Uuid),
        column("workspace_id", Uuid),
        column("secret_hash", LargeBinary),
        column("expires_at", DateTime(timezone=True)),
        column("allowed_addresses", ARRAY(Text)),
        column("rate_limit_per_minute", Integer),
        column("used_lately", Boolean),
        name="k",
    )
    return select(found)


FIND = Compiled(find_api_key(bindparam("prefix", type_=Text)))


USE = Compiled(select(func.annex.use_api_key(bindparam("key_id", type_=Uuid)).label("used")))


async def look_up(
    pool: Pool, prefix: str, address: Address | None, whose: str, digest: bytes | None = None
) -> Principal:
    """Find a key's principal, and note the use if a key was sent, whose SHA-256 `digest` is.

    `whose` is a principal's turn, or an address before one is known.
    Without a digest, a credential that was verified before is looked up again, to see if it
    still holds. Raises `InvalidKey` when it is unknown, expired or revoked, `AddressNotAllowed`
    when it is not taken from this address.
    """
    async with pool.lend(whose) as driver:
        row = await driver.fetchrow(FIND.sql, prefix)
        # Compared for an unknown prefix too, so that time tells nothing.
        known: bytes = row["secret_hash"] if row else bytes(32)
        is_same = digest is None or hmac.compare_digest(known, digest)
        if row is None or not is_same:
            raise InvalidKey("The key is unknown, expired or revoked; make a new one.")
        if not is_within(address, row["allowed_addresses"]):
            raise AddressNotAllowed("The key is not taken from this address.")
        if digest is not None and not row["used_lately"]:
            await driver.fetchval(USE.sql, row["id"])
    workspace_id: UUID = row["workspace_id"]
    return Principal(
        kind="api_key",
        id=str(row["id"]),
        expires_at=row["expires_at"].timestamp() if row["expires_at"] else None,
        workspace_id=workspace_id,
        prefix=prefix,
        rate_limit_per_minute=row["rate_limit_per_minute"],
    )


async def note_use(pool: Pool, key_id: UUID, whose: str) -> None:
    """Note that a key was used, at most once a minute; `whose` is the asking principal's turn."""
    async with pool.lend(whose) as driver:
        await driver.fetchval(USE.sql, key_id)


def operator(prefix: str, digest: bytes, hashes: list[str]) -> Principal:
    """Accept an operator key whose SHA-256 is in the settings; raises `InvalidKey` otherwise."""
    matches = [hmac.compare_digest(bytes.fromhex(known), digest) for known in hashes]
    if not any(matches):
        raise InvalidKey(
            "The operator key is unknown; its hash must be in ANNEX_OPERATOR_KEY_HASHES."
        )
    return Principal(kind="operator", id=prefix, key_hash=digest.hex())
