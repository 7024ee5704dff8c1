from datetime import datetime
from typing import Self
from uuid import UUID

from sqlalchemy import UUID as UUID_
from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Select,
    Table,
    select,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base, is_caller

# Supabase's own table: only what Annex refers to, never read.
Table("users", Base.metadata, Column("id", UUID_, primary_key=True), schema="auth")


class Profile(Base):
    """What Annex knows of a Supabase user."""

    __tablename__ = "profiles"
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id"], ["auth.users.id"], name="profiles_user_id_fkey", ondelete="CASCADE"
        ),
        CheckConstraint("char_length(email) between 1 and 320", name="profiles_email_check"),
        Index("profiles_email_idx", text("annex.fold_email(email)")),
        CheckConstraint("char_length(display_name) <= 200", name="profiles_display_name_check"),
        CheckConstraint(
            "char_length(avatar_url) between 1 and 2048", name="profiles_avatar_url_check"
        ),
        CheckConstraint("char_length(locale) between 2 and 35", name="profiles_locale_check"),
        CheckConstraint("char_length(time_zone) between 1 and 64", name="profiles_time_zone_check"),
    )
    id: Mapped[UUID] = mapped_column("user_id", primary_key=True)
    email: Mapped[str | None]
    display_name: Mapped[str] = mapped_column(server_default=text("''"))
    avatar_url: Mapped[str | None]
    locale: Mapped[str | None]
    time_zone: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))

    @classmethod
    def own(cls) -> Select[Self]:
        """Select the calling user's, by one look into the index."""
        return select(cls).where(is_caller(cls.id))
