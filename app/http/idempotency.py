"""The same POST sent twice is done once (draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

import msgspec
from litestar import Request, Response
from litestar.params import HeaderParameter
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

import db_models as m
from app.errors import InvalidRequest, KeyReused, RequestInProgress
from app.principals import Principal

KEPT = timedelta(hours=24)
IdempotencyKey = Annotated[
    str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=255)
]


async def once(
    request: Request[Any, Any, Any],
    session: AsyncSession,
    principal: Principal,
    key: str | None,
    answer: Callable[[], Awaitable[Response[Any]]],
) -> Response[Any]:
    """Answer a POST, or replay its finished answer for 24 hours; keys are per principal and route.

    The answer is stored in the request's own transaction, so it exists exactly if its effects do.
    Only a success is kept: a failed request may be sent again. Raises `RequestInProgress` while the
    first still runs, `KeyReused` for another body.
    """
    if key is None:
        return await answer()
    key = unquote(key)
    route = f"{request.method} {request.scope['path']}"
    content = request.headers.get("content-type", "").encode() + b"\n" + await request.body()
    fingerprint = hashlib.sha256(content).digest()
    lock = func.hashtextextended(f"{principal.name} {route} {key}", 0)
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise RequestInProgress(
            "The first request with this Idempotency-Key still runs; wait for it."
        )
    k = m.IdempotencyKey
    mine = (k.principal == principal.name, k.route == route, k.key == key)
    # Also drops an expired one, so that its key can be used again.
    await session.execute(delete(k).where(*mine, k.expires_at <= func.now()))
    if kept := await session.scalar(select(k).where(*mine)):
        if kept.fingerprint != fingerprint:
            raise KeyReused("This Idempotency-Key was used with another body; take a new one.")
        # JSON comes undecoded from the database.
        headers = msgspec.json.decode(cast(Any, kept.headers)) | {"Idempotent-Replayed": "true"}
        return Response(
            msgspec.Raw(kept.body),
            status_code=kept.status,
            headers=headers,
            media_type="application/json",
        )
    response = await answer()
    await session.execute(
        insert(k).values(
            principal=principal.name,
            route=route,
            key=key,
            fingerprint=fingerprint,
            status=response.status_code or 201,
            headers={
                n: v for n, v in response.headers.items() if n.lower() in ("etag", "location")
            },
            body=msgspec.json.encode(response.content),
            expires_at=datetime.now(UTC) + KEPT,
        )
    )
    return response


def unquote(key: str) -> str:
    """Read a structured string (RFC 9651, section 3.3.3) or take the key raw.

    Raises `InvalidRequest` for an empty one.
    """
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not key:
        raise InvalidRequest("The Idempotency-Key is empty.")
    return key
