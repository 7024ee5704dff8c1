"""Rate limits: one token bucket a caller (draft-ietf-httpapi-ratelimit-headers)."""

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from app.errors import NotFound, RateLimited, TooManyFailures, Unauthorized
from app.principals import Principal
from app.problems import read
from app.request_state import RequestState
from app.settings import Settings

MAX_CALLERS = 50_000
MAX_RATES = 1000
"""Different limits of keys that are counted at once; the one that came first is forgotten."""
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
        if key not in self.found:
            return float(self.capacity)
        tokens, then = self.found[key]
        return min(float(self.capacity), tokens + (self.clock() - then) * self.per_second)

    def take(self, key: str, count: float = 1) -> tuple[bool, float]:
        """Take tokens; returns whether there were enough, and how many are left."""
        tokens = self.tokens(key)
        is_enough = tokens >= count
        tokens -= count if is_enough else 0
        self.found.pop(key, None)
        self.found[key] = (tokens, self.clock())
        if len(self.found) > MAX_CALLERS:
            # The one that called longest ago: its bucket is the fullest.
            self.found.popitem(last=False)
        return is_enough, tokens

    def spend(self, key: str, count: float) -> None:
        """Take tokens that may not be there; the key waits until its debt is paid."""
        tokens = self.tokens(key) - count
        self.take(key, 0)
        self.found[key] = (tokens, self.clock())

    def wait(self, tokens: float, count: float = 1) -> int:
        """Return the seconds until that many tokens are there."""
        return max(1, math.ceil((min(count, self.capacity) - tokens) / self.per_second))


class Limiter:
    """Lets each caller make a number of requests at once, and all keys of a workspace together."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.processes, self.clock = settings.processes, clock
        self.window = settings.rate_limit_window_seconds
        self.buckets = self.part(settings.rate_limit_requests, self.window)
        self.of_workspaces = self.part(settings.rate_limit_workspace_requests, self.window)
        """By the workspace of a key, or more keys would be more requests."""
        self.of_rates: OrderedDict[int, Buckets] = OrderedDict()
        self.refused = 0

    def part(self, count: int, window: int) -> Buckets:
        """Make this process's part of a limit."""
        return Buckets(max(1, count // self.processes), window, self.clock)

    def take(self, principal: Principal, state: RequestState) -> None:
        """Take one token; raises `RateLimited` when there is none.

        A key takes one of its own limit and one of its workspace as well. The headers go to the
        request's state.
        """
        is_key = principal.workspace_id is not None
        if is_key:
            self.check(principal.name, principal.turn)
        state.headers.update(self.spend(principal.name, principal.rate_limit_per_minute))
        if is_key:
            self.of_workspaces.take(principal.turn)

    def check(self, caller: str, turn: str | None = None) -> None:
        """Raise `RateLimited` if a caller or a key's workspace has no token left, and take none.

        For what is done before the caller's own limit is known, such as a look-up of its key.
        `turn` is the principal's.
        """
        if self.buckets.tokens(caller) < 1:
            self.spend(caller)
        if turn is not None and self.of_workspaces.tokens(turn) < 1:
            self.refused += 1
            draw(self.of_workspaces, "workspace", self.window, turn)

    def spend(self, caller: str, per_minute: int | None = None) -> dict[str, str]:
        """Do what `take` does for no request, of a caller alone; returns the headers."""
        try:
            return self.draw(caller, per_minute)
        except RateLimited:
            self.refused += 1
            raise

    def draw(self, caller: str, per_minute: int | None) -> dict[str, str]:
        headers = draw(self.buckets, "default", self.window, caller)
        if per_minute is None:
            return headers
        if per_minute not in self.of_rates:
            self.of_rates[per_minute] = self.part(per_minute, 60)
            if len(self.of_rates) > MAX_RATES:
                self.of_rates.popitem(last=False)
        return draw(self.of_rates[per_minute], "key", 60, caller)


def draw(buckets: Buckets, name: str, window: int, caller: str) -> dict[str, str]:
    """Take one of a caller's tokens; returns the headers that say how many are left.

    Raises `RateLimited` when there is none.
    """
    is_enough, tokens = buckets.take(caller)
    full_in = math.ceil((buckets.capacity - tokens) / buckets.per_second)
    headers = {
        "RateLimit-Policy": f'"{name}";q={buckets.capacity};w={window}',
        "RateLimit": f'"{name}";r={int(tokens)};t={full_in}',
    }
    if not is_enough:
        wait = buckets.wait(tokens)
        raise RateLimited(
            f"More than {buckets.capacity} requests; wait {wait} s.",
            headers={**headers, "Retry-After": str(wait)},
        )
    return headers


class Attempt:
    """A credential that is verified; whose it is, if that is known before or then."""

    __slots__ = ("name", "turn")

    def __init__(self, name: str | None, turn: str | None) -> None:
        self.name = name
        self.turn = turn

    def succeed(self, principal: Principal) -> None:
        """Say whose it is."""
        self.name, self.turn = principal.name, principal.turn


class Failures:
    """Budgets failed credentials and tokens per client address, before the database is asked.

    A credential that was accepted lately is tried all the same: others behind the same address must
    not lose their access because one of them guesses.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        capacity = max(1, settings.max_failures_per_address // settings.processes)
        self.buckets = Buckets(capacity, 60, clock)
        self.clock = clock
        self.known: OrderedDict[bytes, tuple[float, str | None, str | None]] = OrderedDict()
        """When a credential was accepted for the last time, its principal's name and turn."""
        self.refused = 0

    @contextlib.contextmanager
    def attempt(self, address: str, digest: bytes) -> Iterator[Attempt]:
        """Let the credential of a digest be verified in here; counts an `Unauthorized` of it.

        Yields whose it was when it was accepted lately; takes whose it is. Raises
        `TooManyFailures` while the address has spent its budget.
        """
        accepted_at, name, turn = self.known.get(digest, (-math.inf, None, None))
        is_known = self.clock() - accepted_at < KNOWN_SECONDS
        if not is_known:
            self.check(address)
        attempt = Attempt(name, turn) if is_known else Attempt(None, None)
        try:
            yield attempt
        except Unauthorized:
            self.known.pop(digest, None)
            self.buckets.take(address)
            raise
        self.known.pop(digest, None)
        self.known[digest] = self.clock(), attempt.name, attempt.turn
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
