from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from app.permissions import Permission
from app.schemas.pages import Page
from app.schemas.roles import Grantable, Permissions
from app.schemas.texts import NO_NUL


class ApiKey(msgspec.Struct, frozen=True):
    """A server's credential, without its secret."""

    id: UUID
    name: str
    prefix: str
    permissions: list[Permission]
    grantable: list[str]
    metadata: dict[str, Any]
    allowed_addresses: list[str]
    rate_limit_per_minute: int | None
    expires_at: datetime | None
    last_used_at: datetime | None
    replaced_by: UUID | None
    revoked_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    version: int


class ApiKeyPage(msgspec.Struct, frozen=True):
    """A page of keys."""

    data: list[ApiKey]
    page: Page


class ApiKeyWithSecret(ApiKey, frozen=True):
    """A new key, with what is shown once."""

    secret: str | None


AddressText = Annotated[str, Meta(min_length=2, max_length=50)]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]


class ApiKeyCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new key."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_NUL)]
    permissions: Permissions
    grantable: Grantable | UnsetType = UNSET
    metadata: dict[str, Raw] | UnsetType = UNSET
    allowed_addresses: Annotated[list[AddressText], Meta(max_length=50)] | UnsetType = UNSET
    rate_limit_per_minute: Rate | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class ApiKeyRotate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to replace a key."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=604_800)] | UnsetType = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class ApiKeyVerification(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to verify, and what for."""

    key: Annotated[str, Meta(min_length=1, max_length=100)]
    permission: Permission | UnsetType = UNSET
    address: AddressText | UnsetType = UNSET


class ApiKeyVerdict(msgspec.Struct, frozen=True):
    """Whether a key is good."""

    is_valid: bool
    reason: Literal[
        "valid",
        "unknown",
        "revoked",
        "expired",
        "address_not_allowed",
        "missing_permission",
        "rate_limited",
    ]
    workspace_id: UUID | None
    key: ApiKey | None


class ApiKeyTokenCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a token shall last."""

    ttl_seconds: Annotated[int, Meta(ge=60, le=3600)] | UnsetType = UNSET


class ApiKeyToken(msgspec.Struct, frozen=True):
    """A token that a key was exchanged for."""

    access_token: str
    token_type: Literal["bearer"]
    expires_at: datetime
