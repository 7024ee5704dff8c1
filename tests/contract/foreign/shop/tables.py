"""The shop's tables as plain declarative models in the default schema."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy import Enum as EnumType
from sqlalchemy.dialects.postgresql import ARRAY, DOMAIN, JSONB, ExcludeConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


# The platform's table, which others may point to; it is not the shop's to describe.
Table("users", Base.metadata, Column("id", Uuid, primary_key=True), schema="auth")


class OrderStatus(StrEnum):
    new = "new"
    paid = "paid"
    sent = "sent"


email = DOMAIN(
    "email",
    Text(),
    constraint_name="email_check",
    check="VALUE LIKE '%@%'",
    create_type=False,
)


class Customer(Base):
    __tablename__ = "customers"
    __table_args__ = (UniqueConstraint("email"), {"comment": "Who buys."})

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    email: Mapped[str] = mapped_column(email)
    name: Mapped[str] = mapped_column(String(50))
    nickname: Mapped[str | None] = mapped_column(String(20))
    groups: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    wholesale: Mapped[bool] = mapped_column(server_default=text("false"))
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("code IN ('a', 'b', 'c')", name="orders_code_check"),
        UniqueConstraint("number", name="orders_number_key"),
        ExcludeConstraint(("code", "="), using="btree", name="orders_no_overlap"),
        Index(
            "orders_open_idx",
            "customer_id",
            text("placed_at DESC"),
            postgresql_include=["total"],
            postgresql_where=text("status <> 'sent'"),
        ),
        Index("orders_code_idx", text("lower(code) text_pattern_ops")),
        Index("orders_tags_idx", "tags", postgresql_using="gin"),
    )

    id: Mapped[int] = mapped_column(Identity(always=False), primary_key=True)
    customer_id: Mapped[int] = mapped_column(
        ForeignKey("customers.id", name="orders_customer_fkey", ondelete="CASCADE")
    )
    number: Mapped[int] = mapped_column(BigInteger, server_default=text("nextval('order_number')"))
    status: Mapped[OrderStatus] = mapped_column(
        EnumType(OrderStatus, name="order_status"), server_default="new"
    )
    quantity: Mapped[int] = mapped_column(
        CheckConstraint("quantity BETWEEN 1 AND 1000", name="orders_quantity_check")
    )
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2), comment="Price of one piece.")
    total: Mapped[Decimal | None] = mapped_column(
        Numeric(14, 2), Computed("price * quantity", persisted=True)
    )
    shipping: Mapped[Decimal] = mapped_column(Numeric(8, 2), server_default=text("0"))
    code: Mapped[str | None] = mapped_column(Text(collation="C"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    placed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    doubled: Mapped[int | None] = mapped_column(Computed("quantity * 2", persisted=True))


class Measure(Base):
    __tablename__ = "measures"
    __table_args__ = ({"postgresql_partition_by": "RANGE (taken_on)"},)

    sensor: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    taken_on: Mapped[date] = mapped_column(primary_key=True)
    value: Mapped[float] = mapped_column(Double)


metadata = Base.metadata
