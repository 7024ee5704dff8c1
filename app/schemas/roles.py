from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.permissions import Permission
from app.schemas.pages import Page
from app.schemas.texts import NO_NUL

Permissions = Annotated[list[Permission], Meta(min_length=1, max_length=len(Permission))]
# A star stands for all of the workspace's own; \Z and not $, which lets a line feed follow.
Grantable = Annotated[
    list[Annotated[str, Meta(pattern=r"^([*]|[a-z][a-z0-9_-]{0,62})\Z")]], Meta(max_length=101)
]


class Role(msgspec.Struct, frozen=True):
    """A named set of permissions."""

    id: UUID
    key: str
    name: str
    permissions: list[Permission]
    grantable: list[str]
    is_builtin: bool
    created_at: datetime
    updated_at: datetime
    version: int


class RolePage(msgspec.Struct, frozen=True):
    """A page of roles."""

    data: list[Role]
    page: Page


class RolePut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a role of the workspace's own shall be."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_NUL)]
    permissions: Permissions
    grantable: Grantable | UnsetType = UNSET
