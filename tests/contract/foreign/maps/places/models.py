"""Types that an extension brings, written without its schema as its SQLAlchemy package does."""

from typing import Any

from sqlalchemy import CheckConstraint, Float, Identity, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType


class Geometry(UserDefinedType[bytes]):
    """A shape on the map."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Write the type."""
        return "geometry"


class Brought(UserDefinedType[bytes]):
    """A type that only this extension knows."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """Write the type."""
        return self.name


class Base(DeclarativeBase):
    """The base of all tables."""


class Place(Base):
    """A place on the map."""

    __tablename__ = "place"
    __table_args__ = (
        CheckConstraint("st_srid(shape) = 4326", name="place_srid"),
        Index("place_name", "name", postgresql_ops={"name": "varchar_pattern_ops"}),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    shape: Mapped[Any] = mapped_column(Geometry())
    picture: Mapped[Any | None] = mapped_column(Brought("gis.raster"))
    gauge: Mapped[Any | None] = mapped_column(Brought("gis.gauge"))
    shapes: Mapped[Any | None] = mapped_column(Brought("geometry[]"))
    height: Mapped[float | None] = mapped_column(Float(24))
    width: Mapped[float | None] = mapped_column(Float(53))
