"""What one client does not read of its answers is bounded in bytes, and in time."""

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

MAX_UNREAD_BYTES = 16 * 1024 * 1024
"""Of answers that one client does not take, over all of its connections."""
PACE_SECONDS = 30.0
"""How often the rate is checked at which a client takes an answer."""


class Connection(Protocol):
    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that wait for the client."""


ConnectionT = TypeVar("ConnectionT", bound=Connection)


class Unread(Generic[ConnectionT]):
    """The connections of one client with an answer that it does not take, the oldest first."""

    def __init__(self) -> None:
        self.sizes = dict[ConnectionT, int]()
        """In bytes, as they were when the connection was added: no fewer than now."""
        self.total = 0

    def add(self, connection: ConnectionT) -> None:
        """Count what a connection has not taken."""
        self.remove(connection)
        self.sizes[connection] = connection.unread_bytes
        self.total += connection.unread_bytes

    def remove(self, connection: ConnectionT) -> None:
        """Count a connection no more; one that was not added is ignored."""
        self.total -= self.sizes.pop(connection, 0)

    def excess(self) -> list[ConnectionT]:
        """Remove the oldest connections while the client holds too much; returns them.

        A quarter below the limit, so that thousands of connections are not counted for each one.
        """
        if self.total <= MAX_UNREAD_BYTES:
            return []
        self.sizes = {each: each.unread_bytes for each in self.sizes}
        self.total = sum(self.sizes.values())
        if self.total <= MAX_UNREAD_BYTES:
            return []
        found = []
        while self.total > MAX_UNREAD_BYTES * 3 // 4 and len(self.sizes) > 1:
            found.append(next(iter(self.sizes)))
            self.remove(found[-1])
        return found


class Pace:
    """Ends an answer that its client takes too slowly, while the server waits to write more."""

    def __init__(self, connection: Connection, rate: int, end: Callable[[], None]) -> None:
        self.connection = connection
        self.rate = rate
        """In bytes a second, over `PACE_SECONDS`."""
        self.end = end
        self.unread_bytes = 0
        self.timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch. Nothing is written meanwhile, so what waits only becomes less."""
        self.unread_bytes = self.connection.unread_bytes
        self.timer = asyncio.get_running_loop().call_later(PACE_SECONDS, self.check)

    def stop(self) -> None:
        """Watch no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def check(self) -> None:
        """End the answer, or go on to watch it."""
        if self.unread_bytes - self.connection.unread_bytes < self.rate * PACE_SECONDS:
            self.end()
        else:
            self.start()
