from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db_models.base import Base


class ApiKey(Base):
    """A server's credential; no role may select it, `annex.find_api_key` looks one up."""

    __tablename__ = "api_keys"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="api_keys_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint("prefix", name="api_keys_prefix_key"),
        CheckConstraint("annex.is_rfc3339(expires_at)", name="api_keys_expires_at_check"),
        CheckConstraint("annex.is_rfc3339(revoked_at)", name="api_keys_revoked_at_check"),
        CheckConstraint("char_length(name) between 1 and 100", name="api_keys_name_check"),
        CheckConstraint("prefix ~ '^[0-9A-Za-z]{12}$'", name="api_keys_prefix_check"),
        CheckConstraint("octet_length(secret_hash) = 32", name="api_keys_secret_hash_check"),
        CheckConstraint("permissions <@ annex.permissions()", name="api_keys_permissions_check"),
        Index("api_keys_workspace_id_idx", "workspace_id", text("id desc")),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    name: Mapped[str]
    prefix: Mapped[str]
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    permissions: Mapped[list[str]] = mapped_column(ARRAY(Text))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
