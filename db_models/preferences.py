from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base


class Preference(Base):
    """What a user wants to be told, or what a workspace's members get who say nothing."""

    __tablename__ = "preferences"
    __table_args__ = (
        UniqueConstraint(
            "user_id",
            "workspace_id",
            name="preferences_user_id_workspace_id_key",
            postgresql_nulls_not_distinct=True,
        ),
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="preferences_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["user_id"],
            ["annex.profiles.user_id"],
            name="preferences_user_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["workspace_id", "user_id"],
            ["annex.members.workspace_id", "annex.members.user_id"],
            name="preferences_member_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint(
            "workspace_id is not null or user_id is not null", name="preferences_scope_check"
        ),
        CheckConstraint("annex.is_choice(categories)", name="preferences_categories_check"),
        CheckConstraint(
            "quiet_hours is null or annex.is_quiet(quiet_hours)",
            name="preferences_quiet_hours_check",
        ),
        Index("preferences_workspace_id_idx", "workspace_id", "user_id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID | None]
    user_id: Mapped[UUID | None]
    categories: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    quiet_hours: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
