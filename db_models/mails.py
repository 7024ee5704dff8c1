from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

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
        CheckConstraint("annex.email_domain(recipient) is not null", name="mails_recipient_check"),
        CheckConstraint("char_length(error) <= 500", name="mails_error_check"),
        CheckConstraint("sent_at is null or failed_at is null", name="mails_end_check"),
        Index("mails_open_key", "invitation_id", unique=True, postgresql_where=text(OPEN)),
        Index("mails_next_attempt_at_idx", "next_attempt_at", postgresql_where=text(OPEN)),
        Index("mails_workspace_id_idx", "workspace_id", "created_at"),
        Index(
            "mails_mailbox_idx",
            text("annex.mailbox(recipient)"),
            "leased_until",
            postgresql_where=text("leased_until is not null"),
        ),
        Index("mails_invitation_id_idx", "invitation_id"),
        Index("mails_created_at_idx", "created_at"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    invitation_id: Mapped[UUID]
    recipient: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    lease_id: Mapped[UUID | None]
    leased_until: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
