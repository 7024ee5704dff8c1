from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.schemas.pages import Page
from app.schemas.texts import RoleKey


class JoinRule(msgspec.Struct, frozen=True):
    """Lets users of a domain or an SSO provider join a workspace."""

    id: UUID
    workspace_id: UUID
    kind: Literal["domain", "sso"]
    value: str
    role: str
    needs_approval: bool
    created_by: str
    created_at: datetime


class JoinRulePage(msgspec.Struct, frozen=True):
    """A page of joining rules."""

    data: list[JoinRule]
    page: Page


class JoinRuleCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new joining rule."""

    kind: Literal["domain", "sso"]
    value: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.-]+\Z")]
    role: RoleKey
    needs_approval: bool | UnsetType = UNSET


class JoinOffer(msgspec.Struct, frozen=True):
    """A rule by which the calling user may join."""

    id: UUID
    workspace_id: UUID
    workspace_slug: str
    workspace_name: str
    role: str
    needs_approval: bool
    is_requested: bool


class JoinOfferPage(msgspec.Struct, frozen=True):
    """The rules by which the calling user may join; one page."""

    data: list[JoinOffer]
    page: Page
