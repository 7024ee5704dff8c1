"""Our own runner around uvicorn: clear errors before it starts, streams that end when it stops."""

import asyncio
import contextlib
import errno
import gc
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from app.database.check import check_database
from app.database.pools import Database
from app.http.application import Application
from app.http.protocol import protocol_with
from app.main import create_app
from app.runtime import Runtime
from app.settings import Settings, SettingsError

GRACE_SECONDS = 5
"""What is not a stream may take so long to end, once the streams have ended."""
BACKLOG = 4096
UNSENT_BYTES = 16 * 1024
"""Of a connection, in the kernel; it would take 4 MB for a reader that does not read."""
UNREAD_BYTES = 64 * 1024
"""Of a connection, in the kernel, before the server reads it."""
STALLED_SECONDS = 30
"""After these the kernel resets a connection whose other end takes or confirms nothing."""
COLLECT = (50_000, 20, 100)
"""The collector's thresholds: a full round over 10,000 streams stops all of them for long."""


class Server(uvicorn.Server):
    """Ends open streams before uvicorn waits for them, which it would do for ever."""

    def __init__(
        self,
        app: Application,
        config: uvicorn.Config,
        ready: Callable[[], None] | None = None,
        leave_with: int | None = None,
    ) -> None:
        super().__init__(config)
        self.app = app
        self.ready = ready
        self.leave_with = leave_with
        self.began = asyncio.Event()
        self.hurried = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM, and do not raise them again: what follows must still run."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        if self.leave_with is not None:
            loop.add_reader(self.leave_with, self.leave)
        try:
            yield
        finally:
            if self.leave_with is not None:
                loop.remove_reader(self.leave_with)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def leave(self) -> None:
        """Stop as on SIGTERM: who started us is gone."""
        assert self.leave_with is not None
        asyncio.get_running_loop().remove_reader(self.leave_with)
        self.handle_exit(signal.SIGTERM, None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell `ready` once requests are taken."""
        await super().startup(sockets)
        if self.started:
            self.began.set()
            if self.ready is not None:
                self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell load balancers, take no more, let every stream end, then stop as uvicorn does."""
        runtime: Runtime | None = getattr(self.app, "runtime", None)
        if runtime is not None:
            runtime.hub.is_leaving = True
            await self.linger(runtime.settings.stop_seconds)
        for server in self.servers:
            server.close()
        if runtime is not None:
            await runtime.hub.drain()
        await super().shutdown(sockets)

    async def linger(self, seconds: float) -> None:
        """Go on serving for so long, or until a second SIGINT."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.hurried.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second SIGINT waits for nothing."""
        super().handle_exit(sig, frame)
        if self.force_exit:
            self.hurried.set()


def bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Bind the port; raises `SettingsError` when that cannot be.

    A shared one takes a part of the connections (SO_REUSEPORT): each process has a socket of its
    own, as streams would crowd in the process that happens to accept first.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        cure = "stop what runs there or choose another with --port (`make run PORT=8010`)"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            cure = "name an address of this machine with --host, such as 127.0.0.1 or 0.0.0.0"
        raise SettingsError(
            f"Port {port} on {host} cannot be used ({reason.lower()}); {cure}."
        ) from None
    return bound


def listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Bind the port and listen; connections inherit what is set here."""
    listener = bind(host, port, is_shared=is_shared)
    # Linux; elsewhere a reader that does not read costs more, and for longer.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)
    # In the kernel, and so in one read: a body is not taken before somebody asks for it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
    listener.listen(BACKLOG)
    return listener


def configure(app: Application, settings: Settings) -> uvicorn.Config:
    """Say how uvicorn serves the application, within its limits."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol_with(app.connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # The protocol reads the client's address itself, by ANNEX_TRUSTED_PROXIES.
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )


def url_of(host: str, port: int) -> str:
    """Write the URL of what listens there."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def raise_file_limit() -> None:
    """Allow as many open files as may be: each stream is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    is_shared: bool = False,
    ready: Callable[[str], None] | None = None,
    create: Callable[[Settings], Application] = create_app,
    leave_with: int | None = None,
) -> None:
    """Serve the application that `create` makes until SIGINT or SIGTERM.

    `leave_with` is a file descriptor that becomes readable when it is time to stop. Raises
    `SettingsError` for a port in use or a database that cannot be served.
    """
    raise_file_limit()
    listener = listen(host, port, is_shared=is_shared)
    with contextlib.closing(listener):
        asyncio.run(check(settings))
        app = create(settings)
        config = configure(app, settings)
        url = url_of(host, listener.getsockname()[1])
        server = Server(app, config, ready and (lambda: ready(url)), leave_with)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(run(server, listener))


async def run(server: Server, listener: socket.socket) -> None:
    """Run the server until it stops."""
    serving = asyncio.create_task(server.serve([listener]))
    began = asyncio.create_task(server.began.wait())
    await asyncio.wait({serving, began}, return_when=asyncio.FIRST_COMPLETED)
    began.cancel()
    settle()
    await serving


def settle() -> None:
    """Spare the collector, with every round, what was made up to here: it stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)


async def check(settings: Settings) -> None:
    """Try the database before anything is started."""
    async with Database(settings) as database:
        await check_database(database)
