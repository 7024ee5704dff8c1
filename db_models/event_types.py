from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Select, UniqueConstraint, select, text
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base


class EventType(Base):
    """What the operator says of a kind of event, in all workspaces."""

    __tablename__ = "event_types"
    __table_args__ = (
        UniqueConstraint("name", name="event_types_name_key"),
        CheckConstraint(
            "char_length(name) <= 200 and name ~ '^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*$'",
            name="event_types_name_check",
        ),
        CheckConstraint("char_length(description) <= 1000", name="event_types_description_check"),
        CheckConstraint("category ~ '^[a-z][a-z0-9_-]{0,62}$'", name="event_types_category_check"),
        CheckConstraint(
            "char_length(title) <= 200 and title !~ '[[:cntrl:]]' and annex.is_template(title)",
            name="event_types_title_check",
        ),
        CheckConstraint(
            "char_length(body) <= 2000 and annex.is_template(body)", name="event_types_body_check"
        ),
        CheckConstraint(
            r"char_length(link) <= 500 and annex.is_template(link)"
            r" and link !~ '[[:cntrl:][:space:]\\]'"
            r" and link ~ '^(/|/[^/].*|https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/.*)$'",
            name="event_types_link_check",
        ),
        CheckConstraint(
            "data_schema is null or name not like 'annex.%'"
            " and annex.json_bytes(data_schema) <= 16384"
            " and annex.find_schema_fault(data_schema) is null",
            name="event_types_data_schema_check",
        ),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default=text("''"))
    category: Mapped[str]
    is_critical: Mapped[bool] = mapped_column(server_default=text("false"))
    title: Mapped[str] = mapped_column(server_default=text("''"))
    body: Mapped[str] = mapped_column(server_default=text("''"))
    link: Mapped[str | None]
    data_schema: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def catalogue(cls) -> Select[Self]:
        """Select all of them; they are no workspace's."""
        return select(cls)


class EventTypeChange(Base):
    """A change of the catalogue, and who made it."""

    __tablename__ = "event_type_changes"
    __table_args__ = (Index("event_type_changes_name_idx", "name", "id"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("annex.uuid7()"))
    name: Mapped[str]
    actor: Mapped[str]
    previous: Mapped[dict[str, Any] | None]
    record: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
