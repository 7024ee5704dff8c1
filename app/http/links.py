"""Links in answers, and names in paths."""

import re
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from litestar import Request

from app.request_state import state_of


def link_next(request: Request[Any, Any, Any], cursor: str) -> None:
    """Add `Link: <…>; rel="next"` (RFC 8288): the request's own URL with the next page's cursor."""
    scope = request.scope
    sent = quote(scope["query_string"], SENDABLE).split("&")
    kept = [p for p in sent if p and unquote_plus(p.partition("=")[0]) != "cursor"]
    path = quote(scope["raw_path"], SENDABLE)
    url = f"{path}?{'&'.join([*kept, f'cursor={cursor}'])}"
    state_of(scope).headers.append((b"link", f'<{url}>; rel="next"'.encode()))


# What a URI may hold as it was sent (RFC 3986, section 2), so that it ends no link.
SENDABLE = "%:/?#[]@!$&'()*+,;="
SLASH = re.compile(rb"%2[fF]")


def routed_path(raw_path: bytes) -> str:
    """Decode a path for routing; an encoded slash stays, as it is part of a name."""
    return unquote(SLASH.sub(b"%252F", raw_path).decode("latin-1"))


def path_segment(request: Request[Any, Any, Any], index: int) -> str:
    """Return a segment of the request's path, decoded; slashes of its own are part of it."""
    return unquote(request.scope["raw_path"].split(b"/")[index].decode("latin-1"))
