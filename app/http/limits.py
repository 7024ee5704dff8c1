"""Rate limits: token buckets of callers, workspaces, keys and addresses that failed.

The headers are those of draft-ietf-httpapi-ratelimit-headers.
"""

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TypeAlias

from app.errors import NotFound, RateLimited, TooManyFailures
from app.principals import Principal
from app.problems import read
from app.request_state import RequestState
from app.settings import Settings

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Of an answer, their names in lower case."""

MAX_CALLERS = 50_000
KNOWN_SECONDS = 600.0
"""How long a credential that was accepted is let past the failures of others."""


class Buckets:
    """A token bucket for each key: so many tokens at once, refilled evenly over a window.

    No library here: those at hand count in fixed or sliding windows or wait, and cost more than the
    check is worth.
    """

    def __init__(
        self, capacity: int, window_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity = capacity
        self.per_second = capacity / window_seconds
        self.clock = clock
        self.found: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def tokens(self, key: str) -> float:
        """Return how many tokens a key has now."""
        return self.tokens_at(key, self.clock())

    def tokens_at(self, key: str, now: float) -> float:
        """Return how many tokens a key has at a moment."""
        if (found := self.found.get(key)) is None:
            return float(self.capacity)
        return min(float(self.capacity), found[0] + (now - found[1]) * self.per_second)

    def take(self, key: str, count: float = 1) -> tuple[bool, float]:
        """Take tokens; returns whether there were enough, and how many are left."""
        now = self.clock()
        tokens = self.tokens_at(key, now)
        is_enough = tokens >= count
        tokens -= count if is_enough else 0
        self.put(key, tokens, now)
        return is_enough, tokens

    def put(self, key: str, tokens: float, now: float) -> None:
        """Note how many tokens a key has at a moment."""
        self.found[key] = (tokens, now)
        self.found.move_to_end(key)
        if len(self.found) > MAX_CALLERS:
            # The one that called longest ago: its bucket is the fullest.
            self.found.popitem(last=False)

    def spend(self, key: str, count: float) -> None:
        """Take tokens that may not be there; the key waits until its debt is paid."""
        now = self.clock()
        self.put(key, self.tokens_at(key, now) - count, now)

    def wait(self, tokens: float, count: float = 1) -> int:
        """Return the seconds until that many tokens are there."""
        return max(1, math.ceil((min(count, self.capacity) - tokens) / self.per_second))


class Rate(Buckets):
    """A limit of requests with a name, as the headers have it."""

    def __init__(self, name: str, count: int, window: int, clock: Callable[[], float]) -> None:
        super().__init__(count, window, clock)
        self.name = name
        self.policy = f'"{name}";q={self.capacity};w={window}'
        self.header = (b"ratelimit-policy", self.policy.encode())

    def draw(self, caller: str) -> Headers:
        """Take one of a caller's tokens; returns the headers that say how many are left.

        Raises `RateLimited` when there is none.
        """
        is_enough, tokens = self.take(caller)
        full_in = math.ceil((self.capacity - tokens) / self.per_second)
        left = f'"{self.name}";r={int(tokens)};t={full_in}'
        if not is_enough:
            wait = self.wait(tokens)
            raise RateLimited(
                f"More than {self.capacity} requests; wait {wait} s.",
                headers={
                    "RateLimit-Policy": self.policy,
                    "RateLimit": left,
                    "Retry-After": str(wait),
                },
            )
        return [self.header, (b"ratelimit", left.encode())]


class Limiter:
    """Lets each caller make a number of requests at once, and all keys of a workspace together."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.processes, self.clock = settings.processes, clock
        window = settings.rate_limit_window_seconds
        self.of_callers = self.rate("default", settings.rate_limit_requests, window)
        self.of_workspaces = self.rate("workspace", settings.rate_limit_workspace_requests, window)
        """By the workspace of a key, or more keys would be more requests."""
        self.of_keys: OrderedDict[str, Rate] = OrderedDict()
        """By the key that has a limit of its own, and not by the limit: nobody makes others' go."""
        self.refused = 0

    def rate(self, name: str, count: int, window: int) -> Rate:
        """Make this process's part of a limit."""
        return Rate(name, self.part(count), window, self.clock)

    def part(self, count: int) -> int:
        """Return this process's part of a count; at least one."""
        return max(1, count // self.processes)

    def take(self, principal: Principal, state: RequestState) -> None:
        """Take one token; raises `RateLimited` when there is none.

        A key takes one of its own limit and one of its workspace as well. The headers go to the
        request's state.
        """
        is_key = principal.workspace_id is not None
        if is_key:
            if principal.rate_limit_per_minute is None:  # or no more
                self.of_keys.pop(principal.name, None)
            self.check(principal)
        state.headers += self.spend(principal.name, principal.rate_limit_per_minute)
        if is_key:
            self.of_workspaces.take(principal.turn)

    def check(self, principal: Principal) -> None:
        """Raise `RateLimited` if a key or its workspace has no token left, and take none.

        For what is done before a key is looked up. Its own limit is then what the last look-up
        found, so that a change of it counts as soon as one token is back.
        """
        if self.of_callers.tokens(principal.name) < 1:
            self.spend(principal.name)
        limit, own = principal.rate_limit_per_minute, self.of_keys.get(principal.name)
        is_same = own is not None and (limit is None or own.capacity == self.part(limit))
        if own is not None and is_same and own.tokens(principal.name) < 1:
            self.refused += 1
            own.draw(principal.name)
        if self.of_workspaces.tokens(principal.turn) < 1:
            self.refused += 1
            self.of_workspaces.draw(principal.turn)

    def spend(self, caller: str, per_minute: int | None = None) -> Headers:
        """Take a token of a caller, and none of its workspace; returns the headers.

        Raises and counts `RateLimited`.
        """
        try:
            return self.draw(caller, per_minute)
        except RateLimited:
            self.refused += 1
            raise

    def draw(self, caller: str, per_minute: int | None) -> Headers:
        """Take a token of a caller, and of its key's own limit; raises `RateLimited`."""
        headers = self.of_callers.draw(caller)
        if per_minute is None:
            return headers
        own = self.of_keys.pop(caller, None)
        if own is None or own.capacity != self.part(per_minute):  # or the limit was changed
            own = self.rate("key", per_minute, 60)
        self.of_keys[caller] = own
        if len(self.of_keys) > MAX_CALLERS:
            self.of_keys.popitem(last=False)
        return own.draw(caller)


class Failures:
    """Budgets failed credentials and tokens per client address, before the database is asked.

    A credential that was accepted there lately is tried all the same: others behind the same
    address must not lose their access because one of them guesses.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        capacity = max(1, settings.max_failures_per_address // settings.processes)
        self.buckets = Buckets(capacity, 60, clock)
        self.clock = clock
        self.known: OrderedDict[tuple[str, bytes], tuple[float, Principal]] = OrderedDict()
        """When a credential was accepted from an address for the last time, and whose it was."""
        self.refused = 0

    def begin(self, address: str, digest: bytes) -> Principal | None:
        """Let the credential of a digest be verified; returns whose it was lately, if it is known.

        Raises `TooManyFailures` while the address has spent its budget.
        """
        found = self.known.get((address, digest))
        if found is not None and self.clock() - found[0] < KNOWN_SECONDS:
            return found[1]
        self.check(address)
        return None

    def fail(self, address: str, digest: bytes) -> None:
        """Count a credential that was refused."""
        self.known.pop((address, digest), None)
        self.buckets.take(address)

    def succeed(self, address: str, digest: bytes, principal: Principal) -> None:
        """Remember a credential that was accepted."""
        key = (address, digest)
        self.known[key] = (self.clock(), principal)
        self.known.move_to_end(key)
        if len(self.known) > MAX_CALLERS:
            self.known.popitem(last=False)

    @contextlib.contextmanager
    def guess(self, address: str) -> Iterator[None]:
        """Let a token that needs no principal be tried in here; counts a `NotFound` of it.

        Raises `TooManyFailures` while the address has spent its budget.
        """
        self.check(address)
        try:
            yield
        except Exception as error:
            if isinstance(read(error), NotFound):
                self.buckets.take(address)
            raise

    def check(self, address: str) -> None:
        """Raise `TooManyFailures` while the address has spent its budget."""
        tokens = self.buckets.tokens(address)
        if tokens >= 1:
            return
        self.refused += 1
        wait = self.buckets.wait(tokens)
        raise TooManyFailures(
            f"Too many credentials from this address were refused; wait {wait} s.",
            headers={"Retry-After": str(wait)},
        )
