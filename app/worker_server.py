"""`annex worker` with a port: its readers and jobs beside a server of health and metrics."""

from collections.abc import Callable
from functools import partial

import msgspec

from app.main import create_app
from app.server import serve
from app.settings import Settings
from app.worker.housekeeping import tasks_of
from controllers import WORKER_CONTROLLERS


def serve_worker(settings: Settings, host: str, port: int, *, ready: Callable[[str], None]) -> None:
    """Run the worker and serve `/health`, `/health/ready` and `/metrics` until SIGINT or SIGTERM.

    Raises `SettingsError` for a port in use, a database that cannot be served, and templates that
    cannot be used.
    """
    create = partial(
        create_app, controllers=WORKER_CONTROLLERS, beside=tasks_of(settings), is_worker=True
    )
    # A worker that is told to stop begins no other batch, so it does not serve on either.
    serve(msgspec.structs.replace(settings, stop_seconds=0), host, port, ready=ready, create=create)
