"""What Prometheus reads: of all processes that serve one port together, whichever answers."""

import asyncio
import contextlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncpg

from app.database.pools import Database
from app.errors import RateLimited, TooManyFailures, Unavailable
from app.http.budgets import AnswerBudget, PublishBudget, StreamBudget
from app.http.connections import Connections
from app.http.limits import Failures, Limiter
from app.realtime.hub import Hub
from app.realtime.tail import Tail
from app.supervision import Supervised
from app.watchdog import Watchdog

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
ASK_SECONDS = 2.0
COPY_SECONDS = 1.0
"""How old a number of another process may be."""
NO_STREAM_ANSWER = "no_stream_answer"
"""How the refusals of streams are called whose own query was too late."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
MEDIA_TYPE = "text/plain; version=0.0.4"

Read = Callable[[Hub, Tail], float]
# The library adds `_total` to these. docs/operations.md says what each tells.
COUNTERS: dict[str, tuple[str, Read]] = {
    "annex_stream_deliveries": (
        "Events handed to a reader, one for each reader.",
        lambda hub, _: hub.counts.deliveries,
    ),
    "annex_stream_replays": (
        "Streams that read their past from the database.",
        lambda hub, _: hub.counts.replays,
    ),
    "annex_stream_resets": (
        "Times a reader was told that its cursor could not be kept.",
        lambda hub, _: hub.counts.resets,
    ),
    "annex_stream_slow_reader_disconnects": (
        "Streams that ended while their reader did not take what it was sent.",
        lambda hub, _: hub.counts.slow_readers,
    ),
    "annex_streams_refused": (
        "Streams that were not opened because the process was full.",
        lambda hub, _: hub.counts.refused,
    ),
    "annex_log_gap": (
        "Times that the log lacked positions when it was read.",
        lambda _, tail: tail.gaps,
    ),
    "process_cpu_seconds": (
        "CPU time of all processes.",
        lambda *_: sum(os.times()[:2]),
    ),
}
# Of several processes: the sum, the least or the greatest of those that live.
GAUGES: dict[str, tuple[str, str, Read]] = {
    "annex_stream_connections": (
        "livesum",
        "Streams that are open.",
        lambda hub, _: hub.counts.connections,
    ),
    "annex_tail_head": (
        "livemin",
        "The last position of the log that was read.",
        lambda hub, _: hub.head,
    ),
    "annex_tail_lag_seconds": (
        "livemax",
        "Since the last read that came to the end of the log.",
        lambda _, tail: tail.lag_seconds,
    ),
    "process_resident_memory_bytes": (
        "livesum",
        "Memory of all processes.",
        lambda *_: resident_bytes(),
    ),
}


OF_EVERY_PROCESS = {"process_cpu_seconds", "process_resident_memory_bytes"}
"""Of both tables: what a process without streams tells as well."""


def refusals(
    connections: Connections,
    limiter: Limiter,
    failures: Failures,
    streams: StreamBudget,
    publishing: PublishBudget,
    answers: AnswerBudget,
    database: Database,
    hub: Hub,
) -> dict[str, int]:
    """Return how often each limit refused something, by the problem's code.

    Of `unavailable`, by what was not to be had. Added up, because a code may have several limits.
    """
    found = Counter(
        {
            NO_STREAM_ANSWER: hub.counts.unanswered,
            RateLimited.code: limiter.refused + answers.refused,
            TooManyFailures.code: failures.refused,
        }
    )
    for counted in (connections, streams, publishing, database.api, database.worker):
        found.update(counted.refused)
    return found


class Metrics:
    """One process' numbers.

    What others count in plain numbers is only copied, so that counting stays cheap.
    """

    def __init__(
        self,
        hub: Hub,
        tail: Tail,
        tasks: Sequence[Supervised],
        refused: Callable[[], dict[str, int]],
        connections: Connections,
        watchdog: Watchdog,
        database: Database,
        *,
        has_streams: bool = True,
    ) -> None:
        # When it is imported, the library asks whether processes share their numbers: not before
        # the one that starts them could say so.
        import prometheus_client as library

        library.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.hub = hub
        self.tail = tail
        self.count_refused = refused
        self.connections = connections
        self.watchdog = watchdog
        self.database = database
        self.tasks = tasks
        self.registry = own = library.CollectorRegistry()
        told = {*COUNTERS, *GAUGES} if has_streams else OF_EVERY_PROCESS
        self.counters = {
            name: library.Counter(name, text, registry=own)
            for name, (text, _) in COUNTERS.items()
            if name in told
        }
        self.copied = dict.fromkeys(self.counters, 0.0)
        self.gauges = {
            name: library.Gauge(name, text, registry=own, multiprocess_mode=mode)  # type: ignore[arg-type]
            for name, (mode, text, _) in GAUGES.items()
            if name in told
        }
        self.requests = library.Histogram(
            "annex_http_request_duration_seconds",
            "Until an answer begins.",
            ["operation", "status"],
            registry=own,
            buckets=BUCKETS,
        )
        self.refused = library.Counter(
            "annex_refused",
            "Requests and connections that a limit refused, by the problem's code.",
            ["code"],
            registry=own,
        )
        self.refused_before = dict[str, int]()
        self.open_connections = library.Gauge(
            "annex_http_connections",
            "Connections that are open.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.longest_turn, self.longest_pause = (
            library.Gauge(name, text, registry=own, multiprocess_mode="livemax")
            for name, text in (
                (
                    "annex_loop_longest_turn_seconds",
                    "The longest turn of the event loop in the last one to two minutes: CPU time.",
                ),
                (
                    "annex_loop_longest_pause_seconds",
                    "For how long the event loop stood still at most in that time.",
                ),
            )
        )
        self.in_use, self.waiting = (
            library.Gauge(name, text, registry=own, multiprocess_mode="livesum")
            for name, text in (
                ("annex_database_connections_in_use", "Connections that serve requests now."),
                ("annex_database_requests_waiting", "Requests that wait for a connection."),
            )
        )
        self.fanout_lag, self.fanouts_given_up = (
            library.Gauge(name, text, registry=own, multiprocess_mode="livemostrecent")
            for name, text in (
                ("annex_fanout_lag_seconds", "Since an event has been due for fan-out."),
                ("annex_fanouts_given_up", "Events whose fan-out failed for too often."),
            )
        )
        self.slow_queries = library.Counter(
            "annex_slow_queries", "Statements that took longer than allowed.", registry=own
        )
        self.slow_before = 0
        self.restarts = library.Counter(
            "annex_task_restarts",
            "Times that a background task ended and was begun again.",
            ["task"],
            registry=own,
        )
        self.restarted = dict[str, int]()
        self.observers: dict[tuple[str, int], Callable[[float], None]] = {}

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count an answer."""
        observer = self.observers.get((operation, status))
        if observer is None:
            observer = self.requests.labels(operation, str(status)).observe
            self.observers[operation, status] = observer
        observer(seconds)

    async def keep_copying(self) -> None:
        """Let other processes tell this one's numbers, until cancelled."""
        while True:
            self.copy()
            await asyncio.sleep(COPY_SECONDS)

    def copy(self) -> None:
        """Copy the numbers as they are now."""
        for name, counter in self.counters.items():
            now = COUNTERS[name][1](self.hub, self.tail)
            counter.inc(now - self.copied[name])
            self.copied[name] = now
        for name, gauge in self.gauges.items():
            gauge.set(GAUGES[name][2](self.hub, self.tail))
        self.longest_turn.set(self.watchdog.longest)
        self.longest_pause.set(self.watchdog.longest_pause)
        self.open_connections.set(self.connections.total)
        self.in_use.set(self.database.api.lent)
        self.waiting.set(self.database.api.waiting)
        slow = self.database.api.slow + self.database.worker.slow
        self.slow_queries.inc(slow - self.slow_before)
        self.slow_before = slow
        for code, count in self.count_refused().items():
            self.refused.labels(code).inc(count - self.refused_before.get(code, 0))
            self.refused_before[code] = count
        for task in self.tasks:
            more = task.restarts - self.restarted.get(task.name, 0)
            self.restarts.labels(task.name).inc(more)
            self.restarted[task.name] = task.restarts

    async def text(self) -> bytes:
        """Write the numbers in Prometheus' text format, version 0.0.4: of all processes."""
        self.copy()
        await self.ask()
        # In a thread: it takes some ten milliseconds, for which no stream should wait.
        return await asyncio.to_thread(self.write)

    async def ask(self) -> None:
        """Ask the database for the worker's numbers; keep those of before if it does not answer."""
        with contextlib.suppress(Unavailable, TimeoutError, asyncpg.PostgresError):
            async with asyncio.timeout(ASK_SECONDS), self.database.worker.lend() as driver:
                [row] = await driver.fetch(
                    "select coalesce(extract(epoch from clock_timestamp() - due_since), 0)::float8,"
                    " given_up from annex.fanout_health()"
                )
                self.fanout_lag.set(row[0])
                self.fanouts_given_up.set(row[1])

    def write(self) -> bytes:
        """Write what was counted and copied."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self.registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


@contextlib.contextmanager
def shared_by_processes() -> Iterator[Callable[[int], None]]:
    """Let the processes that are started in here tell each other's numbers.

    Yields what is to be called with the id of each process that has ended: what it counted stays
    counted, its streams are no more.
    """
    with tempfile.TemporaryDirectory(prefix="annex-metrics-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield forget
        finally:
            del os.environ[FOLDER]


def forget(pid: int) -> None:
    """Drop what only holds while a process lives."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def resident_bytes() -> float:
    """Return the memory of this process; not a number where there is no /proc."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return math.nan
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
