"""Turns at what is scarce, such as the database: fair to all who want one, however often."""

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from typing import TypeAlias

Queues: TypeAlias = "OrderedDict[str, deque[asyncio.Future[None]]]"
"""Who waits, of one group: a queue a principal."""


class Turns:
    """Lets a number of things be under way at once, and of each principal not more than its share.

    Neither more of each group, which is what they are about, such as a workspace. A share is never
    all, unless there is only one. Those who wait are served by turns, one of each group and of each
    principal in it, so that neither a principal with hundreds of things to do nor hundreds of
    principals of one workspace delay the others for longer than one of these things takes. Who has
    nothing under way comes first: a principal may ask for hundreds of groups, such as workspaces
    that do not exist.
    """

    def __init__(self, size: int, each: int) -> None:
        self.free = size
        self.each = max(1, min(size - 1, each))
        self.under_way = Counter[str]()
        self.of_groups = Counter[str]()
        self.waiting: OrderedDict[str, Queues] = OrderedDict()

    def take_now(self, whose: str, group: str | None = None) -> bool:
        """Take a turn if there is one; whoever got it calls `give`."""
        group = group or whose
        if (
            not self.free
            or self.under_way[whose] >= self.each
            or self.of_groups[group] >= self.each
            or whose in self.waiting.get(group, ())
        ):
            return False
        self.begin(whose, group)
        return True

    def begin(self, whose: str, group: str) -> None:
        """Count a turn."""
        self.free -= 1
        self.under_way[whose] += 1
        self.of_groups[group] += 1

    async def take(self, whose: str, group: str | None = None) -> None:
        """Wait for a turn; whoever got one calls `give`."""
        if self.take_now(whose, group):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queues = self.waiting.setdefault(group or whose, OrderedDict())
        queues.setdefault(whose, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(whose, group)
            raise

    def give(self, whose: str, group: str | None = None) -> None:
        """Give a turn back; others may take it."""
        group = group or whose
        self.free += 1
        for counter, key in ((self.under_way, whose), (self.of_groups, group)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        if (queues := self.waiting.get(group)) is not None:
            self.waiting.move_to_end(group)
            if whose in queues:
                queues.move_to_end(whose)
        while self.free and (self.call_next(1) or self.call_next(self.each)):
            pass

    def call_next(self, each: int) -> bool:
        """Give a turn to the next one who waits and has fewer than `each`; returns whether any."""
        for group in list(self.waiting):
            if self.of_groups[group] >= self.each:
                continue
            queues = self.waiting[group]
            for whose in list(queues):
                turns = queues[whose]
                while turns and turns[0].done():
                    turns.popleft()  # it was cancelled
                if turns and self.under_way[whose] >= each:
                    continue
                called = turns.popleft() if turns else None
                if turns:
                    queues.move_to_end(whose)
                else:
                    del queues[whose]
                if called is None:
                    continue
                if queues:
                    self.waiting.move_to_end(group)
                else:
                    del self.waiting[group]
                self.begin(whose, group)
                called.set_result(None)
                return True
            if not queues:
                del self.waiting[group]
        return False

    @contextlib.asynccontextmanager
    async def of(self, whose: str) -> AsyncIterator[None]:
        """Take a turn for as long as it lasts in here."""
        await self.take(whose)
        try:
            yield
        finally:
            self.give(whose)
