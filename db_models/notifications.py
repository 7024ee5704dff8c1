from datetime import datetime
from typing import Self
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Select,
    select,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base, is_caller

IN_TURN = "failed_at is null and attempts = 0"
NEWEST_FIRST = ("user_id", text("arrived_at desc"), text("id desc"))


class Fanout(Base):
    """How far an event has been fanned out, and how often that failed."""

    __tablename__ = "fanouts"
    __table_args__ = (
        CheckConstraint("char_length(error) <= 200", name="fanouts_error_check"),
        Index("fanouts_turn_idx", "is_begun", "turn", "event_id", postgresql_where=text(IN_TURN)),
        Index("fanouts_tenant_idx", "tenant", "is_begun", "turn", postgresql_where=text(IN_TURN)),
        Index(
            "fanouts_aside_idx",
            "due_at",
            postgresql_where=text("failed_at is null and attempts > 0"),
        ),
        Index("fanouts_due_at_idx", "due_at", postgresql_where=text("failed_at is null")),
        Index("fanouts_queued_idx", "tenant", postgresql_where=text("failed_at is null")),
        Index("fanouts_failed_at_idx", "failed_at", postgresql_where=text("failed_at is not null")),
    )
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[UUID] = mapped_column(
        server_default=text("'00000000-0000-0000-0000-000000000000'")
    )
    turn: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    after_user: Mapped[UUID] = mapped_column(
        server_default=text("'00000000-0000-0000-0000-000000000000'")
    )
    is_begun: Mapped[bool] = mapped_column(server_default=text("false"))
    due_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
    failed_at: Mapped[datetime | None]


class Notification(Base):
    """An item of a user's inbox."""

    __tablename__ = "notifications"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="notifications_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="notifications_user_id_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint(
            "char_length(category) between 1 and 63", name="notifications_category_check"
        ),
        CheckConstraint(
            "reason in ('recipient', 'subscription')", name="notifications_reason_check"
        ),
        CheckConstraint("char_length(title) <= 200", name="notifications_title_check"),
        CheckConstraint("char_length(body) <= 2000", name="notifications_body_check"),
        CheckConstraint(
            "annex.is_rfc3339(snoozed_until)", name="notifications_snoozed_until_check"
        ),
        CheckConstraint(
            "(read_at is null or seen_at is not null)"
            " and (archived_at is null or snoozed_until is null)",
            name="notifications_state_check",
        ),
        Index("notifications_event_id_idx", "event_id", "user_id"),
        Index(
            "notifications_active_idx",
            *NEWEST_FIRST,
            postgresql_where=text("archived_at is null and snoozed_until is null"),
        ),
        Index(
            "notifications_unread_idx",
            *NEWEST_FIRST,
            postgresql_where=text(
                "archived_at is null and snoozed_until is null and read_at is null"
            ),
        ),
        Index(
            "notifications_archived_idx",
            *NEWEST_FIRST,
            postgresql_where=text("archived_at is not null"),
        ),
        Index(
            "notifications_snoozed_idx",
            *NEWEST_FIRST,
            postgresql_where=text("snoozed_until is not null"),
        ),
        Index("notifications_workspace_id_idx", "workspace_id", *NEWEST_FIRST),
        Index(
            "notifications_group_key_idx",
            "user_id",
            "workspace_id",
            "group_key",
            postgresql_where=text(
                "group_key is not null and read_at is null and archived_at is null"
            ),
        ),
        Index(
            "notifications_snoozed_until_idx",
            "snoozed_until",
            postgresql_where=text("snoozed_until is not null"),
        ),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID]
    event_id: Mapped[UUID]
    type: Mapped[str]
    subject: Mapped[str | None]
    actor: Mapped[str]
    permission: Mapped[str] = mapped_column(server_default=text("'events:read'"))
    category: Mapped[str]
    is_critical: Mapped[bool] = mapped_column(server_default=text("false"))
    reason: Mapped[str]
    topic: Mapped[str | None]
    title: Mapped[str]
    body: Mapped[str] = mapped_column(server_default=text("''"))
    url: Mapped[str | None]
    group_key: Mapped[str | None]
    group_count: Mapped[int] = mapped_column(server_default=text("1"))
    arrived_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    seen_at: Mapped[datetime | None]
    read_at: Mapped[datetime | None]
    archived_at: Mapped[datetime | None]
    snoozed_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def own(cls) -> Select[Self]:
        """Select the calling user's; every query on this table starts here."""
        return select(cls).where(is_caller(cls.user_id))


class Inbox(Base):
    """How many items a user has, by what it takes to see them."""

    __tablename__ = "inboxes"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "workspace_id", "permission"),
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="inboxes_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="inboxes_user_id_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint(
            "active >= 0 and unseen between 0 and active and unread between 0 and active"
            " and snoozed >= 0 and archived >= 0",
            name="inboxes_counts_check",
        ),
        Index("inboxes_workspace_id_idx", "workspace_id", "user_id"),
    )
    user_id: Mapped[UUID]
    workspace_id: Mapped[UUID]
    permission: Mapped[str]
    active: Mapped[int] = mapped_column(server_default=text("0"))
    unseen: Mapped[int] = mapped_column(server_default=text("0"))
    unread: Mapped[int] = mapped_column(server_default=text("0"))
    snoozed: Mapped[int] = mapped_column(server_default=text("0"))
    archived: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def own(cls) -> Select[Self]:
        """Select the calling user's; every query on this table starts here."""
        return select(cls).where(is_caller(cls.user_id))


class Suppression(Base):
    """Why a user was not notified of an event."""

    __tablename__ = "suppressions"
    __table_args__ = (
        PrimaryKeyConstraint("event_id", "user_id"),
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="suppressions_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="suppressions_user_id_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint(
            "reason in ('actor', 'not_a_member', 'suspended', 'not_permitted', 'muted',"
            " 'preference', 'collapsed')",
            name="suppressions_reason_check",
        ),
        Index("suppressions_user_id_idx", "user_id"),
        Index("suppressions_workspace_id_idx", "workspace_id"),
        Index("suppressions_created_at_idx", "created_at"),
    )
    event_id: Mapped[UUID]
    user_id: Mapped[UUID]
    workspace_id: Mapped[UUID]
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
