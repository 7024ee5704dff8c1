"""How one setting's text is read: URLs, senders, proxies, keys.

Each raises `ValueError` with what to write instead.
"""

import re
from email.utils import parseaddr
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args
from urllib.parse import SplitResult, urlsplit

import jwt
import msgspec
from dotenv import dotenv_values

HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
SMTP_SCHEMES = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
"""Schemes of SMTP servers, and their ports."""
PORTS = {"http": 80, "https": 443}
FORWARDED_FOR = "X-Forwarded-For"


def complaint(error: msgspec.ValidationError, kind: Any) -> str:
    """Say what is wrong of a setting of this type; of one with few values, which they are."""
    if choices := [choice for choice in get_args(kind) if isinstance(choice, str)]:
        return f"write one of {', '.join(choices)}"
    detail = str(error).partition(" - at `$")[0]
    return detail[0].lower() + detail[1:]


def read_dotenv(path: Path) -> dict[str, str]:
    """Read a file of settings, if it is there."""
    if path.is_dir():
        raise ValueError("Is a directory")
    try:
        # Some editors begin a file with a mark of its encoding.
        found = dotenv_values(path, encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("save it as UTF-8") from None
    return {k: v for k, v in found.items() if v is not None}


def read_signing_key(text: str) -> jwt.PyJWK:
    """Read a private JWK (RFC 7517) of the curve P-256 with a `kid`; raises `ValueError`."""
    try:
        given = msgspec.json.decode(text, type=dict)
        key = jwt.PyJWK(given, algorithm="ES256")
        is_usable = isinstance(given.get("d"), str) and given.get("crv") == "P-256"
    except (msgspec.MsgspecError, jwt.PyJWTError, ValueError, TypeError) as error:
        raise ValueError("it is no JWK") from error
    if not is_usable or not isinstance(key.key_id, str) or not key.key_id:
        raise ValueError("it is no private P-256 key with a kid")
    return key


def page_url(text: str) -> str:
    """Read the URL of a page; raises `ValueError`."""
    parts = parse_url(text)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or "#" in text
        or any(c.isspace() or not c.isprintable() for c in text.strip())
    ):
        raise ValueError("write the URL of a page, https://app.example.com/join, without #")
    return text.strip()


def api_url(text: str) -> str:
    """Read the URL of a server without a path; raises `ValueError`."""
    url = page_url(text).rstrip("/")
    parts = parse_url(url)
    if parts is None or parts.path or "?" in url:
        raise ValueError("write the URL of the server alone, https://api.example.com")
    return url


def smtp_url(text: str) -> str:
    """Read the URL of an SMTP server; raises `ValueError`."""
    parts = parse_url(text)
    if (
        parts is None
        or parts.scheme not in SMTP_SCHEMES
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise ValueError(
            "write smtps://user:password@host:465, smtp+starttls://… (587) or smtp://… (25)"
        )
    return text.strip()


def sender(text: str) -> str:
    """Read a sender's name and address; raises `ValueError`."""
    address = parseaddr(text)[1]
    if not re.fullmatch(r"[^@\s<>]+@[A-Za-z0-9.-]+", address) or not text.strip().isprintable():
        raise ValueError("write a sender such as Acme <no-reply@example.com>")
    return text.strip()


def normal_origin(text: str) -> str:
    """Write an origin as browsers send it (RFC 6454, section 6.2); raises `ValueError`."""
    if text == "*":
        return text
    parts = parse_site(text)
    name = (parts and parts.hostname) or ""
    if parts is None or not HOST.fullmatch(name):
        raise ValueError("an origin is written https://app.example.com, without a path or wildcard")
    host = f"[{name}]" if ":" in name else name
    port = "" if parts.port in (None, PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def project_url(text: str) -> str:
    """Read the URL of a Supabase project, without the slash at its end; raises `ValueError`."""
    if parse_site(text) is None:
        raise ValueError("write the project's URL, https://<ref>.supabase.co, without a path")
    return text.strip().rstrip("/")


def parse_url(text: str) -> SplitResult | None:
    """Split a URL; None when it is none."""
    try:
        parts = urlsplit(text.strip())
        _ = parts.port
    except ValueError:
        return None
    return parts


def parse_site(text: str) -> SplitResult | None:
    """Split the URL of a site: scheme, host and perhaps a port, nothing else; None for others."""
    parts = parse_url(text)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        return None
    return parts


def proxy(text: str) -> str:
    """Read the address or CIDR block of a proxy; raises `ValueError`."""
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("write addresses or CIDR blocks, such as 10.0.0.0/8") from None
    return str(found)


def address_header(text: str) -> str:
    """Read the name of a header that holds addresses alone; raises `ValueError`."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name := text.strip()) or name.lower() == "forwarded":
        raise ValueError("write the name of a header of addresses alone, such as X-Real-IP")
    return name
