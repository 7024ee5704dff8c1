"""A principal, and the claims by which the database knows it."""

import time
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import msgspec


class Principal(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Who makes a request, as verified by the credential they sent."""

    kind: Literal["user", "api_key", "operator"]
    id: str
    """A user's UUID, a key's UUID, or an operator key's prefix."""
    expires_at: float | None = None
    """Unix seconds; None for credentials that do not expire by themselves."""
    email: str | None = None
    aal: str = "aal1"
    is_anonymous: bool = False
    workspace_id: UUID | None = None
    """A key's."""
    prefix: str | None = None
    """A key's public part, by which it is looked up again."""
    rate_limit_per_minute: int | None = None
    """A key's own, within the limit of every caller."""
    is_exchanged: bool = False
    """A token that was exchanged for a key came, and not the key itself."""
    key_hash: str | None = None
    """An operator key's, by which it is looked up again in the settings."""

    @cached_property
    def name(self) -> str:
        """The same name that annex.principal() gives it in SQL."""
        return f"{self.kind}:{self.id}"

    @cached_property
    def turn(self) -> str:
        """Whose turn at the database, and budget, it takes: keys of one workspace share theirs."""
        return self.name if self.workspace_id is None else f"workspace:{self.workspace_id}"

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()

    @cached_property
    def claims_json(self) -> str:
        """What row level security reads as `request.jwt.claims`."""
        claims: dict[str, Any]
        if self.kind == "user":
            claims = {
                "role": "authenticated",
                "sub": self.id,
                "email": self.email or "",
                "aal": self.aal,
                "is_anonymous": self.is_anonymous,
            }
        elif self.kind == "api_key":
            claims = {"role": "annex_key", "sub": self.id}
            if self.is_exchanged:
                claims["is_exchanged"] = True
        else:
            claims = {"role": "annex_operator", "sub": self.id}
        return msgspec.json.encode(claims).decode()
