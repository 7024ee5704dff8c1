"""Models as Advanced Alchemy makes them: its naming convention, its types, its sentinel column."""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PostgresUuid
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    declared_attr,
    mapped_column,
    orm_insert_sentinel,
)
from sqlalchemy.types import BINARY, JSON, TypeEngine

CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class GUID(TypeDecorator[UUID]):
    """The server's UUID where it has one, else sixteen bytes."""

    impl = BINARY(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(PostgresUuid())
        return dialect.type_descriptor(BINARY(16))


class DateTimeUTC(TypeDecorator[datetime]):
    """Times that are stored in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True


class EncryptedString(TypeDecorator[str]):
    """Text that is encrypted before it is stored."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(String())


JsonB = JSON().with_variant(JSONB, "postgresql")
BigIdentity = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """The base of all tables."""

    metadata = MetaData(naming_convention=CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {UUID: GUID, datetime: DateTimeUTC, dict: JsonB}


class UUIDAuditBase(Base):
    """A key, a sentinel for bulk inserts, and when a row was made and changed."""

    __abstract__ = True

    id: Mapped[UUID] = mapped_column(default=uuid4, primary_key=True, sort_order=-100)

    @declared_attr
    def _sentinel(cls) -> Mapped[int]:
        return orm_insert_sentinel(name="sa_orm_sentinel")

    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC), sort_order=3000)
    updated_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC), sort_order=3000)


class BigIntAuditBase(Base):
    """A key from a sequence of its own."""

    __abstract__ = True

    @declared_attr
    def id(cls) -> Mapped[int]:
        name = f"{cls.__tablename__}_id_seq"
        return mapped_column(
            BigIdentity, Sequence(name, optional=False), primary_key=True, sort_order=-100
        )

    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC), sort_order=3000)


class SlugKey:
    """A short name that is unique."""

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("slug", name=f"uq_{cls.__tablename__}_slug"),)  # type: ignore[attr-defined]

    slug: Mapped[str] = mapped_column(String(100))


class User(UUIDAuditBase):
    """Who may log in."""

    __tablename__ = "user_account"
    __table_args__ = ({"comment": "User accounts for application access"},)

    email: Mapped[str] = mapped_column(unique=True, index=True)
    username: Mapped[str | None] = mapped_column(String(30), unique=True, index=True)
    secret: Mapped[str | None] = mapped_column(EncryptedString)
    is_active: Mapped[bool] = mapped_column(default=True)
    joined_at: Mapped[Any] = mapped_column(Date)
    totp: Mapped[dict[str, Any] | None] = mapped_column(JsonB, default=None)


class Team(UUIDAuditBase, SlugKey):
    """Who works together."""

    __tablename__ = "team"

    name: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(
        Enum("open", "closed", name="kind", native_enum=False, create_constraint=True, length=20)
    )
    is_public: Mapped[bool] = mapped_column(
        Boolean(name="public", create_constraint=True), default=False
    )


class Member(UUIDAuditBase):
    """Who is in a team; the same pair stands once, and one of each team owns it."""

    __tablename__ = "team_member"
    __table_args__ = (
        UniqueConstraint("user_id", "team_id"),
        CheckConstraint("role in ('owner', 'member')", name="role"),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id", ondelete="cascade"))
    team_id: Mapped[UUID] = mapped_column(ForeignKey("team.id", ondelete="cascade"), index=True)
    role: Mapped[str] = mapped_column(String(50), default="member")
    is_owner: Mapped[bool] = mapped_column(default=False)


class Entry(BigIntAuditBase):
    """What somebody did."""

    __tablename__ = "audit_log"

    actor_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("user_account.id", ondelete="SET NULL"), index=True
    )
    action: Mapped[str] = mapped_column(String(100), index=True)


team_tag = Table(
    "team_tag",
    Base.metadata,
    Column("team_id", GUID, ForeignKey("team.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(50), primary_key=True),
)
