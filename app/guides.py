"""The guides that the server hands to coding agents: docs/*.md, one page each, and their list."""

import posixpath
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from app.resources import resource

GUIDES: Mapping[str, str] = MappingProxyType(
    {
        "readme": "README.md",
        "supabase": "docs/supabase.md",
        "realtime": "docs/realtime.md",
        "database": "docs/database/README.md",
        "sql": "docs/sql.md",
        "teams": "docs/teams.md",
        "inbox": "docs/inbox.md",
        "errors": "docs/errors.md",
        "security": "docs/security.md",
        "deploy": "docs/deploy.md",
        "operations": "docs/operations.md",
        "scaling": "docs/scaling.md",
        "architecture": "docs/architecture.md",
        "datamodel": "docs/datamodel.md",
        "glossary": "docs/glossary.md",
        "changelog": "docs/CHANGELOG.md",
    }
)
"""Names, and the file of each."""
INTRODUCTION = """# Annex

> The B2B layer of a Supabase project: workspaces, members and roles, invitations, API keys, one
> event log and live streams. The contract is /openapi.yaml. Every call sends
> `Authorization: Bearer <Supabase access token or key>`.

- [The contract](/openapi.yaml): every operation, with examples.

## Guides
"""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PICTURE = re.compile(r"<picture>.*?</picture>\n*", re.DOTALL)


@cache
def guide(name: str) -> str:
    """Read a guide once; what it links to is another guide here, or no link."""
    path = GUIDES[name]
    text = PICTURE.sub("", resource(path).read_text(encoding="utf-8"))
    names = {file: known for known, file in GUIDES.items()}

    def relink(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        if target.startswith(("http://", "https://", "#", "/")):
            return found[0]
        file, hash_, anchor = target.partition("#")
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        if there not in names:
            return "" if mark else words
        return f"[{words}](/guides/{names[there]}.md{hash_}{anchor})"

    return LINK.sub(relink, text)


@cache
def summary() -> str:
    """List the guides, each with its first sentence (llmstxt.org)."""
    return INTRODUCTION + "".join(f"- {line_of(name)}\n" for name in GUIDES)


def line_of(name: str) -> str:
    """Write a guide's line of the list: its title as a link, and its first sentence."""
    title, _, rest = guide(name).partition("\n")
    prose = next(
        part for part in rest.split("\n\n") if part.strip() and part.strip()[0] not in "#|`<"
    )
    flat = " ".join(LINK.sub(r"\2", prose).split())
    first = re.split(r"(?<=[.:])\s", flat)[0]
    return f"[{title.lstrip('# ')}](/guides/{name}.md): {first}"
