"""Tables whose names all need quotes, and rules named by every token that a convention may hold."""

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    UniqueConstraint,
    text,
)


def initials(constraint: Any, table: Table) -> str:
    """Give the first letters of a constraint's columns: a token of the project's own."""
    return "".join(column.name[0] for column in constraint.columns).lower()


metadata = MetaData(
    schema="Books",
    naming_convention={
        "initials": initials,
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0N_name)s_%(initials)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_key)s_%(referred_table_name)s"
        "_%(referred_column_0_name)s",
        "pk": "pk_%(table_name)s_%(column_0_label)s",
    },
)

state = Enum("Open", "Closed", "half open", name="entryState", schema="Books")

accounts = Table(
    "Account",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("ownerName", String(40), nullable=False, index=True),
    Column("select", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("ownerName", "select"),
    CheckConstraint('"select" >= 0', name="positive"),
)

entries = Table(
    "Entry Line",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("accountId", Integer, ForeignKey("Account.Id"), nullable=False, key="account"),
    Column("State", state, nullable=False, server_default="half open"),
    Column("Total Amount", Numeric(12, 2), nullable=False),
    Column("user", String, nullable=True),
    Column("Double Amount", Numeric, Computed('"Total Amount" * 2', persisted=True)),
    Index(None, "account", "State", postgresql_include=["Total Amount", "user"]),
    Index("Entry by user", text('lower("user")'), postgresql_where=text("\"State\" <> 'Open'")),
    Index("Entry by amount", text('"Total Amount" DESC')),
    CheckConstraint('"Total Amount" > 0', name="amount"),
)

pairs = Table(
    "pair",
    metadata,
    Column("left", Integer, primary_key=True),
    Column("right", Integer, primary_key=True, index=True),
    ForeignKeyConstraint(["left"], ["Entry Line.Id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["right"], ["Books.Entry Line.Id"]),
)
