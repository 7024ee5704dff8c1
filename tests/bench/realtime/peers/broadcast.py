"""A broadcast for the peers that have none of their own."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any


class Broadcast:
    """A queue for each subscriber."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[Any]] = set()
        self.numbers = itertools.count(1)

    def publish(self, message: Any) -> None:
        """Give every subscriber the same object."""
        for queue in self.queues:
            queue.put_nowait(message)

    async def subscribe(self, first: Any) -> AsyncIterator[Any]:
        """Yield a first message, and then what is published."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues.add(queue)
        try:
            yield first
            while True:
                yield await queue.get()
        finally:
            self.queues.discard(queue)
