"""Whether what Annex needs outside of the database answers, and whether its own limits fit."""

import resource
from ipaddress import ip_network
from typing import Any

import aiosmtplib
import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from app.auth.tokens import read_set
from app.doctor import Check, Finding, Site, advice, error, warning
from app.setting_values import FORWARDED_FOR, read_signing_key
from app.worker.mails import smtp_client

OTHER_FILES = 200
"""Files that a process has open beside its streams."""
SMTP_SECONDS = 10.0
WIDE = 2**20
"""A trusted network of more addresses than these is no proxy of yours alone."""


def key_set_url(site: Site) -> str | None:
    """Return where the project's key set is."""
    if site.settings.supabase_url is None:
        return None
    return f"{site.settings.supabase_url.rstrip('/')}/auth/v1/.well-known/jwks.json"


async def find_key_set(site: Site) -> Finding | None:
    """The project's key set verifies every user's token."""
    if (url := key_set_url(site)) is None:
        return None
    try:
        answer = await site.http.get(url, timeout=5)
        answer.raise_for_status()
    except httpx.HTTPStatusError as failed:
        return error(
            f"{url} answers {failed.response.status_code}: no user's token can be verified.",
            "Set ANNEX_SUPABASE_URL to the project's URL, https://<ref>.supabase.co.",
        )
    except httpx.HTTPError as failed:
        return error(
            f"{url} cannot be reached ({type(failed).__name__}): no user's token can be verified.",
            "Set ANNEX_SUPABASE_URL to the project's URL, and allow this machine to call it.",
        )
    try:
        keys = read_set(answer.content)
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError, jwt.PyJWTError):
        return error(
            f"{url} answers, but not with a key set.",
            "Set ANNEX_SUPABASE_URL to the project's URL, https://<ref>.supabase.co.",
        )
    if not keys and site.settings.jwt_secret is None:
        return error(
            "The project's key set is empty: it signs tokens with a shared secret.",
            "Let Supabase sign with an asymmetric key (JWT signing keys in the dashboard), or set "
            "ANNEX_JWT_SECRET to the project's own.",
        )
    return None


async def find_signing_key(site: Site) -> Finding | None:
    """Supabase accepts exchanged tokens only if it knows the key that signs them."""
    url, text = key_set_url(site), site.settings.signing_key
    if url is None or text is None or site.settings.is_development:
        return None
    ours = read_signing_key(text)
    kid = ours.key_id
    try:
        known = read_set((await site.http.get(url, timeout=5)).content)
    except (httpx.HTTPError, msgspec.MsgspecError, ValueError, TypeError, jwt.PyJWTError):
        return None  # it answered a moment ago
    if kid in known:
        if is_pair(ours.key, known[kid].key):
            return None
        return error(
            f"The project's key {kid} is another one than ANNEX_SIGNING_KEY, which has the same "
            "kid: Supabase refuses the tokens that API keys are exchanged for.",
            "Make a key with a kid of its own (`supabase gen signing-key --algorithm ES256`), "
            "import it, and set ANNEX_SIGNING_KEY to it.",
        )
    return error(
        f"The key {kid} of ANNEX_SIGNING_KEY is not in the project's key set: Supabase refuses the "
        "tokens that API keys are exchanged for.",
        "Import the key (JWT signing keys in the dashboard, as a standby key), or take the setting "
        "out.",
    )


def is_pair(private: Any, public: Any) -> bool:
    """Say whether a public key, as a key set gives it, is that of a private one."""
    return isinstance(public, EllipticCurvePublicKey) and (
        private.public_key().public_numbers() == public.public_numbers()
    )


async def find_smtp(site: Site) -> Finding | None:
    """The SMTP server must take a connection, and the login if there is one."""
    if site.settings.smtp_url is None:
        return None
    client = smtp_client(site.settings, SMTP_SECONDS)
    try:
        await client.connect()
    except aiosmtplib.SMTPAuthenticationError as refused:
        return error(
            f"The SMTP server refuses ANNEX_SMTP_URL's login: {refused.code} {refused.message}.",
            "Put the right user and password into ANNEX_SMTP_URL, percent-encoded where they have "
            "a / or @.",
        )
    except (aiosmtplib.SMTPException, OSError, ValueError) as failed:
        # The library closes the connection and keeps no more than its sentence.
        if "AUTH extension is not supported" in str(failed):
            return error(
                "The SMTP server offers no sign-in on this connection, and ANNEX_SMTP_URL has a "
                "user.",
                "Write smtp+starttls:// (587) or smtps:// (465); or take user and password out, if "
                "the server wants none.",
            )
        return error(
            f"The SMTP server of ANNEX_SMTP_URL cannot be used ({type(failed).__name__}): {failed}",
            "Check scheme, host and port: smtps:// is 465, smtp+starttls:// 587. Many hosts block "
            "25.",
        )
    finally:
        client.close()
    return None


async def find_files(site: Site) -> Finding | None:
    """Every stream is an open file; `annex serve` raises its limit to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = site.settings.max_streams + OTHER_FILES
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return None
    return warning(
        f"A process may open {hard} files here, and ANNEX_MAX_STREAMS={site.settings.max_streams} "
        f"takes {wanted}.",
        f"Set LimitNOFILE={wanted} (systemd) or `ulimit -Hn {wanted}`, or lower ANNEX_MAX_STREAMS.",
    )


async def find_proxies(site: Site) -> Finding | None:
    """Whoever is a trusted proxy says which address a client has."""
    header = site.settings.client_address_header
    if not site.settings.trusted_proxies and header != FORWARDED_FOR:
        return warning(
            f"ANNEX_CLIENT_ADDRESS_HEADER is {header}, and without ANNEX_TRUSTED_PROXIES nobody's "
            "is read.",
            "Name the addresses from which the proxy connects (docs/deploy.md).",
        )
    if not (site.settings.trusted_proxies or site.settings.is_development):
        return advice(
            "ANNEX_TRUSTED_PROXIES is not set: if a proxy stands before Annex, all clients behind "
            "it count as one and share its limits.",
            "Name the addresses from which the proxy connects (docs/deploy.md). Without a proxy, "
            "this is no fault.",
        )
    for block in site.settings.trusted_proxies:
        network = ip_network(block)
        if network.num_addresses > WIDE and network.is_global:
            return error(
                f"ANNEX_TRUSTED_PROXIES trusts {block}: any client can claim any address, and "
                "limits of an address hold nobody.",
                "Name the addresses of your own proxies only.",
            )
    return None


async def find_cors(site: Site) -> Finding | None:
    """A star lets every page call the API with a token that it got hold of."""
    if "*" not in site.settings.cors_origins or site.settings.is_development:
        return None
    proxied = site.settings.trusted_proxies
    return warning(
        "ANNEX_CORS_ORIGINS is *: any page may call the API with a token that it got hold of"
        + (", also behind your proxies." if proxied else "."),
        "Name the origins of your own applications.",
    )


async def find_environment(site: Site) -> Finding | None:
    """The development environment allows secrets that everybody knows."""
    if not site.settings.is_development:
        return None
    return advice(
        "ANNEX_ENVIRONMENT is development: known secrets and every localhost origin are allowed.",
        "Take the setting out where others can reach the server.",
    )


async def find_bounds(site: Site) -> Finding | None:
    """Limits that contradict each other."""
    s = site.settings
    all_streams = s.max_streams * s.processes
    whole = f"ANNEX_MAX_STREAMS ({s.max_streams})"
    if s.processes > 1:
        whole += f" of all {s.processes} processes, {all_streams}"
    pairs = (
        ("MAX_STREAMS_PER_PRINCIPAL", s.max_streams_per_principal),
        ("MAX_STREAMS_PER_WORKSPACE", s.max_streams_per_workspace),
        ("MAX_STREAMS_PER_ADDRESS", s.max_streams_per_address),
    )
    for name, value in pairs:
        if value > all_streams:
            return warning(
                f"ANNEX_{name} ({value}) is above {whole}: one of them can take all.",
                f"Set ANNEX_{name} well below that number.",
            )
    if s.max_held_bytes_per_address // s.processes >= s.max_held_bytes:
        of_all = f" of each of {s.processes} processes" if s.processes > 1 else ""
        return warning(
            f"ANNEX_MAX_HELD_BYTES_PER_ADDRESS ({s.max_held_bytes_per_address}) is not below "
            f"ANNEX_MAX_HELD_BYTES ({s.max_held_bytes}){of_all}: one address can take all.",
            "Set ANNEX_MAX_HELD_BYTES_PER_ADDRESS well below that number.",
        )
    if s.max_statements_per_principal >= s.pool_size > 1:
        return warning(
            f"ANNEX_MAX_STATEMENTS_PER_PRINCIPAL ({s.max_statements_per_principal}) leaves none of "
            f"the {s.pool_size} connections of ANNEX_POOL_SIZE to others.",
            "Set it below ANNEX_POOL_SIZE.",
        )
    if s.max_connections_per_address < s.max_streams_per_address:
        return warning(
            f"ANNEX_MAX_CONNECTIONS_PER_ADDRESS ({s.max_connections_per_address}) is below "
            f"ANNEX_MAX_STREAMS_PER_ADDRESS ({s.max_streams_per_address}), which it keeps from "
            "ever being reached.",
            "Set it above: a stream is a connection, and requests need some, too.",
        )
    return None


async def find_operator(site: Site) -> Finding | None:
    """Without an operator's key nobody reads /metrics."""
    if site.settings.operator_key_hashes:
        return None
    return advice(
        "No operator's key is set: /metrics refuses everybody.",
        "Run `annex operator-key`, and put the hash into ANNEX_OPERATOR_KEY_HASHES.",
    )


CHECKS = (
    Check("key set", find_key_set),
    Check("signing key", find_signing_key, ("key set",)),
    Check("SMTP", find_smtp),
    Check("open files", find_files),
    Check("trusted proxies", find_proxies),
    Check("CORS", find_cors),
    Check("environment", find_environment),
    Check("limits", find_bounds),
    Check("operator", find_operator),
)
