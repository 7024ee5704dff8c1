"""What requests' bodies hold of the memory is bounded: of one client, and of the process."""

from collections import Counter
from collections.abc import Callable

from app.errors import Problem, RateLimited, Unavailable

SMALL_BYTES = 16 * 1024
"""A smaller body is not counted: as many as a client has connections are no danger."""
LARGEST_BYTES = 2 * 1024 * 1024
"""No limit is smaller, so that one body always has room."""
RETRY_SECONDS = "5"


class Body:
    """One body, from the moment that it is no small one until its request is answered."""

    def __init__(self, client: str, end: Callable[[Problem], None]) -> None:
        self.client = client
        self.end = end
        """Gives the request up, whose body has not arrived whole."""
        self.size = 0
        self.is_whole = self.is_over = False


class Bodies:
    """Counts the bodies that are being received, or were and wait to be answered.

    Beyond a client's limit, or the process', the oldest body that has not arrived whole is given
    up: of the client, or of the one that holds the most. If all of theirs are whole, the body that
    grows is given up. A client is an address. A client may send no more than is left to all others,
    so that the whole bodies of a few clients never fill the process.
    """

    def __init__(self, of_client: int, of_process: int) -> None:
        self.of_client = max(LARGEST_BYTES, of_client)
        self.of_process = max(LARGEST_BYTES, of_process)
        self.held = dict[str, dict[Body, None]]()
        """Of each client, the oldest first."""
        self.sizes = Counter[str]()
        self.total = 0

    def grow(self, body: Body, size: int) -> None:
        """Count that so many bytes of a body have arrived, and make room for them."""
        if body.is_over:
            return
        more, body.size = size - body.size, size
        self.held.setdefault(body.client, {})[body] = None
        self.sizes[body.client] += more
        self.total += more
        # What a client may hold shrinks while others grow: its whole bodies alone may be beyond it.
        # So a search ends when the body that grows has gone: nothing else may be left to go.
        while self.sizes[body.client] > (most := self.most_of_client()):
            gone = self.give_up(
                body.client,
                body,
                RateLimited(
                    f"This address sends more than {most} bytes at once; send less.",
                    headers={"Retry-After": RETRY_SECONDS},
                ),
            )
            if gone is body:
                return
        while self.total > self.of_process:
            gone = self.give_up(
                max(self.sizes, key=self.sizes.__getitem__),
                body,
                Unavailable(
                    "Too much is being sent to the server; try again in a moment.",
                    headers={"Retry-After": RETRY_SECONDS},
                ),
            )
            if gone is body:
                return

    def most_of_client(self) -> int:
        """Return how much a client may hold now: not less than one body."""
        return max(LARGEST_BYTES, min(self.of_client, self.of_process - self.total))

    def give_up(self, client: str, last: Body, problem: Problem) -> Body:
        """Give a client's oldest body up that is not whole; if all are, the last one. Return it."""
        oldest = next((each for each in self.held[client] if not each.is_whole), last)
        self.remove(oldest)
        oldest.end(problem)
        return oldest

    def remove(self, body: Body) -> None:
        """Count a body no more, however much of it still comes."""
        if body.is_over:
            return
        body.is_over = True
        of_client = self.held[body.client]
        del of_client[body]
        self.total -= body.size
        self.sizes[body.client] -= body.size
        if not of_client:
            del self.held[body.client], self.sizes[body.client]
