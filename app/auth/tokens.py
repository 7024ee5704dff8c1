"""Supabase access tokens (RFC 7519), verified against the project's key set (RFC 7517)."""

import asyncio
import time
from collections import OrderedDict
from uuid import UUID

import httpx
import jwt
import msgspec
import structlog

from app.auth.signing import ALGORITHM, CLAIM, Signer
from app.errors import InvalidToken, NotAToken, TokenExpired, Unavailable
from app.logs import reason_of
from app.principals import Principal
from app.settings import Settings

log = structlog.get_logger()

LEEWAY_SECONDS = 30
REFRESH_SECONDS = 600
"""A key set of this age is fetched again, while it stays in use."""
MAX_AGE_SECONDS = 6 * 3600
"""The key set is used for so long while it cannot be fetched."""
MAX_EXP = 10**11
UNKNOWN_KID_SECONDS = 60
RETRY_SECONDS = 1
FETCH_SECONDS = 5
MAX_SET_BYTES = 1024 * 1024
MAX_VERDICTS = 20_000
ASYMMETRIC = ("ES256", "RS256")


class Tokens:
    """Verifies access tokens.

    A verdict is kept until the token's `exp`, so that its signature is checked once.
    """

    def __init__(self, settings: Settings, http: httpx.AsyncClient, signer: Signer) -> None:
        self.known = signer.known
        self.secret = settings.jwt_secret
        self.issuer = settings.issuer
        self.url = (
            f"{settings.supabase_url.rstrip('/')}/auth/v1/.well-known/jwks.json"
            if settings.supabase_url
            else None
        )
        self.http = http
        self.keys: dict[str, jwt.PyJWK] = {}
        self.fetched_at = float("-inf")
        self.tried_at = float("-inf")
        self.fetching = asyncio.Lock()
        self.refreshing: asyncio.Task[None] | None = None
        self.verdicts: OrderedDict[bytes, tuple[str | None, Principal]] = OrderedDict()

    async def verify(self, token: str, digest: bytes) -> Principal:
        """Verify a token, of which `digest` is the SHA-256.

        Raises an `Unauthorized`, or `Unavailable` without a key set.
        """
        if known := self.verdicts.get(digest):
            kid, principal = known
            if principal.has_expired:
                del self.verdicts[digest]
            elif kid is None or self.is_usable():
                return principal
        kid, principal = await self.check(token)
        self.verdicts[digest] = (kid, principal)
        if len(self.verdicts) > MAX_VERDICTS:
            self.verdicts.popitem(last=False)
        return principal

    async def check(self, token: str) -> tuple[str | None, Principal]:
        """Check signature and claims; returns the `kid` of the key set that signed it."""
        if token.startswith(("sb_publishable_", "sb_secret_")):
            raise NotAToken(
                "This is a Supabase API key; send the access_token of a user's session."
            )
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise InvalidToken(
                "The token is not a JWT; send the access_token of a session."
            ) from None
        algorithm, kid = header.get("alg"), header.get("kid")
        key: jwt.PyJWK | str
        if algorithm == "HS256" and self.secret:
            key, kid = self.secret, None
        elif algorithm == ALGORITHM and kid in self.known:
            key, kid = self.known[kid], None
        elif algorithm in ASYMMETRIC and self.url and isinstance(kid, str):
            key = await self.find_key(kid)
        else:
            raise InvalidToken("The token is signed in a way that is not accepted here.")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience="authenticated",
                issuer=self.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired("The token has expired; refresh the session.") from None
        except jwt.InvalidTokenError as error:
            raise InvalidToken(f"The token is not accepted: {str(error).rstrip('.')}.") from None
        except (ArithmeticError, ValueError, TypeError, RecursionError):
            raise InvalidToken("The token's claims are not what they should be.") from None
        return kid, as_key(claims) if CLAIM in claims else as_user(claims)

    def is_usable(self) -> bool:
        """Say whether the key set is young enough; fetches an older one anew in the background."""
        age = time.monotonic() - self.fetched_at
        is_due = time.monotonic() - self.tried_at >= UNKNOWN_KID_SECONDS
        is_idle = self.refreshing is None or self.refreshing.done()
        if REFRESH_SECONDS <= age < MAX_AGE_SECONDS and is_due and is_idle:
            self.tried_at = time.monotonic()
            self.refreshing = asyncio.create_task(self.fetch())
        return age < MAX_AGE_SECONDS

    async def find_key(self, kid: str) -> jwt.PyJWK:
        """Return a key of the project's set.

        For an unknown `kid` the set is fetched once a minute, and waited for. Raises `Unavailable`
        when no set of a usable age is at hand.
        """
        if not (self.is_usable() and kid in self.keys):
            async with self.fetching:
                has_set = self.fetched_at > float("-inf")
                pause = UNKNOWN_KID_SECONDS if has_set else RETRY_SECONDS
                now = time.monotonic()
                is_wanted = kid not in self.keys or not self.is_usable()
                if is_wanted and now - self.tried_at >= pause:
                    self.tried_at = now
                    await self.fetch()
        if not self.is_usable():
            raise Unavailable("The project's key set cannot be reached; try again in a moment.")
        if kid not in self.keys:
            raise InvalidToken("The token is signed by a key that the project does not have.")
        return self.keys[kid]

    async def fetch(self) -> None:
        """Fetch the key set; on failure the one at hand stays in use.

        Verdicts of vanished keys are dropped.
        """
        assert self.url is not None
        try:
            found = read_set(await self.download(self.url))
        except (httpx.HTTPError, TimeoutError, ValueError, jwt.PyJWTError) as error:
            log.warning("the key set cannot be fetched", url=self.url, error=reason_of(error))
            return
        finally:
            # The pause begins when the fetch ends, because those who waited for it would else each
            # begin another one.
            self.tried_at = time.monotonic()
        self.keys = found
        self.fetched_at = time.monotonic()
        for digest in [d for d, (kid, _) in self.verdicts.items() if kid and kid not in self.keys]:
            del self.verdicts[digest]

    async def download(self, url: str) -> bytes:
        """Read what a server says, within limits of time and size.

        httpx' own limit is for each piece, of which a slow server may send any number. Raises
        `TimeoutError`, `ValueError` for more than `MAX_SET_BYTES`, and what httpx raises.
        """
        content = bytearray()
        async with asyncio.timeout(FETCH_SECONDS), self.http.stream("GET", url) as response:
            response.raise_for_status()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_SET_BYTES:
                    raise ValueError("too large")
        return bytes(content)


def read_set(content: bytes) -> dict[str, jwt.PyJWK]:
    """Read a key set; one without keys is a set, too. Raises what PyJWT and msgspec raise."""
    document = msgspec.json.decode(content, type=dict)
    if document.get("keys") == []:
        return {}
    return {k.key_id: k for k in jwt.PyJWKSet.from_dict(document).keys if k.key_id}


def is_text(text: str) -> bool:
    """Say whether a text can be encoded; JSON may hold half of a surrogate pair, or NUL."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


class KeyClaim(msgspec.Struct, frozen=True):
    """The key that a token was exchanged for."""

    id: UUID
    prefix: str
    workspace_id: UUID


def end_of(claims: dict[str, object]) -> float:
    """Read `exp` in seconds since 1970; raises `InvalidToken`."""
    expires_at = claims["exp"]
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float):
        raise InvalidToken("The token's exp is not a number.")
    if not expires_at < MAX_EXP:
        raise InvalidToken("The token's exp is out of range.")
    return float(expires_at)


def as_key(claims: dict[str, object]) -> Principal:
    """Read a key's principal from verified claims; the key has yet to be looked up."""
    try:
        found = msgspec.convert(claims[CLAIM], KeyClaim)
        is_ours = claims.get("role") == "authenticated" and claims["sub"] == str(found.id)
    except msgspec.ValidationError:
        is_ours = False
    if not is_ours:
        raise InvalidToken("The token was not exchanged for a key here.")
    return Principal(
        kind="api_key",
        id=str(found.id),
        expires_at=end_of(claims),
        workspace_id=found.workspace_id,
        prefix=found.prefix,
        is_exchanged=True,
    )


def as_user(claims: dict[str, object]) -> Principal:
    """Read a principal from verified claims.

    Never from `user_metadata`, which users write themselves.
    """
    if claims.get("role") != "authenticated":
        raise InvalidToken(
            "The token is not a signed-in user's; send the access_token of a session."
        )
    try:
        user_id = UUID(str(claims["sub"]))
    except ValueError:
        raise InvalidToken("The token's sub is not a user's id.") from None
    email = claims.get("email")
    if isinstance(email, str) and not is_text(email):
        raise InvalidToken("The token's email is not Unicode text.")
    return Principal(
        kind="user",
        id=str(user_id),
        expires_at=end_of(claims),
        email=email if isinstance(email, str) and email else None,
        aal="aal2" if claims.get("aal") == "aal2" else "aal1",
        is_anonymous=claims.get("is_anonymous") is True,
    )
