from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from app.schemas.pages import Page

# \Z and not $, which in Python lets a line feed follow.
RoleKey = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}\Z")]
Status = Literal["active", "suspended"]


class Member(msgspec.Struct, frozen=True):
    """A user in a workspace."""

    user_id: UUID
    email: str | None
    display_name: str
    avatar_url: str | None
    role: str
    status: Status
    metadata: dict[str, Any]
    joined_at: datetime
    updated_at: datetime
    version: int


class MemberPage(msgspec.Struct, frozen=True):
    """A page of members."""

    data: list[Member]
    page: Page


class MemberPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change to a member (RFC 7396)."""

    role: RoleKey | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    metadata: dict[str, Raw] | UnsetType | None = UNSET
