"""What the environment decides; read once, checked before anything starts."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from dotenv import dotenv_values
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

PREFIX = "ANNEX_"
DEVELOPMENT_SECRET = "for development only, never in production"
# Supabase's CLI gives every local project the same secret.
PUBLIC_SECRETS = {DEVELOPMENT_SECRET, "super-secret-jwt-token-with-at-least-32-characters-long"}


class SettingsError(Exception):
    """A setting is missing or wrong; the text says which, and what to do."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, named as in the environment without `ANNEX_` and in lower case."""

    database_url: str
    """Connects as `annex_api`; serves requests under row level security."""
    worker_database_url: str
    """Connects as `annex_worker`; follows the log."""
    transaction_pooler: bool = False
    """Both URLs lead through a pooler that gives a connection another server each transaction."""
    environment: Literal["development", "production"] = "production"
    supabase_url: str | None = None
    """`https://<ref>.supabase.co`: its key set verifies users' tokens."""
    jwt_secret: str | None = None
    """Verifies HS256 tokens; only for projects that still sign with a shared secret."""
    jwt_issuer: str | None = None
    """The tokens' `iss`; without it, `<supabase_url>/auth/v1`."""
    secret_key: str = DEVELOPMENT_SECRET
    """At least 32 characters; encrypts cursors and signs stream tickets.

    Changing it resets open streams.
    """
    operator_key_hashes: list[str] = []
    """SHA-256 of each `annex_op_…` key, in hex, separated by commas."""
    cors_origins: list[str] = []
    """Origins whose pages may call the API, separated by commas."""
    pool_size: Annotated[int, msgspec.Meta(ge=1, le=200)] = 10
    """Connections of one process for requests."""
    max_streams: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Streams that one process holds open at once; who comes then is told to come back later."""
    rate_limit_requests: Annotated[int, msgspec.Meta(ge=1)] = 1200
    """Requests that one caller may make in a window, across all processes."""
    rate_limit_window_seconds: Annotated[int, msgspec.Meta(ge=1)] = 60
    processes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many `annex serve` share the rate limit; each divides its part among its workers."""
    event_retention_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] | None = None
    """Days after which the worker deletes events, of every workspace.

    Without it they stay, except where a workspace has its own limit.
    """
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def issuer(self) -> str | None:
        """The issuer that a user's token must name."""
        if self.jwt_issuer or not self.supabase_url:
            return self.jwt_issuer
        return f"{self.supabase_url.rstrip('/')}/auth/v1"

    @property
    def is_development(self) -> bool:
        return self.environment == "development"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `.env`, when there is one, and the environment, which wins.

    Raises `SettingsError` with one sentence that says what to set.
    """
    given = read_given(environ)
    for field in msgspec.structs.fields(Settings):
        if field.required and field.name not in given:
            raise SettingsError(
                f"{PREFIX}{field.name.upper()} is not set; see .env.example, or run `annex dev` "
                "for a server that needs no settings."
            )
    settings = convert(given)
    check(settings)
    return settings


def read_given(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read what is set in `.env` and the environment, which wins; unchecked."""
    if environ is None:
        dotenv = {k: v for k, v in dotenv_values(Path(".env")).items() if v is not None}
        environ = {**dotenv, **os.environ}
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        if value := environ.get(PREFIX + field.name.upper()):
            is_list = field.type == list[str]
            given[field.name] = [v.strip() for v in value.split(",")] if is_list else value
    return given


def convert(given: Mapping[str, Any]) -> Settings:
    """Make settings of texts; raises `SettingsError` that names the wrong one."""
    try:
        return msgspec.convert(dict(given), Settings, strict=False)
    except msgspec.ValidationError as error:
        detail, _, where = str(error).partition(" - at `$.")
        name = PREFIX + where.rstrip("`").split("[")[0].upper()
        raise SettingsError(f"{name} is not usable: {detail[0].lower()}{detail[1:]}.") from None


def check(settings: Settings) -> None:
    """Refuse settings that are unsafe or cannot work; raises `SettingsError`."""
    for name, value in (
        ("DATABASE_URL", settings.database_url),
        ("WORKER_DATABASE_URL", settings.worker_database_url),
    ):
        if database_url(name, value).port == 6543 and not settings.transaction_pooler:
            raise SettingsError(
                f"{PREFIX}{name} is on port 6543, Supabase's transaction pooler; set "
                f"{PREFIX}TRANSACTION_POOLER=true, or take port 5432."
            )
    if not settings.supabase_url and not settings.jwt_secret:
        raise SettingsError(
            "ANNEX_SUPABASE_URL is not set, so no user's token could be verified; set it to "
            "https://<ref>.supabase.co."
        )
    for value in settings.operator_key_hashes:
        if len(value) != 64 or not all(c in "0123456789abcdef" for c in value):
            raise SettingsError(
                "ANNEX_OPERATOR_KEY_HASHES takes SHA-256 hashes of 64 hex digits; "
                "`annex operator-key` makes a key and its hash."
            )
    if settings.is_development:
        return
    if not settings.issuer:
        raise SettingsError(
            "ANNEX_SUPABASE_URL or ANNEX_JWT_ISSUER must name who issues the tokens."
        )
    if settings.secret_key in PUBLIC_SECRETS or len(settings.secret_key) < 32:
        raise SettingsError(
            "ANNEX_SECRET_KEY is the development default or shorter than 32 characters; set one "
            "of your own, such as the output of `openssl rand -base64 32`."
        )
    if settings.jwt_secret is not None and (
        settings.jwt_secret in PUBLIC_SECRETS or len(settings.jwt_secret) < 32
    ):
        raise SettingsError(
            "ANNEX_JWT_SECRET is a publicly known default or shorter than 32 characters; take your "
            "project's own from its dashboard."
        )


def database_url(name: str, value: str) -> URL:
    """Read a libpq-style URL; a driver that its scheme names is left out.

    Raises `SettingsError` naming the setting.
    """
    try:
        url = make_url(value)
        scheme = url.drivername.split("+")[0]
    except ArgumentError:
        scheme = ""
    if scheme not in ("postgresql", "postgres"):
        raise SettingsError(
            f"{PREFIX}{name} is not a Postgres URL; write postgresql://user:password@host:5432/database."
        )
    return url.set(drivername="postgresql")
