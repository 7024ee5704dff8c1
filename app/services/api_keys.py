import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from litestar import Response
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, Select, bindparam, case, column, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import DateTime, Integer, LargeBinary, Text, Uuid

import db_models as m
from app.auth.keys import Key, note_use
from app.database.reads import Read, columns, returned
from app.documents import check_members
from app.errors import InvalidKey, InvalidRequest, RateLimited
from app.http.addresses import is_within, network, read_address
from app.http.limits import Limiter
from app.http.responses import StructResponse
from app.schemas import api_keys as s
from app.schemas.problems import FieldError
from app.services.publishing import in_utc

OVERLAP_SECONDS = 3600
TOKEN_SECONDS = 300
SECRETS = ("secret",)
"""What of an answer is never stored."""
FIELDS = [column(c.name, c.type) for c in columns(s.ApiKey, m.ApiKey)]
Answer = Callable[[Sequence[Any]], Response[s.ApiKeyWithSecret]]


def created(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.create_api_key; its parameters are `creation`."""
    made = func.annex.create_api_key(
        workspace_id,
        bindparam("name", type_=Text),
        bindparam("prefix", type_=Text),
        bindparam("secret_hash", type_=LargeBinary),
        bindparam("key_permissions", type_=ARRAY(Text)),
        bindparam("grantable", type_=ARRAY(Text)),
        bindparam("metadata", type_=JSONB),
        bindparam("allowed_addresses", type_=ARRAY(Text)),
        bindparam("rate_limit_per_minute", type_=Integer),
        bindparam("expires_at", type_=DateTime(timezone=True)),
    )
    return select(returned(made, s.ApiKey, m.ApiKey))


def rotated(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.rotate_api_key; its parameters are `rotation`."""
    made = func.annex.rotate_api_key(
        workspace_id,
        bindparam("key_id", type_=Uuid),
        bindparam("prefix", type_=Text),
        bindparam("secret_hash", type_=LargeBinary),
        bindparam("overlap_seconds", type_=Integer),
        bindparam("expires_at", type_=DateTime(timezone=True)),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(returned(made, s.ApiKey, m.ApiKey))


def revoked(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.revoke_api_key."""
    done = func.annex.revoke_api_key(
        workspace_id,
        bindparam("key_id", type_=Uuid),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(done.label("revoked"))


def inspected(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.inspect_api_key; its argument hangs on the claims."""
    prefix = case((literal_column("c.claims", Text).is_not(None), bindparam("prefix", type_=Text)))
    others = [column("workspace_id", Uuid), column("secret_hash", LargeBinary)]
    return select(func.annex.inspect_api_key(prefix).table_valued(*FIELDS, *others, name="k"))


def creation(new: s.ApiKeyCreate) -> tuple[dict[str, Any], Answer]:
    """Draw a key; returns the parameters of `created`, and what makes the answer."""
    if new.metadata:
        check_members(new.metadata, "/metadata")
    key = Key.make("sk")
    values = {
        "name": new.name,
        "key_permissions": new.permissions,
        "grantable": given(new.grantable),
        "metadata": given(new.metadata),
        "allowed_addresses": [block(n, text) for n, text in enumerate(new.allowed_addresses or ())],
        "rate_limit_per_minute": new.rate_limit_per_minute,
        "expires_at": ending(new.expires_at),
    }
    return {**values, "prefix": key.prefix, "secret_hash": key.hash}, answer_with(key)


def rotation(
    key_id: UUID, asked: s.ApiKeyRotate, versions: list[int] | None
) -> tuple[dict[str, Any], Answer]:
    """Draw a key; returns the parameters of `rotated`, and what makes the answer.

    `versions` are those that If-Match accepts.
    """
    key = Key.make("sk")
    overlap = OVERLAP_SECONDS if asked.overlap_seconds is UNSET else asked.overlap_seconds
    values = {
        "key_id": key_id,
        "overlap_seconds": overlap,
        "expires_at": ending(asked.expires_at),
        "versions": versions,
    }
    return {**values, "prefix": key.prefix, "secret_hash": key.hash}, answer_with(key)


def answer_with(key: Key) -> Answer:
    """Make what answers a new key's row with its secret."""

    def answer(rows: Sequence[Any]) -> Response[s.ApiKeyWithSecret]:
        return StructResponse(s.ApiKeyWithSecret(*(*rows[0], str(key))), status_code=201)

    return answer


def given(value: Any | UnsetType) -> Any:
    """Return None for what was left out."""
    return None if value is UNSET else value


def ending(time: datetime | None) -> datetime | None:
    """Write when a key ends in UTC; raises `InvalidRequest`."""
    return None if time is None else in_utc(time, "/expires_at")


def block(n: int, text: str) -> str:
    """Write an address or a CIDR block in its one way; raises `InvalidRequest`."""
    try:
        return str(network(text))
    except ValueError:
        raise InvalidRequest(
            "Write addresses or CIDR blocks, such as 203.0.113.0/24.",
            errors=[FieldError(f"/allowed_addresses/{n}", "not an address or block")],
        ) from None


async def verify(read: Read, limiter: Limiter, asked: s.ApiKeyVerification) -> s.ApiKeyVerdict:
    """Tell whether a key is good, for a caller who may read the keys of its workspace."""
    unknown = s.ApiKeyVerdict(False, "unknown", None, None)
    try:
        key = Key.read(asked.key)
    except InvalidKey:
        return unknown
    _, rows = await read.rows(inspected, {"prefix": key.prefix})
    # Hashed and compared for an unknown prefix too, so that time tells nothing.
    known: bytes = rows[0][-1] if rows else bytes(32)
    if not hmac.compare_digest(known, key.hash) or key.kind != "sk" or not rows:
        return unknown
    found = s.ApiKey(*rows[0][:-2])
    reason = fault(found, asked)
    if reason == "valid":
        try:
            limiter.spend(f"api_key:{found.id}", found.rate_limit_per_minute)
            await note_use(read.pool, found.id, read.scope.principal.turn)
        except RateLimited:
            reason = "rate_limited"
    return s.ApiKeyVerdict(reason == "valid", reason, rows[0][-2], found)


def fault(key: s.ApiKey, asked: s.ApiKeyVerification) -> Any:
    """Say what is wrong with a key, or that it is valid."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        return "expired"
    if asked.address is not UNSET and not is_within(
        read_address(asked.address), key.allowed_addresses
    ):
        return "address_not_allowed"
    if asked.permission is not UNSET and asked.permission not in key.permissions:
        return "missing_permission"
    return "valid"
