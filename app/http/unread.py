"""What one client does not read of its answers, over all of its connections, is bounded."""

from typing import Generic, Protocol, TypeVar

MAX_UNREAD_BYTES = 16 * 1024 * 1024
"""Of answers that one client does not take, over all of its connections."""


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
