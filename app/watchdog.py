"""How long a turn of the event loop takes, and work that is cut so that none takes long."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Hashable

TICK_SECONDS = 0.01
KEPT_SECONDS = 60.0
TURN_SECONDS = 0.01
"""Work that yields does so after this long in one turn."""


class Watchdog:
    """Measures the loop's longest turn: while one lasts, no other request or stream goes on.

    Twice: how long it worked, and how long it took. A turn that waits, for a disk or for a pipe
    that nobody reads, does not work. What the system gave to other programs is only in the second.
    """

    def __init__(self) -> None:
        self.now = self.before = (0.0, 0.0)
        """Seconds of work, and of standing still, in this minute and in the one before."""
        self.began_at = time.monotonic()

    @property
    def longest(self) -> float:
        """Seconds of work of the longest turn in the last one to two minutes."""
        return max(self.now[0], self.before[0])

    @property
    def longest_pause(self) -> float:
        """Seconds for which the loop stood still at most in the last one to two minutes."""
        return max(self.now[1], self.before[1])

    def forget(self) -> None:
        """Begin to measure anew."""
        self.now = self.before = (0.0, 0.0)

    async def watch(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def arm() -> None:
            nonlocal timer
            # A timer of the loop's own and no task, which would wait for a second turn.
            timer = loop.call_later(
                TICK_SECONDS, tick, time.monotonic() + TICK_SECONDS, time.thread_time()
            )

        def tick(due: float, worked: float) -> None:
            now = time.monotonic()
            pause, work = now - due, time.thread_time() - worked
            self.now = (max(self.now[0], min(pause, work)), max(self.now[1], pause))
            if now - self.began_at >= KEPT_SECONDS:
                self.now, self.before, self.began_at = (0.0, 0.0), self.now, now
            arm()

        arm()
        try:
            await loop.create_future()
        finally:
            if timer is not None:
                timer.cancel()


class Pace:
    """Tells work of many small steps when a turn of the loop has been long enough.

    Those who wait go on one after the other, one of each lane, and in a lane in the order in which
    they came. Every second turn is one of the lane None: what all have a part in, such as requests
    and the log, waits for one turn of a tenant's readers, and not for that of each.
    """

    def __init__(self) -> None:
        self.until: float | None = None
        self.lanes: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def is_spent(self) -> bool:
        """Whether all that asks here has worked for 10 ms in this turn."""
        now = time.monotonic()
        if self.until is None:
            self.until = now + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self.begin)
        return now >= self.until

    @property
    def is_busy(self) -> bool:
        """Whether what begins now should wait: for the next turn, or behind others."""
        return bool(self.lanes) or self.is_spent

    def begin(self) -> None:
        """Begin a turn with the one who has waited for longest in the lane that is next."""
        self.until = None
        while self.lanes:
            following = self.next()
            if not following.done():
                following.set_result(None)
                # Counts from here on, and begins the next turn.
                _ = self.is_spent
                return

    def next(self) -> asyncio.Future[None]:
        """Take the next one out of its lane."""
        lane, waiting = self.lanes.popitem(last=False)
        following = waiting.popleft()
        if waiting:
            self.lanes[lane] = waiting
        if lane is not None and None in self.lanes:
            self.lanes.move_to_end(None, last=False)
        return following

    async def turn(self, lane: Hashable = None) -> None:
        """Wait for a turn: the rest of the loop goes on meanwhile."""
        _ = self.is_spent
        following = asyncio.get_running_loop().create_future()
        self.lanes.setdefault(lane, deque()).append(following)
        await following
