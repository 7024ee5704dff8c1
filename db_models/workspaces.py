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
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db_models.base import Base


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
        CheckConstraint("member_limit between 1 and 1000000", name="workspaces_member_limit_check"),
        CheckConstraint(
            "array_ndims(allowed_email_domains) = 1 and cardinality(allowed_email_domains) <= 100"
            " and array_position(allowed_email_domains, null) is null"
            " and array_to_string(allowed_email_domains, ',')"
            " ~ '^[a-z0-9-]+([.][a-z0-9-]+)+(,[a-z0-9-]+([.][a-z0-9-]+)+)*$'"
            " and char_length(array_to_string(allowed_email_domains, ',')) <= 10000",
            name="workspaces_allowed_email_domains_check",
        ),
        CheckConstraint(
            "char_length(external_id) between 1 and 200", name="workspaces_external_id_check"
        ),
        CheckConstraint(
            "jsonb_typeof(metadata) = 'object' and annex.json_bytes(metadata) <= 16384",
            name="workspaces_metadata_check",
        ),
        Index("workspaces_created_by_idx", "created_by"),
        Index(
            "workspaces_deleted_at_idx",
            "deleted_at",
            postgresql_where=text("deleted_at is not null"),
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
    event_retention_days: Mapped[int | None]
    member_limit: Mapped[int | None]
    allowed_email_domains: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    strict_event_types: Mapped[bool] = mapped_column(server_default=text("false"))
    created_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    deleted_at: Mapped[datetime | None]

    @classmethod
    def visible(cls) -> Select[Self]:
        """Select what the caller may see; row level security narrows it to their workspaces."""
        return select(cls).where(cls.deleted_at.is_(None))

    @classmethod
    def of(cls, workspace_id: ColumnElement[UUID]) -> Select[Self]:
        """Select one workspace."""
        return cls.visible().where(cls.id == workspace_id)
