"""Mirrors of a Supabase project's tables; its migrations are written by hand."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Boolean, Column, DateTime, Enum, ForeignKey, Index, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base of all tables."""


Table("users", Base.metadata, Column("id", Uuid, primary_key=True), schema="auth")


class Profile(Base):
    """What others see of a person."""

    __tablename__ = "profiles"

    id: Mapped[UUID] = mapped_column(
        ForeignKey("auth.users.id", ondelete="CASCADE"), primary_key=True
    )
    username: Mapped[str] = mapped_column(Text, unique=True)
    bio: Mapped[str | None] = mapped_column(Text, server_default=text("NULL"))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("timezone('utc'::text, now())")
    )


class Listing(Base):
    """What is for sale."""

    __tablename__ = "listings"
    __table_args__ = (
        Index("listings_open", "seller_id", postgresql_where=text("active AND status = 'open'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    seller_id: Mapped[UUID] = mapped_column(
        ForeignKey("profiles.id", ondelete="CASCADE"), server_default=text("auth.uid()")
    )
    status: Mapped[str] = mapped_column(
        Enum("open", "sold", name="listing_status"), server_default="open"
    )
    active: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("ARRAY[]::text[]"))
