from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Select,
    SmallInteger,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db_models.base import Base


class Event(Base):
    """What happened; insert-only, by Annex's definer functions alone."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(
            "char_length(type) <= 200 and type ~ '^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*$'",
            name="events_type_check",
        ),
        CheckConstraint("char_length(source) between 1 and 500", name="events_source_check"),
        CheckConstraint("char_length(key) between 1 and 200", name="events_key_check"),
        CheckConstraint("char_length(subject) between 1 and 500", name="events_subject_check"),
        CheckConstraint(
            "cardinality(topics) <= 20 and array_position(topics, null) is null"
            " and array_position(topics, '') is null and array_to_string(topics, '') !~ ','"
            " and char_length(array_to_string(topics, '')) <= 4000",
            name="events_topics_check",
        ),
        CheckConstraint("char_length(actor) between 1 and 200", name="events_actor_check"),
        CheckConstraint("visibility in ('feed', 'audit')", name="events_visibility_check"),
        CheckConstraint("octet_length(data::text) <= 131072", name="events_data_check"),
        CheckConstraint(
            "jsonb_typeof(context) = 'object' and octet_length(context::text) <= 16384",
            name="events_context_check",
        ),
        CheckConstraint(
            "extract(year from occurred_at at time zone 'UTC') between 1 and 9999",
            name="events_occurred_at_check",
        ),
        Index("events_workspace_id_idx", "workspace_id", text("event_id desc")),
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
    visibility: Mapped[str] = mapped_column(server_default=text("'feed'"))
    data: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'"))
    context: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    occurred_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    recorded_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))

    @classmethod
    def visible_to(cls, workspace_id: UUID) -> Select[Self]:
        """Select a workspace's shared events, not the personal ones; every query starts here."""
        return select(cls).where(cls.workspace_id == workspace_id, cls.user_id.is_(None))


class EventKey(Base):
    """Makes publishing the same source and key twice one event."""

    __tablename__ = "event_keys"
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[UUID]


class Pending(Base):
    """An event that waits for its position."""

    __tablename__ = "pending"
    __table_args__ = (PrimaryKeyConstraint("is_personal", "id"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True, cache=1), autoincrement=True)
    event_id: Mapped[UUID]
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID | None]
    is_personal: Mapped[bool] = mapped_column(server_default=text("false"))


class LogEntry(Base):
    """An event's position in the order that everybody reads."""

    __tablename__ = "log"
    __table_args__ = (
        Index(
            "log_workspace_id_idx", "workspace_id", "pos", postgresql_where=text("user_id is null")
        ),
        Index("log_user_id_idx", "user_id", "pos", postgresql_where=text("user_id is not null")),
        Index(
            "log_personal_idx", "workspace_id", "pos", postgresql_where=text("user_id is not null")
        ),
    )
    pos: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event_id: Mapped[UUID]
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID | None]

    @classmethod
    def visible_to(cls, workspace_id: UUID) -> Select[Self]:
        """Select a workspace's shared entries, not the personal ones; every query starts here."""
        return select(cls).where(cls.workspace_id == workspace_id, cls.user_id.is_(None))


class LogState(Base):
    """Where the log stands; one row."""

    __tablename__ = "log_state"
    __table_args__ = (CheckConstraint("id = 1", name="log_state_id_check"),)
    id: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, autoincrement=False, server_default=text("1")
    )
    epoch: Mapped[int] = mapped_column(server_default=text("1"))
    system_identifier: Mapped[int] = mapped_column(BigInteger)
    timeline: Mapped[int]
    database_oid: Mapped[int] = mapped_column(BigInteger)
    head: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    retained_from: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class Retention(Base):
    """How far the events of a workspace have expired; no row where none has."""

    __tablename__ = "retentions"
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    retained_from: Mapped[int] = mapped_column(BigInteger)
