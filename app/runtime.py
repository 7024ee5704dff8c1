"""What the application holds while it runs; opened by its lifespan, typed, in one place."""

from typing import Any

import msgspec
from litestar.connection import ASGIConnection

from app.auth.signing import Signer
from app.auth.tickets import Tickets
from app.auth.tokens import Tokens
from app.database.pools import Database
from app.http.budgets import AnswerBudget, PublishBudget, StreamBudget
from app.http.connections import Connections
from app.http.limits import Failures, Limiter
from app.metrics import Metrics
from app.realtime.hub import Hub
from app.realtime.tail import Tail
from app.settings import Settings
from app.supervision import Supervised
from app.watchdog import Watchdog


class Runtime(msgspec.Struct, frozen=True):
    """Everything that a request may need."""

    settings: Settings
    database: Database
    hub: Hub
    tail: Tail
    tasks: list[Supervised]
    """What runs beside requests; while one is down, the process is not ready."""
    metrics: Metrics
    watchdog: Watchdog
    connections: Connections
    limiter: Limiter
    failures: Failures
    streams: StreamBudget
    publishing: PublishBudget
    answers: AnswerBudget
    tokens: Tokens
    signer: Signer
    tickets: Tickets


def runtime_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Runtime:
    """Return the runtime of the application that a request reached."""
    return runtime_in(connection.scope)


def runtime_in(scope: Any) -> Runtime:
    """Return the runtime of the application that a scope names."""
    found: Runtime = scope["litestar_app"].runtime
    return found
