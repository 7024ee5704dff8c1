from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from app.schemas.pages import Page


class Member(msgspec.Struct, frozen=True):
    """A user in a workspace."""

    user_id: UUID
    email: str | None
    display_name: str
    avatar_url: str | None
    role: str
    status: Literal["active", "suspended"]
    joined_at: datetime
    updated_at: datetime
    version: int


class MemberPage(msgspec.Struct, frozen=True):
    """A page of members."""

    data: list[Member]
    page: Page
