"""Entity tags and conditional requests (RFC 9110, section 13)."""

import re
from typing import Annotated, Any, Literal

from litestar import Response
from litestar.params import HeaderParameter

from app.errors import InvalidRequest
from app.http.responses import StructResponse

ETAG = re.compile(r'(?:W/)?"([^"]*)"')
# A list may have empty members (RFC 9110, section 5.6.1), a tag may have commas.
TAGS = re.compile(r'[ \t,]*(?:W/)?"[^"]*"(?:[ \t]*,[ \t,]*(?:W/)?"[^"]*")*[ \t,]*')

# A list of tags or a star (RFC 9110, section 13.1.1), as the contract has it.
LIST = r'^ *(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*) *$'
IfMatch = Annotated[str | None, HeaderParameter(name="If-Match", max_length=200, pattern=LIST)]
IfNoneMatch = Annotated[str | None, HeaderParameter(name="If-None-Match", max_length=200)]
# Of a resource that is made at a path of the client's choice: only if it is not there yet.
IfNew = Annotated[Literal["*"] | None, HeaderParameter(name="If-None-Match")]


def tagged(body: Any, if_none_match: str | None = None, **options: Any) -> Response[Any]:
    """Answer a resource with its version as a strong ETag, or 304 if the client has that one.

    RFC 9110, sections 8.8.3 and 13.1.2.
    """
    etag = f'"{body.version}"'
    headers = {"ETag": etag, **options.pop("headers", {})}
    if if_none_match is not None:
        tags = ETAG.findall(if_none_match)
        if if_none_match.strip() == "*" or str(body.version) in tags:
            return StructResponse(None, status_code=304, headers=headers)
    return StructResponse(body, headers=headers, **options)


def expected_versions(if_match: str | None) -> list[int] | None:
    """Read If-Match (RFC 9110, section 13.1.1): the versions to accept, or None for any.

    Weak tags never match; a tag that is none of ours matches nothing.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    if not TAGS.fullmatch(if_match):
        raise InvalidRequest('If-Match takes entity tags, such as "3".')
    tags = [found.group() for found in ETAG.finditer(if_match)]
    digits = [t.strip('"') for t in tags if not t.startswith("W/")]
    return [int(d) for d in digits if d.isascii() and d.isdigit() and len(d) < 10]
