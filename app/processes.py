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

RESTART_SECONDS, MAX_RESTART_SECONDS = 1.0, 30.0
"""Before a process that died is replaced: twice as long each time that it was not ready before."""
KILL_SECONDS = 20.0
"""A process that is asked to stop and has not after these is killed."""


class ServerProcess:
    """One server process and what it tells."""

    def __init__(self, settings: Settings, host: str, port: int, failures: int = 0) -> None:
        # Spawned, not forked: it shares no connection, no lock and no loop with its parent.
        context = multiprocessing.get_context("spawn")
        self.told, tells = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=work, args=(settings, host, port, tells), name="annex-server"
        )
        self.process.start()
        tells.close()
        self.is_ready = self.has_told = False
        self.failures = failures
        """Processes in this one's place that ended before they were ready."""
        self.replace_at: float | None = None
        """When to replace it, once it has ended; by the monotonic clock."""

    def end(self) -> str:
        """Note that the process has ended; returns the sentence why, if it told one."""
        said = "" if self.has_told else self.listen()
        self.failures = 0 if self.is_ready else self.failures + 1
        pause = min(RESTART_SECONDS * 2 ** max(0, self.failures - 1), MAX_RESTART_SECONDS)
        self.replace_at = time.monotonic() + pause
        log.error(
            "a server process died and is replaced",
            exit_code=self.process.exitcode,
            in_seconds=pause,
        )
        return said

    def listen(self) -> str:
        """Take what it tells: that it is ready, or the sentence why it cannot be."""
        self.has_told = True
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
                if said := watch(
                    processes, lambda failures: ServerProcess(shared, host, port, failures), forget
                ):
                    if not has_started:
                        raise SettingsError(said)
                    log.error("a server process could not be replaced", error=said)
                if not has_started and all(p.is_ready for p in processes):
                    has_started = True
                    ready(url_of(host, port))
        finally:
            stop(processes, settings.stop_seconds)


def watch(
    processes: list[ServerProcess],
    start: Callable[[int], ServerProcess],
    forget: Callable[[int], None],
) -> str:
    """Wait half a second for news and replace processes that died; returns why one cannot start.

    `start` is told how often a process in this place has failed.
    """
    alive = [p for p in processes if p.replace_at is None]
    telling = [p.told for p in alive if not p.has_told]
    news = wait([*telling, *(p.process.sentinel for p in alive)], timeout=0.5)
    if not alive:
        time.sleep(0.1)  # to wait for nothing takes no time
    said = ""
    for n, each in enumerate(processes):
        # The exit code first: the pipe of a process that is gone has news for ever.
        if each.replace_at is None and each.process.exitcode is not None:
            said = each.end() or said
            forget(each.process.pid or 0)
        elif each.replace_at is None and not each.has_told and each.told in news:
            said = each.listen() or said
        elif each.replace_at is not None and time.monotonic() >= each.replace_at:
            processes[n] = start(each.failures)
    return said


def stop(processes: list[ServerProcess], stop_seconds: float) -> None:
    """End every process, each with its streams drained; `stop_seconds` as in the settings."""
    for each in processes:
        each.process.terminate()
    deadline = time.monotonic() + KILL_SECONDS + stop_seconds
    for each in processes:
        each.process.join(max(0.0, deadline - time.monotonic()))
        if each.process.is_alive():
            log.error("a server process did not stop in time and is killed")
            each.process.kill()
