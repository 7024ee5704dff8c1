"""The same POST sent twice is done once (draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.params import HeaderParameter
from sqlalchemy import Insert, Select, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import Text

import db_models as m
from app.auth.dependencies import provide_write
from app.database.reads import Of
from app.database.statements import AnySelect, Compiled
from app.database.work import Work, Write
from app.errors import InvalidRequest, KeyReused, RequestInProgress
from app.http.budgets import AnswerBudget
from app.runtime import runtime_of

KEPT = timedelta(hours=24)
IdempotencyKey = Annotated[
    str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=255)
]
UNDER, KEPT_COLUMNS = (
    ("principal", "route", "key"),
    ("fingerprint", "status", "headers", "body", "expires_at"),
)


def take() -> Select[Any]:
    """Call annex.take_key: it takes a key for this transaction, if nobody has."""
    names = [bindparam(name, type_=Text) for name in ("route", "key")]
    return select(func.annex.take_key(*names))


def find() -> AnySelect:
    """Select the answer that is stored under a key."""
    k = m.IdempotencyKey
    mine = [getattr(k, name) == bindparam(name) for name in UNDER]
    return select(k.fingerprint, k.status, k.headers, k.body).where(
        *mine, k.expires_at > func.now()
    )


def keep() -> Insert:
    """Store an answer, in the place of one that has expired."""
    columns = m.IdempotencyKey.__table__.c
    names = [*UNDER, *KEPT_COLUMNS]
    new = insert(m.IdempotencyKey).values({n: bindparam(n, type_=columns[n].type) for n in names})
    return new.on_conflict_do_update(
        index_elements=UNDER, set_={n: new.excluded[n] for n in KEPT_COLUMNS}
    )


# By its place, as a workspace may be named like any other part of a path.
WORKSPACE = re.compile(r"(?<=/api/v1)(/workspaces/)[^/]+")
TAKE, FIND, KEEP = Compiled(take()), Compiled(find()), Compiled(keep())
Answer = Callable[[Sequence[Any]], Response[Any]]
"""Makes the answer of a call's rows."""


class Once(msgspec.Struct, frozen=True):
    """A POST's way to write, once for its idempotency key; keys are per principal and route."""

    write: Write
    budget: AnswerBudget
    key: str | None
    route: str
    fingerprint: bytes

    async def respond(
        self,
        build: Of,
        values: dict[str, Any],
        answer: Answer,
        secrets: Sequence[str] = (),
        begin: Callable[[UUID], None] | None = None,
    ) -> Response[Any]:
        """Call a definer function and answer, or replay the finished answer for 24 hours.

        The answer is stored in the call's own transaction, so it exists exactly if its effects do.
        Only a success is kept: a failed request may be sent again. Of the answer's fields, those
        named in `secrets` are never stored, nor those of its items: a replay has null in their
        place. With a key, `begin` is called with the path's workspace before the function is, and
        not for a replay. Raises `RequestInProgress` while the first still runs, `KeyReused` for
        another body, `RateLimited` when the caller's kept answers have no room for another one.
        """
        if self.key is None:
            return answer(await self.write.call(build, values))
        principal, size = self.write.scope.principal, 0
        async with self.write.work() as work:
            response = await self.kept(work)
            if response is None:
                self.budget.check(principal)
                if begin is not None and work.workspace_id is not None:
                    begin(work.workspace_id)
                response = answer(await work.call(build, values))
                size = await self.keep(work, response, secrets)
        if size:
            self.budget.count(principal, size)
        return response

    def route_of(self, work: Work) -> str:
        """Return the route, with the workspace by its id where the path names it by its slug."""
        if work.workspace_id is None:
            return self.route
        return WORKSPACE.sub(rf"\g<1>{work.workspace_id}", self.route)

    async def kept(self, work: Work) -> Response[Any] | None:
        """Take the key for this transaction; returns the answer of before, if there is one."""
        mine = self.mine(work)
        [(is_taken,)] = await work.fetch(TAKE, mine)
        if not is_taken:
            raise RequestInProgress(
                "The first request with this Idempotency-Key still runs; wait for it."
            )
        rows = await work.fetch(FIND, mine)
        if not rows:
            return None
        [(fingerprint, status, headers, body)] = rows
        if fingerprint != self.fingerprint:
            raise KeyReused("This Idempotency-Key was used with another body; take a new one.")
        return Response(
            msgspec.Raw(body),
            status_code=status,
            headers=msgspec.json.decode(headers) | {"Idempotent-Replayed": "true"},
            media_type="application/json",
        )

    async def keep(self, work: Work, response: Response[Any], secrets: Sequence[str]) -> int:
        """Store an answer without its secrets, in the place of one that has expired.

        Returns its bytes.
        """
        body = msgspec.json.encode(without(response.content, secrets))
        kept = {
            "fingerprint": self.fingerprint,
            "status": response.status_code or 201,
            "headers": {
                n: v for n, v in response.headers.items() if n.lower() in ("etag", "location")
            },
            "body": body,
            "expires_at": datetime.now(UTC) + KEPT,
        }
        await work.fetch(KEEP, {**self.mine(work), **kept})
        return len(body)

    def mine(self, work: Work) -> dict[str, str]:
        """Return what an answer is stored under."""
        assert self.key is not None
        name, route = work.scope.principal.name, self.route_of(work)
        return {"principal": name, "route": route, "key": self.key}


def without(content: Any, secrets: Sequence[str]) -> Any:
    """Set fields of an answer to null; of a list's answer, those of its items."""
    if not secrets:
        return content
    if isinstance(items := getattr(content, "data", None), list):
        return msgspec.structs.replace(content, data=[without(item, secrets) for item in items])
    return msgspec.structs.replace(content, **dict.fromkeys(secrets))


async def provide_once(
    request: Request[Any, Any, Any], idempotency_key: IdempotencyKey = None
) -> Once:
    """Give a POST its way to write; reads the body for a key, before a transaction is opened."""
    write = await provide_write(request)
    route = f"{request.method} {request.scope['path']}"
    budget = runtime_of(request).answers
    if idempotency_key is None:
        return Once(write, budget, None, route, b"")
    content = request.headers.get("content-type", "").encode() + b"\n" + await request.body()
    return Once(write, budget, unquote(idempotency_key), route, hashlib.sha256(content).digest())


def unquote(key: str) -> str:
    """Read a structured string (RFC 9651, section 3.3.3) or take the key raw.

    Raises `InvalidRequest` for an empty one.
    """
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not key:
        raise InvalidRequest("The Idempotency-Key is empty.")
    return key


Idempotent = NamedDependency[Once]
