from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKeyConstraint,
    Index,
    Select,
    select,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base
from db_models.profiles import Profile


class Member(Base):
    """A user in a workspace."""

    __tablename__ = "members"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="members_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="members_user_id_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("role ~ '^[a-z][a-z0-9_-]{0,62}$'", name="members_role_check"),
        CheckConstraint("annex.is_rfc3339(joined_at)", name="members_joined_at_check"),
        CheckConstraint("status in ('active', 'suspended')", name="members_status_check"),
        CheckConstraint(
            "jsonb_typeof(metadata) = 'object' and annex.json_bytes(metadata) <= 16384",
            name="members_metadata_check",
        ),
        Index("members_user_id_idx", "user_id", "workspace_id"),
        Index(
            "members_joined_at_idx", "workspace_id", text("joined_at desc"), text("user_id desc")
        ),
    )
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'active'"))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    joined_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def of(cls, workspace_id: ColumnElement[UUID]) -> Select[Self, Profile]:
        """Select what one workspace may see; every query on this table starts here."""
        return (
            select(cls, Profile)
            .join(Profile, Profile.id == cls.user_id)
            .where(cls.workspace_id == workspace_id)
        )
