from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base


class Pending(Base):
    """An event that waits for its position."""

    __tablename__ = "pending"
    __table_args__ = (
        PrimaryKeyConstraint("is_personal", "id"),
        Index(
            "pending_rights_of_idx",
            "rights_of",
            "workspace_id",
            postgresql_where=text("rights_of is not null"),
        ),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True, cache=1), autoincrement=True)
    event_id: Mapped[UUID]
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID | None]
    rights_of: Mapped[str | None]
    is_personal: Mapped[bool] = mapped_column(server_default=text("false"))


class LogEntry(Base):
    """An event's position in the order that everybody reads."""

    __tablename__ = "log"
    __table_args__ = (
        Index(
            "log_workspace_id_idx", "workspace_id", "pos", postgresql_where=text("user_id is null")
        ),
        Index(
            "log_rights_of_idx",
            "rights_of",
            "workspace_id",
            "pos",
            postgresql_where=text("rights_of is not null"),
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
    rights_of: Mapped[str | None]


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


class Reader(Base):
    """How far one of the worker's readers has come."""

    __tablename__ = "readers"
    __table_args__ = (
        CheckConstraint("name ~ '^[a-z][a-z0-9_-]{0,62}$'", name="readers_name_check"),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    pos: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class Retention(Base):
    """How far the events of a feed have expired; no row where none has."""

    __tablename__ = "retentions"
    feed_id: Mapped[UUID] = mapped_column(primary_key=True)
    retained_from: Mapped[int] = mapped_column(BigInteger)
    swept_until: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class Erasure(Base):
    """A user who was erased, until nothing of theirs is left in events and log."""

    __tablename__ = "erasures"
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    erased_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class Trail(Base):
    """How much a workspace added to its audit trail in an hour; no role of ours may select it."""

    __tablename__ = "trails"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id"],
            ["annex.workspaces.id"],
            name="trails_workspace_id_fkey",
            ondelete="CASCADE",
        ),
        Index("trails_workspace_id_idx", "workspace_id", "hour"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    workspace_id: Mapped[UUID]
    hour: Mapped[datetime]
    bytes: Mapped[int] = mapped_column(BigInteger)
