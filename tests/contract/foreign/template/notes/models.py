"""Models as SQLModel makes them: its string type, `index=True`, names left to SQLAlchemy."""

import enum
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Index,
    String,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine


class AutoString(TypeDecorator[str]):
    """VARCHAR, with a length only where the dialect wants one."""

    impl = String
    cache_ok = True
    mysql_default_length = 255

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if getattr(self.impl_instance, "length", None) is None and dialect.name == "mysql":
            return dialect.type_descriptor(String(self.mysql_default_length))
        return super().load_dialect_impl(dialect)


class SQLModel(DeclarativeBase):
    """The base that all tables share."""


class Role(enum.StrEnum):
    """What a person may do; the names are stored, not the values."""

    ADMIN = "admin"
    MEMBER = "member"


class User(SQLModel):
    """A person; the table's name is a reserved word."""

    __tablename__ = "user"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    email: Mapped[str] = mapped_column(AutoString(255), unique=True, index=True)
    is_active: Mapped[bool] = mapped_column(default=True)
    is_superuser: Mapped[bool] = mapped_column(default=False)
    full_name: Mapped[str | None] = mapped_column(AutoString(255))
    hashed_password: Mapped[str] = mapped_column(AutoString())
    role: Mapped[Role] = mapped_column(Enum(Role), default=Role.MEMBER)
    created_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), default=lambda: datetime.now(UTC)
    )


class Item(SQLModel):
    """What a person owns."""

    __tablename__ = "item"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    title: Mapped[str] = mapped_column(AutoString(255), index=True)
    description: Mapped[str | None] = mapped_column(AutoString(255))
    price: Mapped[float | None] = mapped_column(Float)
    order: Mapped[int] = mapped_column(index=True)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    tags: Mapped[list[str]] = mapped_column(ARRAY(String))
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))

    __table_args__ = (
        UniqueConstraint("owner_id", "title"),
        Index(None, "owner_id", "order"),
    )


class Link(SQLModel):
    """Which items go together."""

    __tablename__ = "link"

    left_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("item.id"), primary_key=True)
    right_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("item.id"), primary_key=True)
    group: Any = Column("group", AutoString(), index=True, nullable=True)
