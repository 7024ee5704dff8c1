from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.schemas.pages import Page

# \Z and not $, which in Python lets a line feed follow.
TypePattern = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^([*]|[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*([.][*])?)\Z",
    ),
]
Clause = Annotated[str, Meta(max_length=500, pattern=r"^data(\.[A-Za-z0-9_-]{1,64}){1,8}:")]
Users = Annotated[list[UUID], Meta(max_length=1000)]


class Subscription(msgspec.Struct, frozen=True):
    """A topic that the calling user follows in a workspace."""

    workspace_id: UUID
    topic: str
    types: list[str]
    where: list[str]
    is_muted: bool
    reason: Literal["followed", "added"]
    created_at: datetime
    updated_at: datetime
    version: int


class SubscriptionPage(msgspec.Struct, frozen=True):
    """A page of subscriptions."""

    data: list[Subscription]
    page: Page


class SubscriptionPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a topic to be notified of."""

    types: Annotated[list[TypePattern], Meta(max_length=20)] | UnsetType = UNSET
    where: Annotated[list[Clause], Meta(max_length=5)] | UnsetType = UNSET
    is_muted: bool | UnsetType = UNSET


class SubscribersPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Users to subscribe to a topic and to unsubscribe from it."""

    add: Users | UnsetType = UNSET
    remove: Users | UnsetType = UNSET


class ChangedSubscribers(msgspec.Struct, frozen=True):
    """How many subscriptions came and went."""

    added: int
    removed: int
