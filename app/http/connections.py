"""What the connections of one process may hold, and what each client has of it."""

from collections import Counter
from typing import Any, Protocol

from app.http.addresses import Addresses
from app.http.bodies import Bodies
from app.http.unread import Connection, Unread
from app.settings import Settings


class Unsent(Connection, Protocol):
    """A connection with an answer that its client does not take."""

    transport: Any


class Connections:
    """The limits of one process' connections, and what they refused."""

    def __init__(self, settings: Settings, addresses: Addresses) -> None:
        self.addresses = addresses
        self.header_bytes = settings.max_header_bytes
        self.header_seconds = settings.header_seconds
        self.body_seconds = settings.body_seconds
        self.body_rate = settings.body_bytes_per_second
        self.answer_rate = settings.answer_bytes_per_second
        self.per_address = max(1, settings.max_connections_per_address // settings.processes)
        self.open = Counter[str]()
        self.unread = dict[str | None, Unread[Unsent]]()
        """Of each client that does not take an answer."""
        self.bodies = Bodies(
            settings.max_held_bytes_per_address // settings.processes, settings.max_held_bytes
        )
        self.refused = Counter[str]()

    def enter(self, address: str | None) -> bool:
        """Count a connection; says whether its address has no more than it may."""
        if address is None:
            return True
        self.open[address] += 1
        return self.open[address] <= self.per_address

    def leave(self, address: str | None) -> None:
        """Count a connection that ended."""
        if address is None:
            return
        self.open[address] -= 1
        if not self.open[address]:
            del self.open[address]

    def hold(self, connection: Unsent, client: str | None) -> None:
        """Note that a client does not take an answer; ends the oldest ones if it holds too much."""
        held = self.unread.setdefault(client, Unread())
        held.add(connection)
        for oldest in held.excess():
            self.refused["unread"] += 1
            oldest.transport.abort()

    def let_go(self, connection: Unsent, client: str | None) -> None:
        """Note that a client took an answer, or is gone."""
        if (held := self.unread.get(client)) is not None:
            held.remove(connection)
            if not held.sizes:
                del self.unread[client]

    @property
    def total(self) -> int:
        """How many connections of limited addresses are open."""
        return self.open.total()
