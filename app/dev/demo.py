"""Demo data and development secrets: what `annex dev` prints and leaves in `dev.json`."""

import secrets
import shlex
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from jwt.algorithms import ECAlgorithm

from app.auth.keys import Key
from app.dev import DevError
from app.settings import (
    Settings,
    SettingsError,
    environment,
    mistakes,
    read_given,
    read_settings,
)

ISSUER = "annex-dev"
SOMEWHERE = "postgresql://localhost/annex"
"""Of settings with which nothing is opened."""
# What `annex dev` decides itself, whatever the environment says.
OWN = {"database_url", "worker_database_url", "transaction_pooler", "environment"}
TOKEN_SECONDS = 24 * 3600
WORKSPACE = {"id": "0190a000-0000-7000-8000-0000000000aa", "slug": "acme"}
USERS = {
    name: {"id": f"0190a000-0000-7000-8000-00000000000{n}", "email": f"{name}@example.com"}
    for n, name in enumerate(("owner", "member", "stranger"), start=1)
}


class Secrets(msgspec.Struct, frozen=True):
    """The secrets of one data folder, drawn once, readable by its owner only."""

    secret_key: str
    jwt_secret: str
    api_key: str
    operator_key: str
    signing_key: str | None = None
    """A JWK; none in folders that were drawn before keys could be exchanged."""

    @classmethod
    def of(cls, data: Path) -> "Secrets":
        """Read a data folder's secrets; draws them the first time."""
        file = data / "secrets.json"
        if file.exists():
            return msgspec.json.decode(file.read_bytes(), type=cls)
        drawn = cls(
            secrets.token_urlsafe(32),
            secrets.token_urlsafe(32),
            str(Key.make("sk")),
            str(Key.make("op")),
            new_signing_key(),
        )
        data.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")  # whole or not at all
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.encode(drawn))
        new.replace(file)
        return drawn


def new_signing_key() -> str:
    """Draw a private JWK, as `supabase gen signing-key --algorithm ES256` does."""
    private = ECAlgorithm.to_jwk(generate_private_key(SECP256R1()), as_dict=True)
    return msgspec.json.encode({**private, "kid": str(uuid4()), "alg": "ES256"}).decode()


def local_settings(
    drawn: Secrets, api_url: str = SOMEWHERE, worker_url: str = SOMEWHERE
) -> Settings:
    """Make the settings of `annex dev`: the demo's, under what the environment and `.env` set.

    The database is the embedded one, and it stays a development server. Raises `SettingsError`.
    """
    read, wrong = read_given(environment())
    if wrong:
        raise SettingsError("\n".join(wrong))
    given = {k: v for k, v in read.items() if k not in OWN}
    given.setdefault("log_level", "warning")
    demo = demo_settings(drawn, api_url, worker_url)
    given["operator_key_hashes"] = [
        *demo.operator_key_hashes,
        *given.get("operator_key_hashes", []),
    ]
    settings = msgspec.structs.replace(demo, **given)
    if unusable := [*mistakes(settings, environment())]:
        raise SettingsError("\n".join(unusable))
    return settings


def demo_settings(drawn: Secrets, api_url: str, worker_url: str, **others: Any) -> Settings:
    """Make the settings of a development server."""
    return Settings(
        database_url=api_url,
        worker_database_url=worker_url,
        environment="development",
        secret_key=drawn.secret_key,
        jwt_secret=drawn.jwt_secret,
        jwt_issuer=ISSUER,
        operator_key_hashes=[Key.read(drawn.operator_key).hash.hex()],
        **{"signing_key": drawn.signing_key, **others},
    )


async def seed(admin_url: str, role: str, demo_data: str, api_key: Key) -> None:
    """Run the demo data's SQL and add the demo key; what is there already stays."""
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(f"set role {role}")
        await connection.execute(demo_data)
        await connection.execute("set role annex_owner")
        await connection.execute(
            "insert into annex.api_keys (workspace_id, name, prefix, secret_hash, permissions)"
            " values ($1, 'Demo', $2, $3, $4) on conflict (prefix) do nothing",
            WORKSPACE["id"],
            api_key.prefix,
            api_key.hash,
            ["workspace:read", "members:read", "events:read", "events:publish", "events:audit"],
        )
    finally:
        await connection.close()


def mint_token(
    settings: Settings,
    user_id: str,
    email: str | None = None,
    *,
    seconds: int = TOKEN_SECONDS,
    **claims: Any,
) -> str:
    """Sign an access token as Supabase would, with the HS256 secret of the settings."""
    if settings.jwt_secret is None:
        raise DevError("ANNEX_JWT_SECRET is not set; only Supabase can sign this project's tokens.")
    now = int(time.time())
    payload: dict[str, Any] = {
        "sub": user_id,
        "aud": "authenticated",
        "role": "authenticated",
        "aal": "aal1",
        "is_anonymous": False,
        "iat": now,
        "exp": now + seconds,
        **({"email": email} if email else {}),
        **({"iss": settings.issuer} if settings.issuer else {}),
        **claims,
    }
    return jwt.encode(payload, settings.jwt_secret, "HS256")


def facts(settings: Settings, drawn: Secrets, url: str) -> dict[str, Any]:
    """Collect what scripts need of a running development server; the content of `dev.json`."""
    return {
        "url": url,
        "database_url": settings.database_url,
        "worker_database_url": settings.worker_database_url,
        "workspace": WORKSPACE,
        "users": {
            name: {**user, "token": mint_token(settings, user["id"], user["email"])}
            for name, user in USERS.items()
        },
        "api_key": drawn.api_key,
        "operator_key": drawn.operator_key,
    }


def json_text(found: dict[str, Any]) -> str:
    """Write the facts for programs: `dev.json`."""
    return msgspec.json.format(msgspec.json.encode(found)).decode()


def shell_lines(found: dict[str, Any]) -> str:
    """Write the facts that examples need for a shell: `dev.env`, read with `. .data/dev.env`."""
    named = {
        "ANNEX_URL": found["url"],
        "ANNEX_WORKSPACE": found["workspace"]["slug"],
        "ANNEX_KEY": found["api_key"],
        "ANNEX_TOKEN": found["users"]["owner"]["token"],
        "ANNEX_PSQL": admin_url(found),
    }
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in named.items())


def admin_url(found: dict[str, Any]) -> str:
    """Return the embedded database's URL for a person, who may do anything there."""
    url: str = found["database_url"]
    return url.replace("annex_api", "postgres", 1)


def token_settings(data: Path) -> Settings:
    """Find the settings to sign a token with: those of `annex dev` in a data folder, else the
    environment's.

    Raises `DevError` when neither is there, `SettingsError` for a setting that is not usable.
    """
    if (data / "secrets.json").exists():
        return local_settings(Secrets.of(data))
    try:
        return read_settings()
    except SettingsError:
        raise DevError(
            f"There are no secrets in {data}; run `annex dev --data {data}` first."
        ) from None


def greeting(found: dict[str, Any]) -> str:
    """Write what a newcomer sees first: where things are, and lines to paste."""
    url, key, token = found["url"], found["api_key"], found["users"]["owner"]["token"]
    stream = f"{url}/api/v1/workspaces/acme/stream"
    events = f"{url}/api/v1/workspaces/acme/events"
    server, user = (f"-H 'Authorization: Bearer {c}'" for c in (key, token))
    json = "-H 'Content-Type: application/json'"
    body = """'{"type": "invoice.paid", "data": {"total": 42}, "topics": ["project:1"]}'"""
    return f"""
Annex is up.

  API       {url}/api/v1          contract  {url}/openapi.yaml
  Docs      {url}/docs#token={token}
  Live      {url}/live#workspace={found["workspace"]["slug"]}&token={key}
  Postgres  psql '{admin_url(found)}'

  Owner's token  {token}
  API key        {key}

Follow the workspace acme live, in a second terminal:

  curl -N {server} '{stream}'

Publish an event, and see it arrive there:

  curl {server} {json} -d {body} {events}

List what happened, newest first:

  curl {server} '{events}?types=invoice.*&limit=5'

Who you are, and a workspace of your own:

  curl {user} {url}/api/v1/me

  curl {user} {json} -d '{{"name": "Globex"}}' {url}/api/v1/workspaces

A fresh token, also for `member` and `stranger` (the command lives in .venv/bin):

  .venv/bin/annex token owner

Ctrl-C stops everything; the data stays (--fresh starts over).
"""
