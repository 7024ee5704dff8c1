"""What a request carries from its first byte to the end of its answer, typed."""

from collections.abc import Callable
from typing import Any

import msgspec

from app.principals import Principal

NAME = "annex"
"""Under which a scope's state holds it."""


class RequestState(msgspec.Struct):
    """The request's id, and what its answer needs beside its body."""

    request_id: str
    began_at: float
    """In seconds of `time.perf_counter`."""
    send: Any
    """The server's own `send`: a stream's messages pass hooks and middleware by."""
    principal: Principal | None = None
    """The caller, once it is known and within its limits."""
    verified: Principal | None = None
    """Whose the credential is, for the log: its request may still be refused."""
    headers: list[tuple[bytes, bytes]] = []
    """Sent with every answer, unless the answer has set them; names are in lower case."""
    ending: list[Callable[[], None]] = []
    """Called in reverse order when the answer is over, also when it was cut off."""
    refused: str | None = None
    """The code of a limit of the database's that refused it."""


def state_of(scope: Any) -> RequestState:
    """Return the state of the request that a scope describes."""
    found: RequestState = scope["state"][NAME]
    return found


def logged(scope: Any) -> dict[str, Any]:
    """Return what a log line says of a request: its path, id, principal and workspace.

    The workspace is as the path names it, or else the key's. No query, which may hold a ticket, and
    nothing of a credential but the prefix of an operator's key.
    """
    state = state_of(scope)
    caller, ws = state.verified, (scope.get("path_params") or {}).get("ws")
    if ws is None and caller is not None and caller.workspace_id is not None:
        ws = str(caller.workspace_id)
    return {
        "path": scope["path"],
        "principal": None if caller is None else caller.name,
        "workspace": ws,
        "request_id": state.request_id,
    }
