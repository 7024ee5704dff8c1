from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    Select,
    UniqueConstraint,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db_models.base import Base
from db_models.profiles import Profile


class Workspace(Base):
    """A tenant."""

    __tablename__ = "workspaces"
    __table_args__ = (
        ForeignKeyConstraint(
            ["created_by"],
            ["annex.profiles.user_id"],
            name="workspaces_created_by_fkey",
            ondelete="SET NULL",
        ),
        CheckConstraint(
            "slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'", name="workspaces_slug_check"
        ),
        CheckConstraint(
            "slug !~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'",
            name="workspaces_slug_not_uuid_check",
        ),
        CheckConstraint("char_length(name) between 1 and 200", name="workspaces_name_check"),
        CheckConstraint(
            "event_retention_days between 1 and 3650",
            name="workspaces_event_retention_days_check",
        ),
        CheckConstraint(
            "char_length(external_id) between 1 and 200", name="workspaces_external_id_check"
        ),
        CheckConstraint(
            "jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 16384",
            name="workspaces_metadata_check",
        ),
        Index(
            "workspaces_slug_key", "slug", unique=True, postgresql_where=text("deleted_at is null")
        ),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    slug: Mapped[str]
    name: Mapped[str]
    external_id: Mapped[str | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    require_aal2: Mapped[bool] = mapped_column(server_default=text("false"))
    created_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    deleted_at: Mapped[datetime | None]
    event_retention_days: Mapped[int | None]

    @classmethod
    def visible(cls) -> Select[Self]:
        """Select what the caller may see; row level security narrows it to their workspaces."""
        return select(cls).where(cls.deleted_at.is_(None))


class Role(Base):
    """A named set of permissions; built in when it belongs to no workspace."""

    __tablename__ = "roles"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="roles_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint(
            "workspace_id",
            "key",
            name="roles_workspace_id_key_key",
            postgresql_nulls_not_distinct=True,
        ),
        CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,62}$'", name="roles_key_check"),
        CheckConstraint(
            "(workspace_id is null) = (key in ('owner', 'admin', 'member', 'viewer'))",
            name="roles_builtin_check",
        ),
        CheckConstraint("char_length(name) between 1 and 100", name="roles_name_check"),
        CheckConstraint("permissions <@ annex.permissions()", name="roles_permissions_check"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID | None]
    key: Mapped[str]
    name: Mapped[str]
    permissions: Mapped[list[str]] = mapped_column(ARRAY(Text))
    grantable: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))


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
        CheckConstraint("status in ('active', 'suspended')", name="members_status_check"),
        CheckConstraint(
            "jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 16384",
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
    def visible_to(cls, workspace_id: UUID) -> Select[Self, Profile]:
        """Select what one workspace may see; every query on this table starts here."""
        return (
            select(cls, Profile)
            .join(Profile, Profile.id == cls.user_id)
            .where(cls.workspace_id == workspace_id)
        )
