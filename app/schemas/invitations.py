from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.schemas.pages import Page
from app.schemas.texts import RoleKey


class Invitation(msgspec.Struct, frozen=True):
    """An offer to join a workspace, or a user's request to."""

    id: UUID
    workspace_id: UUID
    email: str | None
    role: str
    status: Literal["requested", "pending", "accepted", "declined", "revoked", "expired"]
    max_uses: int
    uses: int
    lifetime_hours: int
    expires_at: datetime
    delivery: Literal["none", "queued", "sent", "failed"]
    invited_by: str
    user_id: UUID | None
    created_at: datetime
    updated_at: datetime
    version: int


class InvitationPage(msgspec.Struct, frozen=True):
    """A page of invitations."""

    data: list[Invitation]
    page: Page


# A dot-atom before the @ (RFC 5322, section 3.2.3): what a mail can be addressed to without quotes.
# \Z and not $, which in Python lets a line feed follow.
Email = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-](\.?[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]){0,63}"
        r"@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
        r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])\Z",
    ),
]
Token = Annotated[str, Meta(min_length=1, max_length=200)]


class InvitationCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New invitations to addresses; without any, a link."""

    role: RoleKey
    emails: Annotated[list[Email], Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    max_uses: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    lifetime_hours: Annotated[int, Meta(ge=1, le=720)] | UnsetType = UNSET


class IssuedInvitation(msgspec.Struct, frozen=True):
    """What became of an address or a link; its token is told once."""

    email: str | None
    outcome: Literal["created", "resent", "already_invited", "already_requested", "already_member"]
    invitation_id: UUID | None
    token: str | None
    accept_url: str | None


class IssuedInvitations(msgspec.Struct, frozen=True):
    """What became of each address, in the order sent."""

    data: list[IssuedInvitation]


class InvitationLookup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token of an invitation."""

    token: Token


class InvitationOffer(msgspec.Struct, frozen=True):
    """What an invitation offers, as its recipient sees it."""

    id: UUID
    workspace_id: UUID
    workspace_slug: str
    workspace_name: str
    role: str
    is_link: bool
    invited_by_name: str
    expires_at: datetime
    created_at: datetime


class InvitationOfferPage(msgspec.Struct, frozen=True):
    """A page of the invitations to a user."""

    data: list[InvitationOffer]
    page: Page


class InvitationResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's answer to one invitation, or a step through a joining rule."""

    accept: bool
    token: Token | UnsetType = UNSET
    invitation_id: UUID | UnsetType = UNSET
    join_rule_id: UUID | UnsetType = UNSET


class Joining(msgspec.Struct, frozen=True):
    """What came of an answer."""

    outcome: Literal["joined", "requested", "declined"]
    workspace_id: UUID
    workspace_slug: str
    role: str
