"""Fair turns at a scarce resource, such as connections to the database."""

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from typing import TypeAlias

Queues: TypeAlias = "OrderedDict[str, deque[asyncio.Future[None]]]"
"""What waits of one group: a queue for each principal."""


class Turns:
    """Limits how many things are under way at once: in all, of each principal and of each group.

    A group is what they are about, such as a workspace. A share is never all of them, unless there
    is only one. Principals that wait are served by turns, one of each group and of each principal
    in it. So neither a principal with hundreds of things to do nor hundreds of principals of one
    workspace delay the others for longer than one thing takes. A principal with nothing under way
    comes first, because one may ask for hundreds of groups, such as workspaces that do not exist.
    """

    def __init__(self, size: int, each: int) -> None:
        self.free = size
        self.each = max(1, min(size - 1, each))
        self.under_way = Counter[str]()
        self.of_groups = Counter[str]()
        self.waiting: OrderedDict[str, Queues] = OrderedDict()

    def take_now(self, whose: str, group: str | None = None) -> bool:
        """Take a turn if one is free; the caller then calls `give`."""
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
        """Wait for a turn; the caller then calls `give`."""
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
        """Give a turn to the next that waits with fewer than `each`; returns whether any did."""
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
        """Hold a turn for as long as the block runs."""
        await self.take(whose)
        try:
            yield
        finally:
            self.give(whose)
