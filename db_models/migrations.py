from datetime import datetime

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base


class AppliedMigration(Base):
    """A migration that the database has; it recorded itself."""

    __tablename__ = "migrations"
    __table_args__ = (
        CheckConstraint("name ~ '^[0-9]{2,3}_[a-z0-9_]{1,60}$'", name="migrations_name_check"),
        CheckConstraint("checksum ~ '^[0-9a-f]{64}$'", name="migrations_checksum_check"),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    checksum: Mapped[str | None]
    applied_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
