from datetime import datetime
from typing import Any, Self
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
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db_models.base import Base


class ApiKey(Base):
    """A server's credential; no role may select its hash, `annex.find_api_key` looks one up."""

    __tablename__ = "api_keys"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="api_keys_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["replaced_by"],
            ["annex.api_keys.id"],
            name="api_keys_replaced_by_fkey",
            ondelete="SET NULL",
        ),
        UniqueConstraint("prefix", name="api_keys_prefix_key"),
        CheckConstraint("annex.is_rfc3339(expires_at)", name="api_keys_expires_at_check"),
        CheckConstraint("annex.is_rfc3339(revoked_at)", name="api_keys_revoked_at_check"),
        UniqueConstraint("replaced_by", name="api_keys_replaced_by_key"),
        CheckConstraint("char_length(name) between 1 and 100", name="api_keys_name_check"),
        CheckConstraint("prefix ~ '^[0-9A-Za-z]{12}$'", name="api_keys_prefix_check"),
        CheckConstraint("octet_length(secret_hash) = 32", name="api_keys_secret_hash_check"),
        CheckConstraint("permissions <@ annex.permissions()", name="api_keys_permissions_check"),
        CheckConstraint(
            "cardinality(grantable) <= 101 and array_position(grantable, null) is null"
            " and array_to_string(grantable, ',')"
            " ~ '^(([*]|[a-z][a-z0-9_-]{0,62})(,([*]|[a-z][a-z0-9_-]{0,62}))*)?$'",
            name="api_keys_grantable_check",
        ),
        CheckConstraint(
            "jsonb_typeof(metadata) = 'object' and annex.json_bytes(metadata) <= 16384",
            name="api_keys_metadata_check",
        ),
        CheckConstraint(
            "cardinality(allowed_addresses) <= 50"
            " and array_position(allowed_addresses, null) is null"
            " and array_to_string(allowed_addresses, ',') ~ '^[0-9a-f.:/,]*$'",
            name="api_keys_allowed_addresses_check",
        ),
        CheckConstraint(
            "rate_limit_per_minute between 1 and 1000000",
            name="api_keys_rate_limit_per_minute_check",
        ),
        Index("api_keys_workspace_id_idx", "workspace_id", text("id desc")),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    name: Mapped[str]
    prefix: Mapped[str]
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    permissions: Mapped[list[str]] = mapped_column(ARRAY(Text))
    grantable: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    allowed_addresses: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    rate_limit_per_minute: Mapped[int | None]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    replaced_by: Mapped[UUID | None]
    revoked_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(server_default=text("annex.principal()"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def of(cls, workspace_id: ColumnElement[UUID]) -> Select[Self]:
        """Select one workspace's keys; name columns, as the hash is nobody's to select."""
        return select(cls).where(cls.workspace_id == workspace_id)
