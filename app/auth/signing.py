"""Tokens that API keys are exchanged for: short JWTs (RFC 7519) that Supabase accepts."""

import time
from datetime import UTC, datetime
from typing import Any

import jwt

from app.errors import NotConfigured
from app.principals import Principal
from app.schemas.api_keys import ApiKeyToken
from app.settings import read_signing_key

ALGORITHM = "ES256"
CLAIM = "annex_key"
"""Names the key in a token; no user can have it in theirs, which Supabase writes."""


class Signer:
    """Signs tokens with a key that the operator imported into the Supabase project."""

    def __init__(self, signing_key: str | None, issuer: str | None) -> None:
        self.key = None if signing_key is None else read_signing_key(signing_key)
        self.issuer = issuer

    @property
    def known(self) -> dict[str, jwt.PyJWK]:
        """The key by its `kid`, so that tokens can be verified before the project's set has it."""
        return {} if self.key is None or self.key.key_id is None else {self.key.key_id: self.key}

    def sign(self, principal: Principal, ttl_seconds: int) -> ApiKeyToken:
        """Sign a token of a key; it never outlives the key. Raises `NotConfigured`.

        It says who the caller is and not what they may do: that is looked up where it is used.
        """
        if self.key is None:
            raise NotConfigured(
                "This server signs no tokens; set ANNEX_SIGNING_KEY to a private JWK that was"
                " imported into the Supabase project."
            )
        now = int(time.time())
        expires_at = now + ttl_seconds
        if principal.expires_at is not None:
            expires_at = min(expires_at, int(principal.expires_at))
        claims: dict[str, Any] = {
            "role": "authenticated",
            "aud": "authenticated",
            "sub": principal.id,
            "aal": "aal1",
            "iat": now,
            "exp": expires_at,
            CLAIM: {
                "id": principal.id,
                "prefix": principal.prefix,
                "workspace_id": str(principal.workspace_id),
            },
            **({"iss": self.issuer} if self.issuer else {}),
        }
        token = jwt.encode(claims, self.key, ALGORITHM, headers={"kid": self.key.key_id})
        return ApiKeyToken(token, "bearer", datetime.fromtimestamp(expires_at, UTC))
