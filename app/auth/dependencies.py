"""What a handler may ask for: its caller, and the caller's ways to the database."""

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeAlias

import msgspec
from litestar import Request
from litestar.di import NamedDependency

from app.auth import keys
from app.auth.tickets import Ticket
from app.database.reads import Read
from app.database.statements import Scope
from app.database.work import Write
from app.errors import (
    AddressNotAllowed,
    InvalidKey,
    InvalidRequest,
    KeyRequired,
    MissingCredentials,
    OperatorRequired,
    Unauthorized,
    UserRequired,
)
from app.http.links import link_next
from app.principals import Principal
from app.request_state import state_of
from app.runtime import runtime_of

Verify: TypeAlias = Callable[
    [Request[Any, Any, Any], bytes, bytes, Principal | None], Awaitable[Principal]
]

Turn: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""Lends a turn at the database, for as long as a key is looked up."""
NO_TURN: Turn = contextlib.nullcontext


def may(permission: str, **others: Any) -> dict[str, Any]:
    """Say in a handler's `opt` who may call it, and what else its signature does not show.

    `public`, `any` (whoever is authenticated), `user`, `key`, `operator`, or a permission in the
    path's workspace. `own_permission` is enough for a user who names themselves in the path.
    `request_media_types` are checked here (`app.http.application`); the others, such as
    `response_media_types`, are for the drift check.
    """
    return {"permission": permission, **others}


async def authenticate(request: Request[Any, Any, Any], turn: Turn = NO_TURN) -> Principal:
    """Verify the request's bearer credential; a key is looked up in a turn.

    Raises an `Unauthorized` that says what is wrong with it, and `RateLimited` before the database
    is asked for a caller who has spent their requests.
    """
    sent = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(sent) > 1:
        raise InvalidRequest("Send one Authorization header.")
    scheme, _, credential = sent[0].partition(b" ") if sent else (b"", b"", b"")
    credential = credential.strip()
    if scheme.lower() != b"bearer" or not credential:
        raise MissingCredentials("Send `Authorization: Bearer <access token or key>`.")
    return await attempt(request, credential, partial(verify, turn=turn))


async def identify(
    request: Request[Any, Any, Any], ticket: str | None, turn: Turn, *, is_reconnect: bool
) -> tuple[Principal, Ticket | None]:
    """Return a stream's reader, by a valid bearer credential or else its ticket, and that ticket.

    Only a key's look-up takes a turn: the key set's host may hang while a token waits for it.
    Raises what `authenticate` raises, and `InvalidTicket`.
    """
    if ticket is None:
        return await authenticate(request, turn), None
    if "authorization" in request.headers:
        with contextlib.suppress(Unauthorized):
            return await authenticate(request, turn), None
    runtime = runtime_of(request)
    used = runtime.tickets.read(ticket, request.scope["path"], is_reconnect=is_reconnect)
    principal = used.principal
    runtime.limiter.check(principal)
    if principal.prefix is None:
        return await refresh(request, principal, turn), used
    # Each of a key's tickets is the same key again: one that is refused costs a look-up.
    return (
        await attempt(
            request, principal.prefix.encode(), lambda *_: refresh(request, principal, turn)
        ),
        used,
    )


async def attempt(request: Request[Any, Any, Any], credential: bytes, verify: Verify) -> Principal:
    """Let a credential be verified, within the failures that its address may have."""
    runtime = runtime_of(request)
    source = runtime.connections.addresses.of(request.scope)
    digest = hashlib.sha256(credential).digest()
    known = runtime.failures.begin(source, digest)
    try:
        found = await verify(request, credential, digest, known)
    except (Unauthorized, AddressNotAllowed):
        runtime.failures.fail(source, digest)
        raise
    runtime.failures.succeed(source, digest, found)
    return found


async def verify(
    request: Request[Any, Any, Any],
    credential: bytes,
    digest: bytes,
    known: Principal | None,
    turn: Turn = NO_TURN,
) -> Principal:
    """Verify a token or a key, whose SHA-256 `digest` is; `known` is whose it was lately."""
    runtime, text = runtime_of(request), credential.decode("latin-1")
    if not text.startswith("annex_"):
        principal = await runtime.tokens.verify(text, digest)
        if principal.kind == "api_key":
            runtime.limiter.check(principal)
            principal = await refresh(request, principal, turn)
        return principal
    key = keys.Key.read(text)
    if key.kind == "op":
        return keys.operator(key.prefix, digest, runtime.settings.operator_key_hashes)
    if known is not None:
        runtime.limiter.check(known)
    addresses = runtime.connections.addresses
    whose = addresses.of(request.scope) if known is None else known.turn
    address = addresses.client(request.scope)
    async with turn():
        return await keys.look_up(runtime.database.api, key.prefix, address, whose, digest)


async def refresh(
    request: Request[Any, Any, Any], principal: Principal, turn: Turn = NO_TURN
) -> Principal:
    """Look up whether a principal that was verified before still holds.

    Raises `InvalidKey` when it is no more, `AddressNotAllowed` when its key is not taken from the
    request's address.
    """
    runtime = runtime_of(request)
    if principal.kind == "operator":
        if principal.key_hash not in runtime.settings.operator_key_hashes:
            raise InvalidKey("The operator key is no longer in the settings.")
        return principal
    if principal.kind != "api_key":
        return principal
    if principal.prefix is None:
        raise InvalidKey("The key is unknown, expired or revoked; make a new one.")
    address = runtime.connections.addresses.client(request.scope)
    pool = runtime.database.api
    async with turn():
        found = await keys.look_up(pool, principal.prefix, address, principal.turn)
    if found.id != principal.id:
        raise InvalidKey("The key is unknown, expired or revoked; make a new one.")
    if not principal.is_exchanged:
        return found
    ends = [e for e in (found.expires_at, principal.expires_at) if e is not None]
    return msgspec.structs.replace(found, expires_at=min(ends), is_exchanged=True)


async def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    """Give a handler its caller, within the caller's rate limit."""
    limiter, state = runtime_of(request).limiter, state_of(request.scope)
    if state.principal is not None:
        return state.principal
    state.verified = principal = await authenticate(request)
    limiter.take(principal, state)
    permission = request.route_handler.opt["permission"]
    if permission == "user" and principal.kind != "user":
        raise UserRequired("Only a signed-in user can do this; send a user's access token.")
    if permission == "key" and (principal.kind != "api_key" or principal.is_exchanged):
        raise KeyRequired("Only an API key can do this; send the key itself.")
    if permission == "operator" and principal.kind != "operator":
        raise OperatorRequired("Only an operator can do this; send an operator's key.")
    state.principal = principal
    return principal


async def admit(request: Request[Any, Any, Any]) -> None:
    """Authenticate before a body is read: a stranger's is not buffered beyond 64 KiB."""
    handler = request.route_handler
    if handler.parsed_data_field is not None and handler.opt["permission"] != "public":
        await provide_principal(request)


def scope_of(request: Request[Any, Any, Any], principal: Principal) -> Scope:
    """Say who asks, in the workspace of the path, by the operation's permission."""
    opt, named = request.route_handler.opt, request.path_params
    permission = opt["permission"]
    if principal.kind == "user" and str(named.get("user_id")) == principal.id:
        permission = opt.get("own_permission", permission)
    return Scope(principal, named.get("ws"), permission)


# These call `provide_principal` themselves: a dependency of a dependency costs as much as both do.
async def provide_read(request: Request[Any, Any, Any]) -> Read:
    """Give a handler its way to read: one statement."""
    scope = scope_of(request, await provide_principal(request))
    return Read(runtime_of(request).database.api, scope, partial(link_next, request))


async def provide_write(request: Request[Any, Any, Any]) -> Write:
    """Give a handler its way to write; nothing is opened yet."""
    scope = scope_of(request, await provide_principal(request))
    runtime = runtime_of(request)
    return Write(runtime.database.api, scope, runtime.tail.wake)


Caller = NamedDependency[Principal]
