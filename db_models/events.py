from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    Index,
    Select,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text, Uuid

from db_models.base import Base, within


class Event(Base):
    """What happened; insert-only, by Annex's definer functions alone."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(
            "user_id is not null"
            " or char_length(type) <= 200 and type ~ '^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*$'",
            name="events_type_check",
        ),
        CheckConstraint("char_length(source) between 1 and 500", name="events_source_check"),
        CheckConstraint("char_length(key) between 1 and 200", name="events_key_check"),
        CheckConstraint("char_length(subject) between 1 and 500", name="events_subject_check"),
        CheckConstraint(
            "cardinality(topics) = 0"
            " or cardinality(topics) <= 20 and array_position(topics, null) is null"
            " and array_position(topics, '') is null and array_to_string(topics, '') !~ ','"
            " and char_length(array_to_string(topics, '')) <= 4000",
            name="events_topics_check",
        ),
        CheckConstraint("char_length(actor) between 1 and 200", name="events_actor_check"),
        CheckConstraint("permission = any (annex.permissions())", name="events_permission_check"),
        CheckConstraint(
            "array_ndims(recipients) = 1 and cardinality(recipients) <= 1000"
            " and array_position(recipients, null) is null",
            name="events_recipients_check",
        ),
        CheckConstraint("char_length(group_key) between 1 and 200", name="events_group_key_check"),
        CheckConstraint(
            "char_length(url) <= 2048"
            r""" and url ~ '^(https://[!-"$-.0->A-\[\]-~]+([/?#]|$)|/($|[!-.0-\[\]-~]))'"""
            r" and url ~ '^[!-\[\]-~]+$'",
            name="events_url_check",
        ),
        CheckConstraint(
            "user_id is not null or annex.json_bytes(data) <= 131072", name="events_data_check"
        ),
        CheckConstraint(
            "context = '{}'"
            " or jsonb_typeof(context) = 'object' and annex.json_bytes(context) <= 16384",
            name="events_context_check",
        ),
        CheckConstraint("annex.is_rfc3339(occurred_at)", name="events_occurred_at_check"),
        Index("events_workspace_id_idx", "workspace_id", "event_id"),
        Index(
            "events_user_id_idx",
            "user_id",
            text("event_id desc"),
            postgresql_where=text("user_id is not null"),
        ),
        {"postgresql_partition_by": "RANGE (event_id)"},
    )
    id: Mapped[UUID] = mapped_column(
        "event_id", primary_key=True, server_default=text("annex.uuid7()")
    )
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID | None]
    type: Mapped[str]
    source: Mapped[str]
    key: Mapped[str | None]
    subject: Mapped[str | None]
    topics: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    actor: Mapped[str]
    principal: Mapped[str] = mapped_column(server_default=text("annex.principal()"))
    permission: Mapped[str | None]
    recipients: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid))
    group_key: Mapped[str | None]
    url: Mapped[str | None]
    data: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'"))
    context: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    occurred_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    recorded_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))

    @classmethod
    def of(cls, workspace_id: ColumnElement[UUID]) -> Select[Self]:
        """Select a workspace's shared events, not the personal ones; every query starts here."""
        return select(cls).where(within(cls.workspace_id, workspace_id), cls.user_id.is_(None))


class EventKey(Base):
    """Makes publishing the same source and key twice one event."""

    __tablename__ = "event_keys"
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    publisher: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    event_id: Mapped[UUID]
