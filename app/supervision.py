"""Background tasks that must not end: restarted with back-off, counted, and known to be down."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import structlog

from app.database.drivers import Driver
from app.database.pools import POOLER_HINT, UNREACHABLE, Pool, is_poolers
from app.errors import Unavailable, causes
from app.logs import reason_of

log = structlog.get_logger()

BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next try, the longer the more tries have failed."""
SETTLED_SECONDS = 1.0
"""A task that ran for longer had recovered before it failed again."""
DOWN_SECONDS = 30.0
"""A task that has kept failing for longer is down."""


class Supervised:
    """One task that is restarted for ever."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self.run = run
        self.restarts = 0
        self.began_at = math.inf
        """When the try that runs now began; infinite while it waits for the next."""
        self.failing_since: float | None = None

    @property
    def is_down(self) -> bool:
        """Whether the task has kept failing."""
        if self.failing_since is None:
            return False
        now = time.monotonic()
        return now - self.failing_since > DOWN_SECONDS and now - self.began_at < SETTLED_SECONDS

    async def keep(self) -> None:
        """Run until cancelled; restarts after an error or a return, with back-off."""
        failures = 0
        while True:
            self.began_at = time.monotonic()
            try:
                await self.run()
                error: Exception | None = None
            except Exception as raised:
                error = raised
            if time.monotonic() - self.began_at > SETTLED_SECONDS:
                failures, self.failing_since = 0, None
            self.began_at = math.inf
            self.failing_since = self.failing_since or time.monotonic()
            self.restarts += 1
            pause = BACKOFF[min(failures, len(BACKOFF) - 1)]
            failures += 1
            self.tell(error, pause)
            await asyncio.sleep(pause)

    def tell(self, error: Exception | None, pause: float) -> None:
        """Log why the task ended, with a traceback only if the error is not expected."""
        found = list(causes(error)) if error else []
        is_pooler = any(is_poolers(e) for e in found)
        expected = is_pooler or any(isinstance(e, (*UNREACHABLE, Unavailable)) for e in found)
        # Never a message: a driver's quotes what it was given.
        reason = ", from ".join(reason_of(e) for e in found) or "it returned"
        log.warning(
            "a background task ended and is begun again",
            task=self.name,
            again_in_seconds=pause,
            error=POOLER_HINT if is_pooler else reason,
            exc_info=None if expected else error,
        )


def using(pool: Pool, use: Callable[[Driver], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Lend a connection to a task for as long as it runs; it is closed afterwards."""

    async def run() -> None:
        async with pool.lend(is_kept=False) as driver:
            await use(driver)

    return run
