from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

from app.schemas.pages import Page
from app.schemas.texts import RoleKey

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
