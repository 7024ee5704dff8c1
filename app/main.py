"""The application: the only place where its parts are put together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from app.auth.dependencies import provide_principal, provide_session, provide_workspace
from app.auth.tickets import Tickets, derive_key
from app.auth.tokens import Tokens
from app.database.check import check_database
from app.database.engines import Database
from app.errors import to_problem
from app.http.addresses import Addresses
from app.http.application import Application, StrictRequest, check_request, finish_headers
from app.http.limits import Failures, Limiter
from app.http.protocol import Connections
from app.logs import configure_logging
from app.metrics import Metrics, Refusals
from app.realtime.cursors import Cursors
from app.realtime.hub import Hub
from app.realtime.tail import Tail
from app.settings import Settings, SettingsError, read_settings
from controllers import CONTROLLERS

MAX_BODY_BYTES = 1024 * 1024
EXPOSED = [
    "ETag",
    "Link",
    "Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Idempotent-Replayed",
    "X-Request-Id",
]


def create_app(
    settings: Settings, controllers: tuple[ControllerRouterHandler, ...] = CONTROLLERS
) -> Application:
    """Put the application together; nothing is opened before its lifespan begins."""
    configure_logging(settings)
    app = Application(
        route_handlers=controllers,
        dependencies={
            "principal": Provide(provide_principal),
            "session": Provide(provide_session),
            "workspace": Provide(provide_workspace),
        },
        lifespan=[lifespan],
        exception_handlers={Exception: to_problem},
        before_request=check_request,
        before_send=[finish_headers],
        cors_config=CORSConfig(
            allow_origins=settings.cors_origins,
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=3600,
        ),
        request_max_body_size=MAX_BODY_BYTES,
        request_class=StrictRequest,
        openapi_config=None,
        logging_config=None,
    )
    app.state.settings = settings
    connections = Connections(settings, Addresses(settings.trusted_proxies))
    app.state.connections = app.connections = connections
    return app


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    """Open what requests need, follow the log, and close it all again."""
    settings: Settings = app.state.settings
    async with Database(settings) as database, httpx.AsyncClient() as http:
        await check_database(database)
        hub = Hub(
            Cursors(derive_key(settings.secret_key, "cursor")),
            capacity=settings.max_streams,
            queries=max(1, settings.pool_size // 2),
        )
        tail = Tail(database.worker, hub, notifies=not database.is_pooled)
        failures = Failures(settings)
        metrics = Metrics(hub, tail, Refusals(app.state.connections, failures))
        app.state.update(
            {
                "database": database,
                "hub": hub,
                "tail": tail,
                "metrics": metrics,
                "limiter": Limiter(settings),
                "failures": failures,
                "tokens": Tokens(settings, http),
                "tickets": Tickets(settings.secret_key),
            }
        )
        running = [
            asyncio.create_task(tail.run()),
            asyncio.create_task(hub.keep_time()),
            asyncio.create_task(metrics.keep_copying()),
        ]
        try:
            await tail.catch_up()
            yield
        finally:
            hub.close()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def __getattr__(name: str) -> Any:
    """Make `app` when a server asks for it: `uvicorn app.main:app`.

    Importing this module needs no settings.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return create_app(read_settings())
    except SettingsError as error:
        raise SystemExit(f"annex: {error}") from None
