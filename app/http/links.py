"""Links in answers."""

from typing import Any
from urllib.parse import parse_qsl, urlencode

from litestar import Request

from app.request_state import state_of


def link_next(request: Request[Any, Any, Any], cursor: str) -> None:
    """Add `Link: <…>; rel="next"` (RFC 8288): the request's own URL with the next page's cursor."""
    scope = request.scope
    query = [(k, v) for k, v in parse_qsl(scope["query_string"].decode("latin-1")) if k != "cursor"]
    url = f"{scope['path']}?{urlencode([*query, ('cursor', cursor)])}"
    state_of(scope).headers["Link"] = f'<{url}>; rel="next"'
