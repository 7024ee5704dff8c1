from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.schemas.texts import NO_NUL_OR_EMPTY


class Profile(msgspec.Struct, frozen=True):
    """What Annex knows of a user."""

    id: UUID
    email: str | None
    display_name: str
    avatar_url: str | None
    locale: str | None
    time_zone: str | None
    created_at: datetime
    updated_at: datetime
    version: int


AvatarUrl = Annotated[str, Meta(min_length=1, max_length=2048, pattern=r"^https?://[^\x00]*\Z")]
# \Z and not $, which in Python lets a line feed follow.
Locale = Annotated[
    str, Meta(min_length=2, max_length=35, pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*\Z")
]
TimeZone = Annotated[str, Meta(min_length=1, max_length=64)]


class ProfilePatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change to one's own profile (RFC 7396)."""

    display_name: Annotated[str, Meta(max_length=200, pattern=NO_NUL_OR_EMPTY)] | UnsetType = UNSET
    avatar_url: AvatarUrl | UnsetType | None = UNSET
    locale: Locale | UnsetType | None = UNSET
    time_zone: TimeZone | UnsetType | None = UNSET
