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
    """The caller, once it is known."""
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
