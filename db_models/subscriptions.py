from datetime import datetime
from typing import Self
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Select,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db_models.base import Base, is_caller, within


class Subscription(Base):
    """A topic that a member follows."""

    __tablename__ = "subscriptions"
    __table_args__ = (
        PrimaryKeyConstraint("workspace_id", "topic", "user_id"),
        ForeignKeyConstraint(
            ["workspace_id", "user_id"],
            ["annex.members.workspace_id", "annex.members.user_id"],
            name="subscriptions_user_id_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint(
            "char_length(topic) between 1 and 200 and topic !~ ','",
            name="subscriptions_topic_check",
        ),
        CheckConstraint("annex.are_type_patterns(types)", name="subscriptions_types_check"),
        CheckConstraint("annex.are_clauses(clauses)", name="subscriptions_clauses_check"),
        CheckConstraint("reason in ('followed', 'added')", name="subscriptions_reason_check"),
        Index("subscriptions_user_id_idx", "user_id", "workspace_id", "topic"),
    )
    workspace_id: Mapped[UUID]
    topic: Mapped[str]
    user_id: Mapped[UUID]
    types: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    where: Mapped[list[str]] = mapped_column("clauses", ARRAY(Text), server_default=text("'{}'"))
    is_muted: Mapped[bool] = mapped_column(server_default=text("false"))
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def own(cls, _: ColumnElement[UUID]) -> Select[Self]:
        """Select the calling user's; every query on this table starts here."""
        return select(cls).where(is_caller(cls.user_id))

    @classmethod
    def own_in(cls, workspace_id: ColumnElement[UUID]) -> Select[Self]:
        """Select the calling user's in one workspace."""
        return cls.own(workspace_id).where(within(cls.workspace_id, workspace_id))
