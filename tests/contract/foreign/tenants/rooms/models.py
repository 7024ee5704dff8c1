"""Several schemas, one of them the default one written out; types apart; keys to partitions."""

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import (
    Date,
    DateTime,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    Numeric,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, DOMAIN
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

room_state = Enum("free", "taken", name="state", schema="kinds")
house_code = DOMAIN(
    "code", Text(), schema="kinds", check="VALUE ~ '^[A-Z]+$'", constraint_name="upper"
)


class Base(DeclarativeBase):
    """The base; tables that name no schema are the rooms'."""

    metadata = MetaData(schema="rooms")


class House(Base):
    """A house, in the schema that is the default one."""

    __tablename__ = "house"
    __table_args__ = ({"schema": "public"},)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    code: Mapped[str | None] = mapped_column(house_code)


class Room(Base):
    """A room of a house."""

    __tablename__ = "room"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    house_id: Mapped[int] = mapped_column(ForeignKey("public.house.id"), index=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("room.id", ondelete="SET NULL"))
    state: Mapped[str] = mapped_column(room_state, server_default="free")
    past: Mapped[list[str]] = mapped_column(ARRAY(room_state), server_default=text("'{}'"))


class Booking(Base):
    """Who has a room on a day."""

    __tablename__ = "booking"
    __table_args__ = (
        UniqueConstraint("day", "room_id", name="booking_once"),
        Index("booking_by_day", "day", text("room_id DESC")),
        {"postgresql_partition_by": "RANGE (day)"},
    )

    room_id: Mapped[int] = mapped_column(ForeignKey("room.id"), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    made_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Payment(Base):
    """What was paid for a booking, in a schema of its own."""

    __tablename__ = "payment"
    __table_args__ = (
        ForeignKeyConstraint(
            ["room_id", "day"], ["rooms.booking.room_id", "rooms.booking.day"], name="payment_for"
        ),
        {"schema": "money"},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    room_id: Mapped[int]
    day: Mapped[date]
    amount: Mapped[Decimal] = mapped_column(Numeric(10, 2))
