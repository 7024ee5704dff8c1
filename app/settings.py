"""What the environment decides; read once, checked before anything starts."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.setting_values import (
    FORWARDED_FOR,
    address_header,
    api_url,
    complaint,
    normal_origin,
    page_url,
    project_url,
    proxy,
    read_dotenv,
    read_signing_key,
    sender,
    smtp_url,
)

PREFIX = "ANNEX_"
MIGRATE_URL = "ANNEX_MIGRATE_URL"
"""What `annex install`, `annex migrate` and `annex uninstall` read; servers do not."""
OTHER_NAMES = {
    MIGRATE_URL,
    # What `annex dev` writes into dev.env.
    "ANNEX_URL", "ANNEX_WORKSPACE", "ANNEX_KEY", "ANNEX_TOKEN", "ANNEX_PSQL",
    # Of programs that call Annex, which may read the same .env.
    "ANNEX_API_URL", "ANNEX_PUBLIC_API_URL", "ANNEX_API_PUBLIC_URL",
    # Of tests.
    "ANNEX_TEST_POSTGRES", "ANNEX_FAIL_ON_SKIP",
}  # fmt: skip
"""Names that are no settings of a server and not mistaken for one."""
ALIKE = 0.8
"""How like a setting's a name must be to be taken for a misspelling; 1 is the same."""
DEVELOPMENT_SECRET = "for development only, never in production"
# Supabase's CLI gives every local project the same secret.
PUBLIC_SECRETS = {DEVELOPMENT_SECRET, "super-secret-jwt-token-with-at-least-32-characters-long"}

LIBPQ_WORDS = {
    "host", "port", "dbname", "user", "password",
    "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "target_session_attrs",
}  # fmt: skip
LIBPQ_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
LIBPQ_HINTS = {
    "pgbouncer": "take it out and set ANNEX_TRANSACTION_POOLER=true for a transaction pooler",
    "connect_timeout": "take it out; a connection is given up after 5 s",
    "channel_binding": "only prefer and disable work here",
    "gssencmode": "only prefer and disable work here",
    "options": "take it out; what a role needs is set on the role (ALTER ROLE … SET …)",
    "application_name": "take it out; Annex calls itself annex",
}
DROPPED = {"channel_binding": ("prefer", "disable"), "gssencmode": ("prefer", "disable")}
"""Words whose values leave nothing to do."""


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
    """At least 32 characters; encrypts cursors and stream tickets.

    A new one ends every ticket, and every reader with a cursor is reset.
    """
    signing_key: str | None = None
    """A private JWK (ES256, with its `kid`) that was imported into the Supabase project.

    Signs the tokens that API keys are exchanged for; without it none is.
    """
    operator_key_hashes: list[str] = []
    """SHA-256 of each `annex_op_…` key, in hex, separated by commas."""
    cors_origins: list[str] = []
    """Origins whose pages may call the API, separated by commas."""
    pool_size: Annotated[int, msgspec.Meta(ge=1, le=200)] = 10
    """Connections of one process for requests."""
    slow_query_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    """A statement that takes longer is a line in the log, without its parameters; 0: none is."""
    max_statements_per_principal: Annotated[int, msgspec.Meta(ge=1)] = 8
    """Of those connections, at most so many serve one principal at once; never all of them."""
    max_streams: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Streams that one process holds open at once; a further reader is told to come back later."""
    rate_limit_requests: Annotated[int, msgspec.Meta(ge=1)] = 1200
    """Requests that one caller may make in a window, across all processes."""
    rate_limit_window_seconds: Annotated[int, msgspec.Meta(ge=1)] = 60
    rate_limit_workspace_requests: Annotated[int, msgspec.Meta(ge=1)] = 6000
    """The same, of all API keys of one workspace together."""
    processes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many `annex serve` share the database and each limit; `--workers` divides its part."""
    trusted_proxies: list[str] = []
    """Addresses or CIDR blocks of proxies that are believed which address a client has."""
    client_address_header: str = FORWARDED_FOR
    """Where they say so; every one of them must set or extend this header."""
    max_failures_per_address: Annotated[int, msgspec.Meta(ge=1)] = 60
    """Refused credentials of one client address in a minute."""
    max_connections_per_address: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Connections of one client address; more than its streams, as requests need some, too."""
    max_header_bytes: Annotated[int, msgspec.Meta(ge=4096, le=1_048_576)] = 65_536
    header_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10
    """A request's headers must have arrived after these."""
    body_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30
    """A request's body must have arrived after these, counted while the server reads."""
    body_bytes_per_second: Annotated[int, msgspec.Meta(ge=0)] = 1024
    """A body that arrives more slowly is refused."""
    max_held_bytes_per_address: Annotated[int, msgspec.Meta(ge=2_097_152)] = 33_554_432
    """Bytes of bodies, each above 16 KiB, of one client address' requests that are not answered."""
    max_held_bytes: Annotated[int, msgspec.Meta(ge=2_097_152)] = 134_217_728
    """The same, of all requests of one process."""
    answer_bytes_per_second: Annotated[int, msgspec.Meta(ge=0)] = 1024
    """A client that takes an answer or a stream more slowly is cut off; 0: none is."""
    keep_alive_seconds: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 65
    """A connection without a request stays open so long; longer than a proxy before it keeps it."""
    stop_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0
    """How long a process that is told to stop goes on serving while it is no longer ready."""
    max_streams_per_principal: Annotated[int, msgspec.Meta(ge=1)] = 20
    max_streams_per_workspace: Annotated[int, msgspec.Meta(ge=1)] = 2000
    max_streams_per_address: Annotated[int, msgspec.Meta(ge=1)] = 200
    max_filters_per_workspace: Annotated[int, msgspec.Meta(ge=1)] = 200
    """Different filters of one workspace's open streams."""
    max_events_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 6000
    """Events that one workspace publishes over HTTP in a minute."""
    max_event_bytes_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 16_777_216
    """Bytes of the bodies of those requests."""
    max_kept_answer_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1_073_741_824
    """Bytes of answers that are kept for one caller's idempotency keys in 24 hours."""
    event_retention_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] | None = None
    """Days after which the worker deletes events, of every workspace.

    Without it they stay, except where a workspace has its own limit.
    """
    workspace_grace_days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 30
    """Days after which the worker deletes a workspace that was deleted, with all but its events."""
    closed_days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 90
    """Days after which the worker deletes invitations and keys that are over."""
    notification_retention_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 365
    """Days after which the worker deletes notifications, in any state but snoozed."""
    app_url: str | None = None
    """The page of your own application on which users accept: links are this URL and a token."""
    smtp_url: str | None = None
    """`smtps://user:password@host`, `smtp+starttls://…` or `smtp://…`; none: no mails."""
    mail_from: str | None = None
    """The sender of every mail, `Acme <no-reply@example.com>`."""
    mail_templates: str | None = None
    """A folder whose files take the place of Annex's own templates."""
    max_mails_per_workspace: Annotated[int, msgspec.Meta(ge=1)] = 500
    """Invitations that one workspace may mail in 24 hours."""
    max_mails_per_address: Annotated[int, msgspec.Meta(ge=1)] = 10
    """Mails of one kind that one mailbox gets in 24 hours, of all workspaces.

    More invitations wait; more notifications are not mailed.
    """
    public_url: str | None = None
    """This API's own URL, to which links that end mails lead; without it no notification is mailed.
    """
    notification_mail_seconds: Annotated[int, msgspec.Meta(ge=120, le=604_800)] = 600
    """A notification that was not read after these is mailed."""
    max_notification_mails_per_workspace: Annotated[int, msgspec.Meta(ge=0)] = 5000
    """Notifications that one workspace may mail in 24 hours; more are not mailed."""
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

    Raises `SettingsError` with one sentence for each setting that is missing or wrong.
    """
    environ = environment() if environ is None else environ
    given, wrong = read_given(environ)
    for field in msgspec.structs.fields(Settings):
        name = PREFIX + field.name.upper()
        if field.required and not environ.get(name):
            wrong.append(
                f"{name} is not set; see .env.example, or run `annex dev` for a server that needs "
                "no settings."
            )
    # What could not be read is not judged a second time.
    defaults = {"database_url": "postgresql://", "worker_database_url": "postgresql://"}
    settings = Settings(**{**defaults, **given})
    wrong += mistakes(settings, environ)
    if wrong:
        raise SettingsError("\n".join(wrong))
    return settings


def environment() -> dict[str, str]:
    """Return what is set in `.env` and in the environment, which wins.

    Raises `SettingsError` for a `.env` that is a folder, or no text.
    """
    try:
        return {**read_dotenv(Path(".env")), **os.environ}
    except ValueError as error:
        raise SettingsError(f".env cannot be used: {error}.") from None


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each name that is almost that of a setting that is not set.

    No value is in it. Other names may be somebody else's: Kubernetes adds its own for a service.
    """
    known = {PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)}
    wanted = {n.removeprefix(PREFIX): n for n in known | {MIGRATE_URL} if not environ.get(n)}
    said = []
    for name in sorted(n for n in environ.keys() - known - OTHER_NAMES if environ[n]):
        if name.upper().startswith(PREFIX):
            bare = name.upper().removeprefix(PREFIX)
            for found in get_close_matches(bare, wanted, n=1, cutoff=ALIKE):
                said.append(f"{name} is no setting of Annex; did you mean {wanted[found]}?")
    return said


def read_given(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Read what is set; returns the values, and a sentence for each that is not usable."""
    given, wrong = dict[str, Any](), list[str]()
    for field in msgspec.structs.fields(Settings):
        name = PREFIX + field.name.upper()
        if not (value := environ.get(name)):
            continue
        try:
            given[field.name] = read_value(field, value)
        except msgspec.ValidationError as error:
            wrong.append(f"{name} is not usable: {complaint(error, field.type)}.")
        except ValueError as error:
            wrong.append(f"{name} is not usable: {error}.")
    return given, wrong


def read_value(field: Any, value: str) -> Any:
    """Read one setting; raises `ValidationError`, or `ValueError` with what is wrong."""
    if field.type == list[str]:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        read = {"cors_origins": normal_origin, "trusted_proxies": proxy}.get(field.name, str)
        return [read(part) for part in parts]
    reader = {
        "client_address_header": address_header,
        "supabase_url": project_url,
        "app_url": page_url,
        "public_url": api_url,
        "smtp_url": smtp_url,
        "mail_from": sender,
    }.get(field.name)
    if reader is not None:
        return reader(value)
    if field.type is int and not value.isascii():
        raise ValueError("write digits")
    return msgspec.convert(value, field.type, strict=False)


def mistakes(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each setting that is unsafe or cannot work."""
    for name, value in (
        ("DATABASE_URL", settings.database_url),
        ("WORKER_DATABASE_URL", settings.worker_database_url),
    ):
        try:
            port = database_url(name, value).port
        except SettingsError as error:
            yield str(error)
            continue
        if port == 6543 and not settings.transaction_pooler:
            yield (
                f"{PREFIX}{name} is on port 6543, Supabase's transaction pooler; set "
                f"{PREFIX}TRANSACTION_POOLER=true, or take port 5432."
            )
    if not settings.jwt_secret and not environ.get("ANNEX_SUPABASE_URL"):
        yield (
            "ANNEX_SUPABASE_URL is not set, so no user's token could be verified; set it to "
            "https://<ref>.supabase.co."
        )
    for value in settings.operator_key_hashes:
        if len(value) != 64 or not all(c in "0123456789abcdef" for c in value):
            yield (
                "ANNEX_OPERATOR_KEY_HASHES takes SHA-256 hashes of 64 hex digits; "
                "`annex operator-key` makes a key and its hash."
            )
            break
    if settings.signing_key is not None:
        try:
            read_signing_key(settings.signing_key)
        except ValueError as error:
            yield (
                f"ANNEX_SIGNING_KEY is not usable: {error}; `supabase gen signing-key --algorithm"
                " ES256` makes one."
            )
    yield from mail_mistakes(settings)
    if settings.is_development:
        return
    if not settings.issuer and not environ.get("ANNEX_SUPABASE_URL"):
        yield "ANNEX_SUPABASE_URL or ANNEX_JWT_ISSUER must name who issues the tokens."
    if settings.secret_key in PUBLIC_SECRETS or len(settings.secret_key) < 32:
        yield (
            "ANNEX_SECRET_KEY is the development default or shorter than 32 characters; set one "
            "of your own, such as the output of `openssl rand -base64 32`."
        )
    if settings.jwt_secret is not None and (
        settings.jwt_secret in PUBLIC_SECRETS or len(settings.jwt_secret) < 32
    ):
        yield (
            "ANNEX_JWT_SECRET is a publicly known default or shorter than 32 characters; take your "
            "project's own from its dashboard. For a project on this machine alone, set "
            "ANNEX_ENVIRONMENT=development."
        )


def mail_mistakes(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each setting without which a mail could not be sent, or safely."""
    if settings.smtp_url is not None:
        for name in ("mail_from", "app_url"):
            if getattr(settings, name) is None:
                yield f"{PREFIX}{name.upper()} is not set, and {PREFIX}SMTP_URL needs it."
    if settings.mail_templates is not None and not Path(settings.mail_templates).is_dir():
        yield f"{PREFIX}MAIL_TEMPLATES is no folder."
    if settings.is_development:
        return
    smtp = urlsplit(settings.smtp_url or "")
    if smtp.scheme == "smtp" and smtp.password is not None:
        yield (
            f"{PREFIX}SMTP_URL would send its password in the clear; write smtps:// or "
            "smtp+starttls://."
        )
    for name in ("app_url", "public_url"):
        url = getattr(settings, name)
        if url is not None and urlsplit(url).scheme != "https":
            yield f"{PREFIX}{name.upper()} must begin with https://, as its links carry tokens."


def database_url(name: str, value: str) -> URL:
    """Read a setting's libpq-style URL; raises `SettingsError` naming the setting."""
    try:
        return read_database_url(value)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}{name} {error}.") from None


def read_database_url(value: str) -> URL:
    """Read a libpq-style URL; a driver that its scheme names is left out.

    Raises `ValueError` with what is wrong of it, and never with a part that may be of its password.
    """
    try:
        url = make_url(value.strip())
        scheme = url.drivername.split("+")[0]
    except (ArgumentError, ValueError):
        scheme = ""
    if scheme not in ("postgresql", "postgres"):
        raise ValueError(
            "is not a Postgres URL; write postgresql://user:password@host:5432/database, with "
            "special characters of the password percent-encoded"
        )
    if "@" in (url.host or ""):
        raise ValueError("has two @; write an @ of the password as %40")
    if not 0 < (url.port or 5432) < 65536:
        raise ValueError("names no port that can be; Postgres has 5432")
    query = {k: v for k, v in url.query.items() if v not in DROPPED.get(k, ())}
    for word, given in query.items():
        if word not in LIBPQ_WORDS:
            hint = LIBPQ_HINTS.get(word, f"known are {', '.join(sorted(LIBPQ_WORDS))}")
            raise ValueError(f"has the parameter {word[:40]!r}; {hint}")
        if word in LIBPQ_FILES and not (isinstance(given, str) and Path(given).is_file()):
            raise ValueError(f"names as {word} a file that is not there")
        if word == "sslmode" and given not in SSL_MODES:
            raise ValueError(f"has no sslmode that is known; write one of {', '.join(SSL_MODES)}")
    return url.set(drivername="postgresql", query=query)
