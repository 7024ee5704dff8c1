"""Several server processes on one port: `annex serve --workers`."""

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import msgspec
import structlog

from app.logs import configure_logging
from app.metrics import shared_by_processes
from app.server import bind, serve, url_of
from app.settings import Settings, SettingsError

log = structlog.get_logger()

RESTART_SECONDS = 1.0
"""Before a process that died is replaced; a cause that stays must not eat a core."""
KILL_SECONDS = 20.0
"""A process that is asked to stop and has not after these is killed."""


class ServerProcess:
    """One server process and what it tells."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        # Spawned, not forked: it shares no connection, no lock and no loop with its parent.
        context = multiprocessing.get_context("spawn")
        self.told, tells = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=work, args=(settings, host, port, tells), name="annex-server"
        )
        self.process.start()
        tells.close()
        self.is_ready = False

    def listen(self) -> str:
        """Take what it tells: that it is ready, or the sentence why it cannot be."""
        try:
            message: str = self.told.recv()
        except EOFError:
            return "A server process ended before it was ready; the lines above say why."
        self.is_ready = not message
        return message


def work(settings: Settings, host: str, port: int, tells: Connection) -> None:
    """Serve in a process of its own, until it is told to stop or its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    try:
        serve(
            settings,
            host,
            port,
            is_shared=True,
            ready=lambda _: tells.send(""),
            leave_with=parent.sentinel,
        )
    except SettingsError as error:
        tells.send(str(error))


def serve_together(
    settings: Settings, host: str, port: int, count: int, *, ready: Callable[[str], None]
) -> None:
    """Keep a number of server processes on one port until SIGINT or SIGTERM.

    Each has its own socket, log tail and hub; one that dies is replaced. Raises `SettingsError` for
    a port in use or a database that cannot be served.
    """
    bind(host, port).close()  # a shared one would bind beside a stranger's and split its requests
    configure_logging(settings)
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopping.append(number))
    shared = msgspec.structs.replace(settings, processes=settings.processes * count)
    # The socket holds the port and takes no connection: it does not listen.
    with shared_by_processes() as forget, bind(host, port, is_shared=True) as holder:
        port = holder.getsockname()[1]
        processes = [ServerProcess(shared, host, port) for _ in range(count)]
        try:
            has_started = False
            while not stopping:
                if said := watch(processes, lambda: ServerProcess(shared, host, port), forget):
                    if not has_started:
                        raise SettingsError(said)
                    log.error("a server process could not be replaced", error=said)
                if not has_started and all(p.is_ready for p in processes):
                    has_started = True
                    ready(url_of(host, port))
        finally:
            stop(processes)


def watch(
    processes: list[ServerProcess],
    start: Callable[[], ServerProcess],
    forget: Callable[[int], None],
) -> str:
    """Wait half a second for news, and replace whoever died; returns why one could not start."""
    telling = [p.told for p in processes if not p.is_ready]
    news = wait([*telling, *(p.process.sentinel for p in processes)], timeout=0.5)
    said = ""
    for n, each in enumerate(processes):
        if each.told in news:
            said = each.listen() or said
        elif each.process.exitcode is not None:
            log.error("a server process died and is replaced", exit_code=each.process.exitcode)
            forget(each.process.pid or 0)
            time.sleep(RESTART_SECONDS)
            processes[n] = start()
    return said


def stop(processes: list[ServerProcess]) -> None:
    """End every process, each with its streams drained."""
    for each in processes:
        each.process.terminate()
    deadline = time.monotonic() + KILL_SECONDS
    for each in processes:
        each.process.join(max(0.0, deadline - time.monotonic()))
        if each.process.is_alive():
            log.error("a server process did not stop in time and is killed")
            each.process.kill()
