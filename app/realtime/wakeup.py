"""Wake-ups between processes: NOTIFY after a commit, so that other tails read at once."""

import asyncio
from collections.abc import Callable

from app.database.drivers import Driver

CHANNEL = "annex_log"
COALESCE_SECONDS = 0.005
"""Between two notifications, because each takes a lock that all databases of a server share."""
LISTEN_AGAIN_SECONDS = 30.0
ANSWER_SECONDS = 10
"""A server that is silent for longer counts as dead, because its socket may never tell."""


class Wakeup:
    """Tells other processes of a commit, and hears of theirs.

    Only for speed, because tails poll as well: a notification that is lost costs some milliseconds.
    Never in a writer's transaction, because its COMMIT would then wait for all others that notify.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self.heard = heard
        self.due = asyncio.Event()

    def tell(self) -> None:
        """Notify soon."""
        self.due.set()

    async def follow(self, driver: Driver) -> None:
        """Listen, and notify when it is due."""
        own_pid = driver.get_server_pid()

        def hear(_: object, pid: int, *__: object) -> None:
            if pid != own_pid:
                self.heard()

        # Nothing here is worth a wait for the disk.
        await driver.execute("set synchronous_commit = off", timeout=ANSWER_SECONDS)
        async with asyncio.timeout(ANSWER_SECONDS):
            await driver.add_listener(CHANNEL, hear)
        driver.add_termination_listener(lambda _: self.due.set())
        while True:
            try:
                async with asyncio.timeout(LISTEN_AGAIN_SECONDS):
                    await self.due.wait()
            except TimeoutError:
                # Shows whether the connection still lives.
                await driver.execute(f"listen {CHANNEL}", timeout=ANSWER_SECONDS)
                continue
            self.due.clear()
            await driver.execute(f"notify {CHANNEL}", timeout=ANSWER_SECONDS)
            await asyncio.sleep(COALESCE_SECONDS)
