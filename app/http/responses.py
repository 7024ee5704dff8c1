"""Answers that are structs, written as JSON without Litestar's detours."""

from typing import Any, TypeVar

import msgspec
from litestar import MediaType, Response
from litestar.types import Receive, Scope, Send

T = TypeVar("T")
UNUSUAL = {"background", "cookies", "encoded_headers", "headers"}
"""What Litestar may be given for an answer that is not written at once."""


class StructResponse(Response[T]):
    """An answer whose struct is written and sent at once; anything else goes Litestar's own way.

    Litestar's way merges cookies, encoders and headers, searches the headers several times, and
    costs more than a page's JSON. An answer that has cookies, a background task, a handler's own
    headers or another media type goes that way. There are no encoders here.
    """

    def __init__(
        self,
        content: T,
        *,
        status_code: int | None = None,
        headers: dict[str, str] | None = None,
        media_type: str | None = None,
        background: Any = None,
        type_encoders: Any = None,  # noqa: ARG002: Litestar passes them
    ) -> None:
        self.content = content
        self.status_code = status_code
        self.headers = headers or {}
        self.media_type = media_type
        self.encoding = "utf-8"
        self.background = background
        self.cookies = []
        self.response_type_encoders = {}

    def to_asgi_response(self, app: Any, request: Any, **given: Any) -> Any:
        """Write the answer; a handler's own status counts if the answer has none."""
        if (
            not isinstance(self.content, msgspec.Struct)
            or self.cookies
            or self.background
            or not UNUSUAL.isdisjoint(name for name, value in given.items() if value)
            or (self.media_type or given.get("media_type") or MediaType.JSON) != MediaType.JSON
        ):
            return super().to_asgi_response(app, request, **given)
        body = msgspec.json.encode(self.content)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *((n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in self.headers.items()),
        ]
        status = self.status_code or given.get("status_code") or 200

        async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})

        return answer
