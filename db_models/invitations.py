from datetime import datetime
from typing import Self
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Select,
    UniqueConstraint,
    select,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base, within


class Invitation(Base):
    """An offer to join a workspace, bound to an address or open as a link; or a request to join."""

    __tablename__ = "invitations"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="invitations_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="invitations_user_id_fkey",
            ondelete="SET NULL",
        ),
        UniqueConstraint("token_hash", name="invitations_token_hash_key"),
        CheckConstraint(
            "email is null or email = annex.fold_email(email)"
            " and annex.email_domain(email) is not null",
            name="invitations_email_check",
        ),
        CheckConstraint("role ~ '^[a-z][a-z0-9_-]{0,62}$'", name="invitations_role_check"),
        CheckConstraint(
            "status in ('requested', 'pending', 'accepted', 'declined', 'revoked', 'expired')",
            name="invitations_status_check",
        ),
        CheckConstraint("octet_length(token_hash) = 32", name="invitations_token_hash_check"),
        CheckConstraint(
            "max_uses between 1 and 10000 and (email is null or max_uses = 1)",
            name="invitations_max_uses_check",
        ),
        CheckConstraint("uses between 0 and max_uses", name="invitations_uses_check"),
        CheckConstraint(
            "lifetime_hours between 1 and 720", name="invitations_lifetime_hours_check"
        ),
        CheckConstraint(
            "delivery in ('none', 'queued', 'sent', 'failed')", name="invitations_delivery_check"
        ),
        Index(
            "invitations_open_key",
            "workspace_id",
            "email",
            unique=True,
            postgresql_where=text("status in ('requested', 'pending')"),
        ),
        Index("invitations_workspace_id_idx", "workspace_id", text("id desc")),
        Index(
            "invitations_email_idx",
            "email",
            text("id desc"),
            postgresql_where=text("status = 'pending'"),
        ),
        Index("invitations_user_id_idx", "user_id", postgresql_where=text("user_id is not null")),
        Index(
            "invitations_expires_at_idx",
            "expires_at",
            postgresql_where=text("status in ('requested', 'pending')"),
        ),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    email: Mapped[str | None]
    role: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'pending'"))
    token_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    max_uses: Mapped[int] = mapped_column(server_default=text("1"))
    uses: Mapped[int] = mapped_column(server_default=text("0"))
    lifetime_hours: Mapped[int] = mapped_column(server_default=text("168"))
    expires_at: Mapped[datetime]
    delivery: Mapped[str] = mapped_column(server_default=text("'none'"))
    invited_by: Mapped[str] = mapped_column(server_default=text("annex.principal()"))
    user_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def of(cls, workspace_id: ColumnElement[UUID]) -> Select[Self]:
        """Select what one workspace may see; every query on this table starts here."""
        return select(cls).where(within(cls.workspace_id, workspace_id))


class Removal(Base):
    """A user who was removed from a workspace, and comes back only by a later invitation."""

    __tablename__ = "removals"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="removals_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("octet_length(email_hash) = 32", name="removals_email_hash_check"),
        Index(
            "removals_email_hash_idx",
            "workspace_id",
            "email_hash",
            postgresql_where=text("email_hash IS NOT NULL"),
        ),
    )
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    email_hash: Mapped[bytes | None]
    removed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
