"""Rate limits: one token bucket a caller (draft-ietf-httpapi-ratelimit-headers)."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from app.errors import RateLimited
from app.settings import Settings

MAX_CALLERS = 50_000


class Limiter:
    """Lets each caller make a number of requests at once, refilled evenly over a window.

    No library here: those at hand count in fixed or sliding windows or wait, and cost more than the
    check is worth.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = max(1, settings.rate_limit_requests // settings.processes)
        self.per_second = self.capacity / settings.rate_limit_window_seconds
        self.clock = clock
        self.policy = f'"default";q={self.capacity};w={settings.rate_limit_window_seconds}'
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, state: dict[str, Any]) -> None:
        """Take one token; raises `RateLimited` when there is none.

        The headers go to the request's state.
        """
        now = self.clock()
        tokens, then = self.buckets.pop(caller, (float(self.capacity), now))
        tokens = min(self.capacity, tokens + (now - then) * self.per_second)
        is_over = tokens < 1
        tokens -= not is_over
        self.buckets[caller] = (tokens, now)
        if len(self.buckets) > MAX_CALLERS:
            # The one that called longest ago: its bucket is the fullest.
            self.buckets.popitem(last=False)
        full_in = math.ceil((self.capacity - tokens) / self.per_second)
        headers = {
            "RateLimit-Policy": self.policy,
            "RateLimit": f'"default";r={int(tokens)};t={full_in}',
        }
        if is_over:
            wait = math.ceil((1 - tokens) / self.per_second)
            raise RateLimited(
                f"More than {self.capacity} requests; wait {wait} s.",
                headers={**headers, "Retry-After": str(wait)},
            )
        state["headers"] = headers
