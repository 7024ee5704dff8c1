"""The dependencies that tell a handler who calls, and what they may do in its workspace."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request
from litestar.di import NamedDependency
from sqlalchemy import bindparam, case, column, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.types import Boolean, Text, Uuid

from app.auth import keys
from app.database.work import Compiled, read_alone, transaction
from app.errors import (
    Forbidden,
    InvalidKey,
    MissingCredentials,
    NotFound,
    OperatorRequired,
    SecondFactorRequired,
    UserRequired,
)
from app.principals import Principal


class Access(msgspec.Struct, frozen=True):
    """A workspace in the caller's sight, and the caller's permissions in it."""

    id: UUID
    permissions: frozenset[str]


def accesses(ws: Any) -> Any:
    """Call annex.access."""
    return func.annex.access(ws).table_valued(
        column("workspace_id", Uuid),
        column("permissions", ARRAY(Text)),
        column("needs_aal2", Boolean),
        name="a",
    )


in_transaction = Compiled(select(accesses(bindparam("ws", type_=Text))))
# For a stream, which needs nothing else: the claims are set by the statement itself. The function's
# argument hangs on them, so that Postgres cannot call it before.
claimed = select(
    func.set_config(
        literal_column("'request.jwt.claims'"), bindparam("claims", type_=Text), true()
    ).label("claims")
).subquery("c")
looked_up = accesses(case((claimed.c.claims.is_not(None), bindparam("ws", type_=Text))))
by_itself = Compiled(select(looked_up).select_from(claimed.join(looked_up, true())))


def may(permission: str, **others: Any) -> dict[str, Any]:
    """Say in a handler's `opt` who may call it, and what else its signature does not show.

    `public`, `any` (whoever is authenticated), `user`, `operator`, or a permission in the path's
    workspace.
    `request_media_types` are checked here (`app.http.check_request`); the others, such as
    `response_media_types`, are for the drift check.
    """
    return {"permission": permission, **others}


async def authenticate(request: Request[Any, Any, Any]) -> Principal:
    """Verify the request's bearer credential.

    Raises an `Unauthorized` that says what is wrong with it.
    """
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise MissingCredentials("Send `Authorization: Bearer <access token or key>`.")
    state = request.app.state
    address = state.connections.addresses.of(request.scope)
    with state.failures.attempt(address, credential):
        if credential.startswith("annex_"):
            key = keys.Key.read(credential)
            if key.kind == "op":
                return keys.operator(key, state.settings.operator_key_hashes)
            return await keys.look_up(state.database.api, key.prefix, key)
        principal: Principal = await state.tokens.verify(credential)
        return principal


async def refresh(request: Request[Any, Any, Any], principal: Principal) -> Principal:
    """Look a principal up again that was verified a while ago.

    Raises `InvalidKey` when it is no more.
    """
    if principal.kind == "operator":
        if principal.key_hash not in request.app.state.settings.operator_key_hashes:
            raise InvalidKey("The operator key is no longer in the settings.")
        return principal
    if principal.kind != "api_key":
        return principal
    if principal.prefix is None:
        raise InvalidKey("The key is unknown, expired or revoked; make a new one.")
    return await keys.look_up(request.app.state.database.api, principal.prefix)


async def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    """Give a handler its caller, within the caller's rate limit."""
    principal = await authenticate(request)
    request.app.state.limiter.take(principal.name, request.scope["state"])
    permission = request.route_handler.opt["permission"]
    if permission == "user" and principal.kind != "user":
        raise UserRequired("Only a signed-in user can do this; send a user's access token.")
    if permission == "operator" and principal.kind != "operator":
        raise OperatorRequired("Only an operator can do this; send an operator's key.")
    return principal


async def enter(session: AsyncSession, ws: str, permission: str) -> Access:
    """Resolve an id or slug to a workspace, in the transaction that the permission is used in.

    Raises `NotFound` out of sight, `Forbidden` without the permission. One round trip.
    """
    return check_access(await in_transaction.fetch(session, ws=ws), permission)


async def look_up(engine: AsyncEngine, principal: Principal, ws: str, permission: str) -> Access:
    """Do the same by itself, for what goes on without a transaction: one round trip in all."""
    rows = await read_alone(engine, by_itself, claims=principal.claims_json, ws=ws)
    return check_access(rows, permission)


def check_access(rows: Sequence[Any], permission: str) -> Access:
    """Read what annex.access says."""
    if not rows:
        raise NotFound("There is no such workspace, or it is not yours to see.")
    [(workspace_id, permissions, needs_aal2)] = rows
    access = Access(workspace_id, frozenset(permissions))
    if permission not in access.permissions:
        raise Forbidden(f"The caller lacks the permission {permission} in this workspace.")
    if needs_aal2 and permission != "workspace:read":
        raise SecondFactorRequired(
            "This workspace asks for a second factor; raise the session to aal2."
        )
    return access


async def provide_session(
    request: Request[Any, Any, Any], principal: NamedDependency[Principal]
) -> AsyncIterator[AsyncSession]:
    """Give a request its one transaction; only this commits, and before the answer is sent.

    It enters the path's workspace as well: Litestar does not close a generator when a dependency
    after it fails, and the transaction would stay open until it is collected as garbage.
    """
    async with transaction(request.app.state.database.api, principal) as session:
        session.info["scope"] = request.scope
        if ws := request.path_params.get("ws"):
            permission = request.route_handler.opt["permission"]
            session.info["access"] = await enter(session, ws, permission)
        yield session
    if request.method != "GET":
        request.app.state.tail.wake()


async def provide_workspace(session: NamedDependency[AsyncSession]) -> Access:
    """Give a handler the workspace of its path, in which its declared permission is sure."""
    access: Access = session.info["access"]
    return access


Caller = NamedDependency[Principal]
InWorkspace = NamedDependency[Access]
