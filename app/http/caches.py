"""What Litestar remembers of requests: nothing that is long, as a stranger may send it.

It keeps the last thousand query strings, cookies, forms and paths with what it read of them, and
the URLs that its refusals name. Those of 64 KiB are megabytes each once they are read, so that a
thousand requests of nobody would be held for as long as the process lives.
"""

from typing import Any

from litestar import Litestar
from litestar._asgi.routing_trie import traversal
from litestar._kwargs import extractors
from litestar.connection import base
from litestar.connection import request as requests
from litestar.datastructures import url as urls

SHORT = 256
"""Characters of a path that is remembered: it costs less than to find its handler again."""
READERS = (
    (extractors, "parse_query_string"),
    (extractors, "create_query_default_dict"),
    (extractors, "parse_url_encoded_form_data"),
    (base, "parse_query_string"),
    (base, "parse_cookie_string"),
    (requests, "parse_url_encoded_form_data"),
    (traversal, "parse_path_params"),
    (urls, "urlsplit"),
)
"""Functions with a cache, where they are called."""


def remember_little(app: Litestar) -> None:
    """Read each request anew, but for the route of a short path."""
    for module, name in READERS:
        function = getattr(module, name)
        setattr(module, name, getattr(function, "__wrapped__", function))
    for name in ("_new", "from_components"):
        method = vars(urls.URL)[name].__func__
        setattr(urls.URL, name, classmethod(getattr(method, "__wrapped__", method)))
    router = app.asgi_router
    remembered, find = router.handle_routing, router._handle_routing

    def route(path: str, method: Any) -> Any:
        return (remembered if len(path) <= SHORT else find)(path=path, method=method)

    router.handle_routing = route  # type: ignore[assignment]
