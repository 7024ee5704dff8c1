from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import LargeBinary, SmallInteger

from db_models.base import Base

OPEN = "sent_at is null and failed_at is null"


class Mail(Base):
    """A mail of the outbox; no role may select it, the worker leases one by a function."""

    __tablename__ = "mails"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="mails_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["invitation_id"],
            ["annex.invitations.id"],
            name="mails_invitation_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["notification_id"],
            ["annex.notifications.id"],
            name="mails_notification_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="mails_user_id_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint("notification_id", name="mails_notification_id_key"),
        CheckConstraint(
            "(invitation_id is null) = (notification_id is not null)"
            " and (notification_id is null) = (user_id is null)",
            name="mails_kind_check",
        ),
        CheckConstraint(
            "skip_reason is null or skip_reason in ('not_a_member', 'suspended', 'not_permitted',"
            " 'muted', 'preference',"
            " 'read', 'archived', 'snoozed', 'address_unconfirmed', 'address_changed', 'limit')"
            " and failed_at is not null",
            name="mails_skip_reason_check",
        ),
        CheckConstraint("annex.email_domain(recipient) is not null", name="mails_recipient_check"),
        CheckConstraint("char_length(error) <= 500", name="mails_error_check"),
        CheckConstraint("sent_at is null or failed_at is null", name="mails_end_check"),
        Index("mails_open_key", "invitation_id", unique=True, postgresql_where=text(OPEN)),
        Index("mails_next_attempt_at_idx", "next_attempt_at", postgresql_where=text(OPEN)),
        Index(
            "mails_waiting_idx",
            text("annex.mailbox(recipient)"),
            "next_attempt_at",
            postgresql_where=text(OPEN),
        ),
        Index("mails_user_id_idx", "user_id", postgresql_where=text("user_id is not null")),
        Index("mails_workspace_id_idx", "workspace_id", "created_at"),
        Index(
            "mails_notified_idx",
            "workspace_id",
            "is_critical",
            "skip_reason",
            "created_at",
            postgresql_where=text("notification_id is not null"),
        ),
        Index(
            "mails_mailbox_idx",
            text("annex.mailbox(recipient)"),
            "leased_until",
            postgresql_where=text("leased_until is not null"),
        ),
        Index(
            "mails_leased_until_idx",
            "leased_until",
            postgresql_where=text("leased_until is not null"),
        ),
        Index("mails_invitation_id_idx", "invitation_id"),
        Index("mails_created_at_idx", "created_at"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    invitation_id: Mapped[UUID | None]
    notification_id: Mapped[UUID | None]
    user_id: Mapped[UUID | None]
    is_critical: Mapped[bool] = mapped_column(server_default=text("false"))
    recipient: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    lease_id: Mapped[UUID | None]
    leased_until: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    error: Mapped[str | None]
    skip_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class MailState(Base):
    """How far the worker has looked at items that may be mailed."""

    __tablename__ = "mail_state"
    __table_args__ = (CheckConstraint("id = 1", name="mail_state_id_check"),)
    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, server_default=text("1"))
    after_id: Mapped[UUID]


class MailBacklog(Base):
    """A tenant's items that are still to be looked at for mails; others go on meanwhile."""

    __tablename__ = "mail_backlogs"
    tenant: Mapped[UUID] = mapped_column(primary_key=True)
    after_id: Mapped[UUID]
    until_id: Mapped[UUID]
    served_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class MailRetry(Base):
    """An item that could not be looked at for its mail, and when it is looked at again."""

    __tablename__ = "mail_retries"
    __table_args__ = (
        CheckConstraint("char_length(error) = 5", name="mail_retries_error_check"),
        Index("mail_retries_next_attempt_at_idx", "next_attempt_at"),
    )
    notification_id: Mapped[UUID] = mapped_column(primary_key=True)
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    error: Mapped[str]


class UnsubscribeToken(Base):
    """What the link in a notification's mail ends; no role may select it."""

    __tablename__ = "unsubscribe_tokens"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="unsubscribe_tokens_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="unsubscribe_tokens_user_id_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint(
            "octet_length(token_hash) = 32", name="unsubscribe_tokens_token_hash_check"
        ),
        CheckConstraint(
            "char_length(category) between 1 and 63", name="unsubscribe_tokens_category_check"
        ),
        Index("unsubscribe_tokens_created_at_idx", "created_at"),
        Index("unsubscribe_tokens_user_id_idx", "user_id"),
        Index("unsubscribe_tokens_workspace_id_idx", "workspace_id"),
    )
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID]
    category: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
