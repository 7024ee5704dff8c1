"""The page that a notification's mail leads to, and the one click that ends such mails."""

from typing import Annotated, Any

from litestar import Controller, MediaType, Request, Response, get, post
from litestar.params import QueryParameter

from app.auth.dependencies import may
from app.errors import InvalidRequest
from app.runtime import runtime_of
from app.services import unsubscriptions

MAX_FORM_BYTES = 1024
"""The form has one field; parsing a large one would block the loop for seconds."""
FORM = ("application/x-www-form-urlencoded", "multipart/form-data")
# \Z and not $, which in Python lets a line feed follow.
Token = Annotated[str, QueryParameter(name="token", pattern=r"^annex_ut_[A-Za-z0-9_-]{43}\Z")]
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Mails</title>
</head>
<body>
"""
# The form's address is the page's own, token and all; nothing of the request is written into it.
ASK = f"""{HEAD}<p>Get no more mails of this kind?</p>
<form method="post">
<input type="hidden" name="List-Unsubscribe" value="One-Click">
<button>End them</button>
</form>
</body>
</html>
"""
DONE = f"{HEAD}<p>You get no more mails of this kind.</p>\n</body>\n</html>\n"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class UnsubscriptionController(Controller):
    path = "/unsubscribe"
    tags = ("service",)

    @get(
        operation_id="getUnsubscribePage",
        opt=may("public", response_media_types=["text/html"]),
    )
    async def get_unsubscribe_page(self, token: Token) -> Response[str]:
        """Ask whether mails of a kind shall end."""
        return Response(ASK, media_type=MediaType.HTML, headers=HEADERS)

    @post(
        operation_id="unsubscribe",
        status_code=200,
        request_max_body_size=MAX_FORM_BYTES,
        opt=may(
            "public",
            request_media_types=FORM,
            response_media_types=["text/html"],
            request_struct="app.schemas.unsubscriptions:Unsubscription",
        ),
    )
    async def unsubscribe(self, request: Request[Any, Any, Any], token: Token) -> Response[str]:
        """End the mails of a kind."""
        runtime = runtime_of(request)
        address = runtime.connections.addresses.of(request.scope)
        with runtime.failures.guess(address):
            # A part may name a charset, and Python keeps every name that it was asked for.
            is_plain = b"charset" not in (await request.body()).lower()
            try:
                sent = [*(await request.form()).multi_items()] if is_plain else []
            except ValueError:  # such as a text that is not UTF-8
                sent = []
            if sent != [("List-Unsubscribe", "One-Click")]:
                raise InvalidRequest("Send the form `List-Unsubscribe=One-Click` (RFC 8058).")
            await unsubscriptions.end(runtime.database.api, token, address)
        return Response(DONE, media_type=MediaType.HTML, headers=HEADERS)
