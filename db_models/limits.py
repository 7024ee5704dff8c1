from datetime import datetime

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base


class Lock(Base):
    """What one transaction at a time does: it locks the row; no role of ours may select it."""

    __tablename__ = "locks"
    __table_args__ = (CheckConstraint("name ~ '^[a-z][a-z_]{0,62}$'", name="locks_name_check"),)
    name: Mapped[str] = mapped_column(primary_key=True)


class Limit(Base):
    """A limit of the installation that also holds in plain SQL; no role of ours may select it."""

    __tablename__ = "limits"
    __table_args__ = (
        CheckConstraint(
            "name in ('workspaces_per_user', 'audit_retention_days', 'subscriptions_per_member',"
            " 'notifications_per_inbox', 'audit_kib_per_hour', 'snoozed_per_user',"
            " 'waiting_fanouts')",
            name="limits_name_check",
        ),
        CheckConstraint("value between 0 and 1000000", name="limits_value_check"),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
