from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.permissions import Permission
from app.schemas.pages import Page

Time = Annotated[datetime, Meta(tz=True)]
Workspace = Annotated[str, Meta(min_length=1, max_length=63)]
Category = Annotated[str, Meta(min_length=1, max_length=63)]


class Notification(msgspec.Struct, frozen=True):
    """An item of the calling user's inbox."""

    id: UUID
    workspace_id: UUID
    event_id: UUID
    type: str
    subject: str | None
    actor: str
    permission: Permission
    category: str
    is_critical: bool
    reason: Literal["recipient", "subscription"]
    topic: str | None
    title: str
    body: str
    url: str | None
    group_key: str | None
    group_count: int
    arrived_at: datetime
    seen_at: datetime | None
    read_at: datetime | None
    archived_at: datetime | None
    snoozed_until: datetime | None
    version: int


class Inbox(msgspec.Struct, frozen=True):
    """Counts of the items that one permission in one workspace shows."""

    workspace_id: UUID
    permission: Permission
    active: int
    unseen: int
    unread: int
    snoozed: int
    archived: int
    version: int


class InboxCounts(msgspec.Struct, frozen=True):
    """The sums of several inboxes."""

    active: int
    unseen: int
    unread: int
    snoozed: int
    archived: int

    @classmethod
    def of(cls, inboxes: list[Inbox]) -> "InboxCounts":
        """Add up the counts of inboxes."""
        return cls(*(sum(getattr(i, name) for i in inboxes) for name in cls.__struct_fields__))


class NotificationPage(msgspec.Struct, frozen=True):
    """A page of notifications, with the counts of the same snapshot."""

    data: list[Notification]
    page: Page
    counts: InboxCounts
    inboxes: list[Inbox]
    stream_cursor: str


class NotificationPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a notification; absent leaves."""

    is_seen: bool | UnsetType = UNSET
    is_read: bool | UnsetType = UNSET
    is_archived: bool | UnsetType = UNSET
    snoozed_until: Time | UnsetType | None = UNSET


class NotificationMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with all active notifications that arrived until a moment."""

    action: Literal["seen", "read", "archived"]
    arrived_until: Time
    workspace: Workspace | None = None
    category: Category | None = None


class MarkedNotifications(msgspec.Struct, frozen=True):
    """How many notifications were marked, and whether these were all."""

    changed: int
    is_complete: bool
