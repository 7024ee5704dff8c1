from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from app.permissions import Permission


class CheckCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question: does somebody hold a permission?"""

    permission: Permission
    user_id: UUID | None = None


class ChecksCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Up to 20 questions."""

    questions: Annotated[list[CheckCreate], Meta(min_length=1, max_length=20)]


class Check(msgspec.Struct, frozen=True):
    """An answer, with its reason."""

    permission: Permission
    user_id: UUID | None
    allowed: bool
    reason: Literal[
        "granted", "missing_permission", "second_factor_required", "suspended", "not_a_member"
    ]


class Checks(msgspec.Struct, frozen=True):
    """An answer for each question."""

    data: list[Check]
