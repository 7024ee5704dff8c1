"""The application: the only place where its parts are put together."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from typing import Any

import httpx
from litestar import Litestar, Request
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from app.auth.dependencies import admit, provide_principal, provide_read, provide_write
from app.auth.signing import Signer
from app.auth.tickets import Tickets, derive_key
from app.auth.tokens import Tokens
from app.database.check import check_database
from app.database.pools import API_NAME, WORKER_NAME, Database
from app.http.addresses import Addresses
from app.http.application import Application, StrictRequest, check_request
from app.http.budgets import AnswerBudget, PublishBudget, StreamBudget
from app.http.caches import remember_little
from app.http.connections import Connections
from app.http.idempotency import provide_once
from app.http.limits import Failures, Limiter
from app.http.responses import StructResponse
from app.logs import configure_logging, warn_of_misspelt
from app.metrics import Metrics, refusals
from app.problems import to_problem
from app.realtime.cursors import Cursors
from app.realtime.hub import Hub
from app.realtime.tail import Tail
from app.runtime import Runtime
from app.settings import Settings, SettingsError, read_settings
from app.supervision import Supervised
from app.watchdog import Pace, Watchdog
from controllers import CONTROLLERS

# Where a dev server serves a page from, on whatever port.
LOCALHOST = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"
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
    settings: Settings,
    controllers: tuple[ControllerRouterHandler, ...] = CONTROLLERS,
    beside: Callable[[Database], Sequence[Supervised]] = lambda _: (),
    *,
    is_worker: bool = False,
) -> Application:
    """Put the application together; nothing is opened before its lifespan begins.

    `beside` makes further tasks that run as long as the application. One that `is_worker` holds no
    streams and does not follow the log.
    """
    configure_logging(settings)
    app = Application(
        route_handlers=controllers,
        dependencies={
            "principal": Provide(provide_principal),
            "read": Provide(provide_read),
            "write": Provide(provide_write),
            "once": Provide(provide_once),
        },
        lifespan=[partial(lifespan, settings, beside, is_worker)],
        exception_handlers={Exception: to_problem},
        before_request=before_request,
        cors_config=CORSConfig(
            allow_origins=settings.cors_origins,
            allow_origin_regex=LOCALHOST if settings.is_development else None,
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=3600,
        ),
        request_max_body_size=MAX_BODY_BYTES,
        request_class=StrictRequest,
        response_class=StructResponse,
        openapi_config=None,
        logging_config=None,
    )
    remember_little(app)
    app.pace = Pace()
    addresses = Addresses(settings.trusted_proxies, settings.client_address_header)
    app.connections = Connections(settings, addresses)
    return app


async def before_request(request: Request[Any, Any, Any]) -> None:
    """Refuse what can be refused before a body is read."""
    check_request(request)
    await admit(request)


@cache
def authorities() -> ssl.SSLContext:
    """Read the certificates that the key set's server is checked against, once a process.

    They take 50 ms of CPU.
    """
    return httpx.create_ssl_context()


@contextlib.asynccontextmanager
async def lifespan(
    settings: Settings,
    beside: Callable[[Database], Sequence[Supervised]],
    is_worker: bool,
    app: Litestar,
) -> AsyncIterator[None]:
    """Open what requests need, run the background tasks, and close it all again."""
    assert isinstance(app, Application)
    name = WORKER_NAME if is_worker else API_NAME
    async with (
        Database(settings, name) as database,
        httpx.AsyncClient(verify=authorities()) as http,
    ):
        await check_database(database)
        hub = Hub(
            Cursors(derive_key(settings.secret_key, "cursor")),
            capacity=settings.max_streams,
            queries=max(1, settings.pool_size // 2),
            pace=app.pace,
        )
        tail = Tail(database.worker, hub, notifies=not database.is_pooled)
        failures = Failures(settings)
        signer = Signer(settings.signing_key, settings.issuer)
        streams, publishing = StreamBudget(settings), PublishBudget(settings)
        limiter, answers = Limiter(settings), AnswerBudget(settings)
        refused = partial(
            refusals,
            app.connections,
            limiter,
            failures,
            streams,
            publishing,
            answers,
            database,
            hub,
        )
        watchdog = Watchdog()
        tasks = [Supervised("watchdog", watchdog.watch), *beside(database)]
        if not is_worker:
            tasks += [*tail.tasks(), Supervised("hub", hub.keep_time)]
        metrics = Metrics(
            hub,
            tail,
            tasks,
            refused,
            app.connections,
            watchdog,
            database,
            has_streams=not is_worker,
        )
        tasks.append(Supervised("metrics", metrics.keep_copying))
        app.runtime = Runtime(
            settings=settings,
            database=database,
            hub=hub,
            tail=tail,
            tasks=tasks,
            metrics=metrics,
            watchdog=watchdog,
            connections=app.connections,
            limiter=limiter,
            failures=failures,
            streams=streams,
            publishing=publishing,
            answers=answers,
            tokens=Tokens(settings, http, signer),
            signer=signer,
            tickets=Tickets(settings.secret_key),
        )
        running = [asyncio.create_task(task.keep()) for task in tasks]
        try:
            if not is_worker:
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
        warn_of_misspelt()
        return create_app(read_settings())
    except SettingsError as error:
        raise SystemExit(f"annex: {error}") from None
