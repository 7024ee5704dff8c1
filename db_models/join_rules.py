from datetime import datetime
from typing import Self
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKeyConstraint,
    Index,
    Select,
    UniqueConstraint,
    select,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base, within


class PublicMailDomain(Base):
    """A domain under which anybody gets an address."""

    __tablename__ = "public_mail_domains"
    __table_args__ = (
        CheckConstraint(
            "coalesce(annex.email_domain('a@' || domain) = domain, false)",
            name="public_mail_domains_domain_check",
        ),
    )
    domain: Mapped[str] = mapped_column(primary_key=True)


class JoinRule(Base):
    """Lets users of a domain or of an SSO provider join a workspace without an invitation."""

    __tablename__ = "join_rules"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="join_rules_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint("kind", "value", name="join_rules_kind_value_key"),
        CheckConstraint("kind in ('domain', 'sso')", name="join_rules_kind_check"),
        CheckConstraint(
            "kind = 'domain' and coalesce(annex.email_domain('a@' || value) = value, false)"
            " or kind = 'sso' and value ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'",
            name="join_rules_value_check",
        ),
        CheckConstraint("role ~ '^[a-z][a-z0-9_-]{0,62}$'", name="join_rules_role_check"),
        Index("join_rules_workspace_id_idx", "workspace_id", text("id desc")),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    kind: Mapped[str]
    value: Mapped[str]
    role: Mapped[str]
    needs_approval: Mapped[bool] = mapped_column(server_default=text("false"))
    created_by: Mapped[str] = mapped_column(server_default=text("annex.principal()"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    @classmethod
    def of(cls, workspace_id: ColumnElement[UUID]) -> Select[Self]:
        """Select what one workspace may see; every query on this table starts here."""
        return select(cls).where(within(cls.workspace_id, workspace_id))
