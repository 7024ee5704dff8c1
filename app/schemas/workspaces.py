from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from app.permissions import Permission
from app.schemas.pages import Page
from app.schemas.texts import NO_NUL


class Workspace(msgspec.Struct, frozen=True):
    """A tenant."""

    id: UUID
    slug: str
    name: str
    external_id: str | None
    metadata: dict[str, Any]
    require_aal2: bool
    event_retention_days: int | None
    member_limit: int | None
    allowed_email_domains: list[str] | None
    strict_event_types: bool
    created_by: UUID | None
    created_at: datetime
    updated_at: datetime
    version: int
    role: str | None
    permissions: list[Permission]


class WorkspacePage(msgspec.Struct, frozen=True):
    """A page of workspaces."""

    data: list[Workspace]
    page: Page


Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
# \Z and not $, which in Python lets a line feed follow.
Slug = Annotated[
    str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
]
ExternalId = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
Days = Annotated[int, Meta(ge=1, le=3650)]
Seats = Annotated[int, Meta(ge=1, le=1_000_000)]
Domain = Annotated[str, Meta(min_length=3, max_length=97, pattern=r"^[a-z0-9-]+([.][a-z0-9-]+)+\Z")]
Domains = Annotated[list[Domain], Meta(min_length=1, max_length=100)]


class WorkspaceCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new workspace; without a slug, one is made from the name."""

    name: Name
    slug: Slug | UnsetType = UNSET
    external_id: ExternalId | None = None
    metadata: dict[str, Raw] | UnsetType = UNSET
    require_aal2: bool | UnsetType = UNSET
    event_retention_days: Days | None = None
    allowed_email_domains: Domains | None = None


class WorkspacePatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change to a workspace (RFC 7396)."""

    name: Name | UnsetType = UNSET
    slug: Slug | UnsetType = UNSET
    external_id: ExternalId | UnsetType | None = UNSET
    metadata: dict[str, Raw] | UnsetType | None = UNSET
    require_aal2: bool | UnsetType = UNSET
    event_retention_days: Days | UnsetType | None = UNSET
    member_limit: Seats | UnsetType | None = UNSET
    allowed_email_domains: Domains | UnsetType | None = UNSET
    strict_event_types: bool | UnsetType = UNSET
