from datetime import datetime
from typing import Self
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKeyConstraint,
    Select,
    UniqueConstraint,
    any_,
    func,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, aliased, mapped_column
from sqlalchemy.types import Text

from db_models.base import Base


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
        CheckConstraint(
            "cardinality(grantable) <= 101 and array_position(grantable, null) is null"
            " and array_to_string(grantable, ',')"
            " ~ '^(([*]|[a-z][a-z0-9_-]{0,62})(,([*]|[a-z][a-z0-9_-]{0,62}))*)?$'",
            name="roles_grantable_check",
        ),
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

    @classmethod
    def of(cls, workspace_id: ColumnElement[UUID]) -> Select[Self, bool]:
        """Select one workspace's own roles and the built-in ones."""
        is_builtin = cls.workspace_id.is_(None).label("is_builtin")
        own, shared = aliased(cls), aliased(cls)
        # With "or" in one condition, the roles of all workspaces are read.
        ids = union_all(
            select(own.id).where(own.workspace_id == workspace_id),
            select(shared.id).where(shared.workspace_id.is_(None)),
        )
        return select(cls, is_builtin).where(cls.id == any_(func.array(ids.scalar_subquery())))
