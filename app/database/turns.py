"""Turns at what is scarce, such as the database: fair to all who want one, however often."""

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator


class Turns:
    """Lets a number of things be under way at once, and of each principal not more than its share.

    A share is never all, unless there is only one. Those who wait are served by turns, one of each
    principal, so that a principal with hundreds of things to do delays nobody for longer than one
    of them takes.
    """

    def __init__(self, size: int, each: int) -> None:
        self.free = size
        self.each = max(1, min(size - 1, each))
        self.under_way = Counter[str]()
        self.waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def take_now(self, whose: str) -> bool:
        """Take a turn if there is one; whoever got it calls `give`."""
        if not self.free or whose in self.waiting or self.under_way[whose] >= self.each:
            return False
        self.free -= 1
        self.under_way[whose] += 1
        return True

    async def take(self, whose: str) -> None:
        """Wait for a turn; whoever got one calls `give`."""
        if self.take_now(whose):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(whose, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(whose)
            raise

    def give(self, whose: str) -> None:
        """Give a turn back; others may take it."""
        self.free += 1
        self.under_way[whose] -= 1
        if not self.under_way[whose]:
            del self.under_way[whose]
        if whose in self.waiting:
            self.waiting.move_to_end(whose)
        while self.free and (following := self.following()) is not None:
            self.free -= 1
            self.under_way[following] += 1

    def following(self) -> str | None:
        """Call the next one who waits; returns whose turn it is, None if it is nobody's."""
        for whose in list(self.waiting):
            turns = self.waiting[whose]
            while turns and turns[0].done():
                turns.popleft()  # it was cancelled
            if turns and self.under_way[whose] >= self.each:
                continue
            called = turns.popleft() if turns else None
            if turns:
                self.waiting.move_to_end(whose)
            else:
                del self.waiting[whose]
            if called is not None:
                called.set_result(None)
                return whose
        return None

    @contextlib.asynccontextmanager
    async def of(self, whose: str) -> AsyncIterator[None]:
        """Take a turn for as long as it lasts in here."""
        await self.take(whose)
        try:
            yield
        finally:
            self.give(whose)
