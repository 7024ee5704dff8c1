from datetime import datetime

from sqlalchemy import CheckConstraint, Index, LargeBinary, SmallInteger, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db_models.base import Base


class IdempotencyKey(Base):
    """The finished answer of a request that carried an Idempotency-Key."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("char_length(key) between 1 and 255", name="idempotency_keys_key_check"),
        CheckConstraint(
            "octet_length(fingerprint) = 32", name="idempotency_keys_fingerprint_check"
        ),
        CheckConstraint("octet_length(body) <= 65536", name="idempotency_keys_body_check"),
        CheckConstraint("status between 200 and 299", name="idempotency_keys_status_check"),
        Index("idempotency_keys_expires_at_idx", "expires_at"),
    )
    principal: Mapped[str] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'"))
    body: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime]
