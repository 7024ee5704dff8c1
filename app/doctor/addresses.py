"""Whether addresses in the settings fit together, and lead where they should."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from app.doctor import Check, Finding, Site, error, warning
from app.settings import SettingsError, database_url
from app.worker.letters import Letters
from app.worker.notification_mails import Templates

DIRECT = re.compile(r"db\.([a-z0-9]{20})\.supabase\.co")
POOLED = re.compile(r"annex_(?:api|worker)\.([a-z0-9]{20})")
PROJECT = re.compile(r"([a-z0-9]{20})\.supabase\.co")


async def find_project(site: Site) -> Finding | None:
    """Tokens and rows must be of one Supabase project; names of hosts tell it."""
    host = urlsplit(site.settings.supabase_url or "").hostname or ""
    if (project := PROJECT.fullmatch(host)) is None:
        return None
    for name in ("DATABASE_URL", "WORKER_DATABASE_URL"):
        url = database_url(name, getattr(site.settings, name.lower()))
        found = DIRECT.fullmatch(url.host or "") or POOLED.fullmatch(url.username or "")
        if found is not None and found[1] != project[1]:
            return error(
                f"ANNEX_SUPABASE_URL is of the project {project[1]}, and ANNEX_{name} of "
                f"{found[1]}: its users are not those of the database.",
                "Take both from the same project.",
            )
    return None


async def find_plain_http(site: Site) -> Finding | None:
    """The key set decides who is a user, so nobody may change it on its way."""
    parts = urlsplit(site.settings.supabase_url or "")
    if parts.scheme != "http" or site.settings.is_development or is_near(parts.hostname or ""):
        return None
    return warning(
        "ANNEX_SUPABASE_URL is http://: whoever is on the way can give you keys of their own, and "
        "so be any user.",
        "Write https://.",
    )


def is_near(host: str) -> bool:
    """Say whether a host is this machine, or by its name or address in a private network."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".internal", ".local", ".localhost"))


async def find_public_url(site: Site) -> Finding | None:
    """Links in mails lead to this API."""
    if (url := site.settings.public_url) is None:
        return None
    try:
        answer = await site.http.get(f"{url}/health", timeout=5)
        is_ours = answer.is_success and "version" in answer.json()
    except (httpx.HTTPError, ValueError):
        is_ours = False
    if is_ours:
        return None
    return warning(
        f"{url}/health does not answer as Annex does: links in mails that end them lead nowhere.",
        "Set ANNEX_PUBLIC_URL to the URL at which the internet reaches `annex serve`. If this "
        "machine alone cannot reach it, this is no fault.",
    )


async def find_templates(site: Site) -> Finding | None:
    """A template that cannot be used keeps the worker from starting."""
    try:
        Letters.read(site.settings.mail_templates)
        Templates.read(site.settings.mail_templates)
    except SettingsError as wrong:
        return error(str(wrong), "Correct the file; `annex worker` does not start without it.")
    return None


CHECKS = (
    Check("project", find_project),
    Check("https", find_plain_http),
    Check("public URL", find_public_url),
    Check("templates of mails", find_templates),
)
