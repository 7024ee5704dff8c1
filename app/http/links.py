"""Links in answers."""

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode


def link_next(scope: MutableMapping[str, Any], cursor: str) -> None:
    """Add `Link: <…>; rel="next"` (RFC 8288): the request's own URL with the next page's cursor."""
    query = [(k, v) for k, v in parse_qsl(scope["query_string"].decode("latin-1")) if k != "cursor"]
    url = f"{scope['path']}?{urlencode([*query, ('cursor', cursor)])}"
    scope["state"].setdefault("headers", {})["Link"] = f'<{url}>; rel="next"'
