"""Answers that are structs, written as JSON without Litestar's detours."""

from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.types import Receive, Scope, Send

T = TypeVar("T")


class StructResponse(Response[T]):
    """An answer whose struct is written and sent at once; anything else goes Litestar's own way.

    Litestar's way merges cookies, encoders and headers, searches the headers several times, and
    costs more than a page's JSON. There are neither encoders nor background tasks here.
    """

    def __init__(
        self,
        content: T,
        *,
        status_code: int | None = None,
        headers: dict[str, str] | None = None,
        media_type: str | None = None,
        **_: Any,
    ) -> None:
        self.content = content
        self.status_code = status_code
        self.headers = headers or {}
        self.media_type = media_type
        self.encoding = "utf-8"
        self.background = None
        self.cookies = []
        self.response_type_encoders = {}

    def to_asgi_response(self, app: Any, request: Any, **given: Any) -> Any:
        """Write the answer; a handler's own status counts if the answer has none."""
        if not isinstance(self.content, msgspec.Struct):
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
