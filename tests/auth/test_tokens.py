import asyncio
import base64
import contextlib
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.auth import tokens as module
from app.auth.signing import Signer
from app.auth.tokens import Tokens
from app.dev.demo import ISSUER
from app.errors import InvalidToken, NotAToken, TokenExpired, Unavailable
from app.principals import Principal
from app.settings import Settings
from tests.conftest import Callers, TestDatabase, running

UNSIGNED = Signer(None, None)
SECRET = "a shared secret that is long enough for HS256"
USER = str(uuid4())


class SigningKey:
    """A key of the project, and its public half as its key set shows it."""

    def __init__(self, kid: str, algorithm: str = "ES256") -> None:
        self.kid, self.algorithm = kid, algorithm
        self.private: Any
        if algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
            shown = jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            self.private = rsa.generate_private_key(65537, 2048)
            shown = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.public = {**shown, "kid": kid, "alg": algorithm, "use": "sig"}

    def sign(self, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign a user's token; a claim of None is left out."""
        return sign(self.private, self.algorithm, {"kid": self.kid, **(headers or {})}, **claims)


def sign(key: Any, algorithm: str, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """Sign a token as Supabase would, but for the claims that are given."""
    payload = {
        "sub": USER,
        "aud": "authenticated",
        "role": "authenticated",
        "iss": claims.pop("issuer", None),
        "exp": int(time.time()) + 600,
        "email": "user@example.com",
        "aal": "aal2",
        "session_id": "session",
        "is_anonymous": False,
        **claims,
    }
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, key, algorithm, headers)


class Project:
    """A Supabase project's key set on a real server on loopback."""

    def __init__(self) -> None:
        self.keys: Any = []
        self.status = 200
        self.requests = 0
        self.byte_seconds = 0.0
        """How long each byte of the answer takes, for a server that is slow."""
        project = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path == "/auth/v1/.well-known/jwks.json"
                project.requests += 1
                body = msgspec.json.encode(project.document)
                self.send_response(project.status if found else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if project.byte_seconds:
                    with contextlib.suppress(OSError):  # nobody waits for the end
                        for byte in body:
                            self.wfile.write(bytes([byte]))
                            time.sleep(project.byte_seconds)
                    return
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.document: Any = {"keys": self.keys}
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.issuer = f"{self.url}/auth/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def has(self, *keys: SigningKey) -> None:
        """Show these keys from now on."""
        self.document = {"keys": [k.public for k in keys]}

    def close(self) -> None:
        """Be unreachable."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which key sets are fetched."""
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def project() -> Iterator[Project]:
    """A project without keys yet."""
    made = Project()
    yield made
    if made.thread.is_alive():
        made.close()


@pytest.fixture(scope="module")
def keys() -> list[SigningKey]:
    """Keys to sign with; made once, as RSA takes its time."""
    return [SigningKey("es"), SigningKey("rs", "RS256"), SigningKey("rotated")]


def settings(project: Project, **others: Any) -> Settings:
    url = "postgresql://localhost/annex"
    return Settings(database_url=url, worker_database_url=url, supabase_url=project.url, **others)


@pytest.fixture
async def tokens(
    project: Project,
    clock: Clock,
    keys: list[SigningKey],
) -> AsyncIterator[Tokens]:
    """Verifies tokens of the project, which has one key of each kind."""
    project.has(*keys[:2])
    async with httpx.AsyncClient() as http:
        yield Tokens(settings(project), http, UNSIGNED)


async def verify(tokens: Tokens, token: str) -> Principal:
    """Verify a token by itself."""
    return await tokens.verify(token, hashlib.sha256(token.encode()).digest())


@pytest.mark.parametrize("n", [0, 1], ids=["ES256", "RS256"])
async def test_a_token_of_the_projects_key_is_a_user(
    tokens: Tokens, project: Project, keys: list[SigningKey], n: int
) -> None:
    user = await verify(tokens, keys[n].sign(iss=project.issuer))
    assert (user.name, user.email, user.aal, user.is_anonymous) == (
        f"user:{USER}",
        "user@example.com",
        "aal2",
        False,
    )


async def test_user_metadata_gives_no_rights(
    tokens: Tokens, project: Project, keys: list[SigningKey]
) -> None:
    told = {"role": "service_role", "email": "root@example.com", "aal": "aal2"}
    user = await verify(tokens, keys[0].sign(iss=project.issuer, aal="aal1", user_metadata=told))
    assert (user.email, user.aal, user.kind) == ("user@example.com", "aal1", "user")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "anon"},
        {"aud": None},
        {"iss": "https://elsewhere.example/auth/v1"},
        {"iss": None},
        {"sub": None},
        {"sub": "nobody"},
        {"exp": None},
        {"role": "service_role"},
        {"role": "anon"},
        {"role": None},
        {"nbf": 4_000_000_000},
    ],
    ids=str,
)
async def test_a_claim_that_is_not_right_is_refused(
    tokens: Tokens, project: Project, keys: list[SigningKey], claims: dict[str, Any]
) -> None:
    with pytest.raises(InvalidToken):
        await verify(tokens, keys[0].sign(**{"iss": project.issuer, **claims}))


async def test_clocks_may_differ_by_the_leeway(
    tokens: Tokens, project: Project, keys: list[SigningKey]
) -> None:
    now, leeway = int(time.time()), module.LEEWAY_SECONDS
    differing: list[dict[str, Any]] = [{"exp": now - leeway + 10}, {"nbf": now + leeway - 10}]
    for claims in differing:
        assert (await verify(tokens, keys[0].sign(iss=project.issuer, **claims))).kind == "user"
    with pytest.raises(TokenExpired):
        await verify(tokens, keys[0].sign(iss=project.issuer, exp=now - leeway - 1))
    with pytest.raises(InvalidToken):
        await verify(tokens, keys[0].sign(iss=project.issuer, nbf=now + leeway + 10))


def with_header(token: str, header: bytes) -> str:
    """Replace a token's header."""
    return ".".join([base64.urlsafe_b64encode(header).decode().rstrip("="), *token.split(".")[1:]])


async def test_a_signature_by_another_key_is_refused(tokens: Tokens, project: Project) -> None:
    forged = SigningKey("es").sign(iss=project.issuer)
    with pytest.raises(InvalidToken):
        await verify(tokens, forged)


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg": "none", "kid": "es"}',
        b'{"alg": "HS256", "kid": "es"}',
        b'{"alg": "RS256", "kid": "es"}',
        b'{"alg": "ES512", "kid": "es"}',
        b'{"alg": ["ES256"], "kid": "es"}',
        b'{"alg": {"ES256": 1}, "kid": "es"}',
        b'{"alg": "ES256"}',
        b'{"alg": "ES256", "kid": 1}',
        b'{"kid": "es"}',
        b"{}",
        b"[]",
        b"no JSON",
        b"\xff",
        b"[" * 20_000,
    ],
    ids=range(14),
)
async def test_a_header_that_is_not_right_is_refused(
    tokens: Tokens, project: Project, keys: list[SigningKey], header: bytes
) -> None:
    with pytest.raises(InvalidToken):
        await verify(tokens, with_header(keys[0].sign(iss=project.issuer), header))


@pytest.mark.parametrize("token", ["x", "a.b.c", "....", "é.é.é", "eyJhbGciOiJFUzI1NiJ9"])
async def test_what_is_no_jwt_is_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(InvalidToken):
        await verify(tokens, token)


@pytest.mark.usefixtures("clock")
async def test_a_public_key_is_no_shared_secret(project: Project, keys: list[SigningKey]) -> None:
    project.has(keys[1])
    async with httpx.AsyncClient() as http:
        tokens = Tokens(settings(project, jwt_secret=SECRET), http, UNSIGNED)
        forged = sign(keys[1].public["n"], "HS256", {"kid": "rs"}, iss=project.issuer)
        with pytest.raises(InvalidToken):
            await verify(tokens, forged)


@pytest.mark.parametrize("secret", [SECRET, None])
async def test_hs256_is_taken_only_with_a_secret_in_the_settings(
    project: Project, secret: str | None
) -> None:
    async with httpx.AsyncClient() as http:
        tokens = Tokens(settings(project, jwt_secret=secret), http, UNSIGNED)
        token = sign(SECRET, "HS256", {"kid": "legacy"}, iss=project.issuer)
        if secret:
            assert (await verify(tokens, token)).id == USER
        else:
            with pytest.raises(InvalidToken):
                await verify(tokens, token)
    assert project.requests == 0


@pytest.mark.parametrize("key", ["sb_publishable_abc", "sb_secret_abc"])
async def test_a_supabase_api_key_is_told_from_a_token(tokens: Tokens, key: str) -> None:
    with pytest.raises(NotAToken, match="access_token"):
        await verify(tokens, key)


async def test_a_new_key_is_taken_as_soon_as_a_token_names_it(
    tokens: Tokens, project: Project, clock: Clock, keys: list[SigningKey]
) -> None:
    await verify(tokens, keys[0].sign(iss=project.issuer))
    project.has(*keys)
    clock.now += module.UNKNOWN_KID_SECONDS
    assert (await verify(tokens, keys[2].sign(iss=project.issuer))).id == USER
    assert project.requests == 2


async def test_unknown_keys_make_one_request_a_minute(
    tokens: Tokens, project: Project, clock: Clock
) -> None:
    forged = [SigningKey(f"forged-{n}").sign(iss=project.issuer) for n in range(3)]
    for expected in (1, 2):
        answers = await asyncio.gather(
            *(verify(tokens, t) for t in forged * 3), return_exceptions=True
        )
        assert {type(a) for a in answers} == {InvalidToken}
        assert project.requests == expected
        clock.now += module.UNKNOWN_KID_SECONDS


async def test_the_key_set_is_fetched_again_after_a_while(
    tokens: Tokens, project: Project, clock: Clock, keys: list[SigningKey]
) -> None:
    token = keys[0].sign(iss=project.issuer)
    for passed, requests in ((0, 1), (module.REFRESH_SECONDS - 1, 1), (1, 2), (1, 2)):
        clock.now += passed
        await verify(tokens, token)
        if tokens.refreshing:
            await tokens.refreshing
        assert project.requests == requests


async def test_a_set_without_keys_is_a_set(
    tokens: Tokens, project: Project, keys: list[SigningKey]
) -> None:
    project.has()
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await verify(tokens, keys[0].sign(iss=project.issuer))
    assert project.requests == 1


async def test_a_vanished_key_takes_its_verdicts_along(
    tokens: Tokens, project: Project, clock: Clock, keys: list[SigningKey]
) -> None:
    old, other = (k.sign(iss=project.issuer) for k in keys[:2])
    await verify(tokens, old)
    await verify(tokens, other)
    project.has(keys[1], keys[2])
    clock.now += module.UNKNOWN_KID_SECONDS
    await verify(tokens, keys[2].sign(iss=project.issuer))
    with pytest.raises(InvalidToken):
        await verify(tokens, old)
    assert (await verify(tokens, other)).id == USER


async def test_a_token_is_verified_once(
    tokens: Tokens, project: Project, keys: list[SigningKey]
) -> None:
    token = keys[0].sign(iss=project.issuer)
    assert await verify(tokens, token) is await verify(tokens, token)


async def test_a_verdict_ends_with_its_token(
    tokens: Tokens, project: Project, keys: list[SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = keys[0].sign(iss=project.issuer)
    await verify(tokens, token)
    monkeypatch.setattr(module, "LEEWAY_SECONDS", -700)
    assert (await verify(tokens, token)).id == USER
    monkeypatch.setattr("app.principals.time.time", lambda: time.monotonic() + 10**10)
    with pytest.raises(TokenExpired):
        await verify(tokens, token)


async def test_verdicts_are_bounded(
    tokens: Tokens, project: Project, keys: list[SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_VERDICTS", 3)
    for n in range(5):
        await verify(tokens, keys[0].sign(iss=project.issuer, session_id=str(n)))
    assert len(tokens.verdicts) == 3


async def test_a_refused_token_leaves_no_verdict(tokens: Tokens, keys: list[SigningKey]) -> None:
    with pytest.raises(InvalidToken):
        await verify(tokens, keys[0].sign(iss="https://elsewhere.example"))
    assert not tokens.verdicts


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, {"keys": []}),
        (200, {"keys": 5}),
        (200, {"keys": [5]}),
        (200, []),
        (200, None),
        (200, {"message": "no such route"}),
    ],
)
async def test_a_key_set_that_cannot_be_read_is_unavailable(
    tokens: Tokens, project: Project, keys: list[SigningKey], status: int, document: Any
) -> None:
    project.status, project.document = status, document
    with pytest.raises(Unavailable):
        await verify(tokens, keys[0].sign(iss=project.issuer))


async def test_a_key_set_that_comes_byte_by_byte_is_given_up(
    tokens: Tokens, project: Project, keys: list[SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH_SECONDS", 0.5)
    project.byte_seconds = 0.05  # some 200 bytes
    with pytest.raises(Unavailable):
        await verify(tokens, keys[0].sign(iss=project.issuer))
    project.byte_seconds = 0.0


async def test_a_key_set_without_an_end_is_given_up(
    tokens: Tokens, project: Project, keys: list[SigningKey]
) -> None:
    project.document["padding"] = "x" * module.MAX_SET_BYTES
    with pytest.raises(Unavailable):
        await verify(tokens, keys[0].sign(iss=project.issuer))


async def test_an_unreachable_key_set_is_tried_again_soon(
    tokens: Tokens, project: Project, clock: Clock, keys: list[SigningKey]
) -> None:
    token = keys[0].sign(iss=project.issuer)
    project.status = 503
    for _ in range(2):
        with pytest.raises(Unavailable):
            await verify(tokens, token)
    assert project.requests == 1
    project.status = 200
    clock.now += module.RETRY_SECONDS
    assert (await verify(tokens, token)).id == USER


async def test_those_who_wait_for_a_key_set_that_does_not_come_share_one_try(
    project: Project, clock: Clock, keys: list[SigningKey]
) -> None:
    tries = 0

    class Silent(httpx.AsyncClient):
        async def send(self, *_: Any, **__: Any) -> Any:
            nonlocal tries
            tries += 1
            await asyncio.sleep(0)
            clock.now += 5
            raise httpx.ReadTimeout("no answer")

    async with Silent() as http:
        tokens = Tokens(settings(project), http, UNSIGNED)
        waiting = [verify(tokens, keys[0].sign(iss=project.issuer)) for _ in range(6)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(a) for a in answers} == {Unavailable}
    assert tries == 1


async def test_known_keys_outlive_an_outage(
    tokens: Tokens, project: Project, clock: Clock, keys: list[SigningKey]
) -> None:
    await verify(tokens, keys[0].sign(iss=project.issuer))
    project.status = 503
    clock.now += module.REFRESH_SECONDS
    assert (await verify(tokens, keys[1].sign(iss=project.issuer))).id == USER


async def test_over_http_an_unreachable_key_set_is_503_and_a_bad_token_401(
    own_database: TestDatabase, project: Project, keys: list[SigningKey]
) -> None:
    project.close()
    async with running(own_database, supabase_url=project.url) as live:
        callers = Callers(live)
        unknown = callers.client(keys[0].sign(iss=ISSUER))
        unavailable = await unknown.get("/api/v1/workspaces")
        refused = await callers.client("sb_secret_x").get("/api/v1/workspaces")
        await callers.close()
    assert (unavailable.status_code, unavailable.json()["code"]) == (503, "unavailable")
    assert (refused.status_code, refused.json()["code"]) == (401, "not_a_token")
    assert refused.headers["www-authenticate"].startswith("Bearer")
