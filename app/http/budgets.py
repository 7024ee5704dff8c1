"""Budgets of what tenants share: streams, filters, what they publish, and answers kept for them."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from uuid import UUID

from app.database.statements import one_spelling
from app.errors import RateLimited, TooManyEvents, TooManyFilters, TooManyStreams
from app.http.limits import MAX_CALLERS, Buckets
from app.principals import Principal
from app.settings import Settings

STREAM_RETRY_SECONDS = 10


class StreamBudget:
    """Counts the open streams of each principal, workspace and address, and their filters.

    Each process holds its part of a limit, as it does of the rate limit.
    """

    def __init__(self, settings: Settings) -> None:
        part = settings.processes
        self.limits = {
            "principal": max(1, settings.max_streams_per_principal // part),
            "workspace": max(1, settings.max_streams_per_workspace // part),
            "address": max(1, settings.max_streams_per_address // part),
        }
        self.max_filters = max(1, settings.max_filters_per_workspace // part)
        self.open = Counter[tuple[str, str]]()
        self.filters = dict[str, Counter[Hashable]]()
        self.refused = Counter[str]()

    def enter(
        self, *, principal: str, workspace: str, address: str, filtered: Hashable
    ) -> Callable[[], None]:
        """Count a stream; returns what gives its place back, however often that is called.

        Raises `TooManyStreams` or `TooManyFilters`, and counts nothing then.
        """
        keys = [("principal", principal), ("workspace", workspace), ("address", address)]
        for kind, value in keys:
            if self.open[kind, value] >= self.limits[kind]:
                self.refused[TooManyStreams.code] += 1
                raise TooManyStreams(
                    f"This {kind} has {self.limits[kind]} streams open; close some.",
                    headers={"Retry-After": str(STREAM_RETRY_SECONDS)},
                )
        in_use = self.filters.get(workspace, Counter())
        if filtered not in in_use and len(in_use) >= self.max_filters:
            self.refused[TooManyFilters.code] += 1
            raise TooManyFilters(
                f"The workspace's streams use {self.max_filters} different filters; share some.",
                headers={"Retry-After": str(STREAM_RETRY_SECONDS)},
            )
        self.filters.setdefault(workspace, in_use)[filtered] += 1
        self.open.update(keys)
        is_open = True

        def leave() -> None:
            nonlocal is_open
            if not is_open:
                return
            is_open = False
            for key in keys:
                drop(self.open, key)
            drop(self.filters[workspace], filtered)
            if not self.filters[workspace]:
                del self.filters[workspace]

        return leave


def drop(counter: "Counter[tuple[str, str]] | Counter[Hashable]", key: Hashable) -> None:
    """Count one less, and forget what is no more."""
    counter[key] -= 1  # type: ignore[index]
    if counter[key] <= 0:  # type: ignore[index]
        del counter[key]


class PublishBudget:
    """Counts the events and bytes that each workspace publishes over HTTP in a minute.

    A request takes its own before it publishes, and gives them back if it fails: so those under way
    count, and only those who may publish spend. A workspace goes into debt by one request at most.
    Each process holds its part of a limit.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        part = settings.processes
        self.events = Buckets(max(1, settings.max_events_per_minute // part), 60, clock)
        self.bytes = Buckets(max(1, settings.max_event_bytes_per_minute // part), 60, clock)
        self.known = OrderedDict[tuple[str, str], UUID]()
        """The workspace where a principal may publish, by the name that it used in the path."""
        self.refused = Counter[str]()

    def find(self, principal: str, ws: str) -> UUID | None:
        """Return the workspace of a name, if the principal was let in there before."""
        return self.known.get((principal, one_spelling(ws)))

    def learn(self, principal: str, ws: str, workspace_id: UUID) -> None:
        """Note that a principal was let into the workspace of a name."""
        name = (principal, one_spelling(ws))
        self.known.pop(name, None)
        self.known[name] = workspace_id
        if len(self.known) > MAX_CALLERS:
            self.known.popitem(last=False)

    def forget(self, principal: str, ws: str) -> None:
        """Note that a principal was not let in."""
        self.known.pop((principal, one_spelling(ws)), None)

    def check(self, workspace_id: UUID) -> None:
        """Raise `TooManyEvents` while the workspace is in debt."""
        key = str(workspace_id)
        for buckets, what in ((self.events, "events"), (self.bytes, "bytes of events")):
            tokens = buckets.tokens(key)
            if tokens < 1:
                self.refused[TooManyEvents.code] += 1
                wait = buckets.wait(tokens)
                raise TooManyEvents(
                    f"The workspace published more than {buckets.capacity} {what} in a minute; "
                    f"wait {wait} s.",
                    headers={"Retry-After": str(wait)},
                )

    def spend(self, workspace_id: UUID, events: int, size: int) -> None:
        """Count events and bytes; fewer than none are given back."""
        self.events.spend(str(workspace_id), events)
        self.bytes.spend(str(workspace_id), size)


class Share:
    """What one request publishes: taken once, and given back if it was not published."""

    def __init__(self, budget: PublishBudget, events: int, size: int) -> None:
        self.budget = budget
        self.events, self.size = events, size
        self.workspace_id: UUID | None = None
        """Whose budget it was taken from."""

    def take(self, workspace_id: UUID) -> None:
        """Take it from a workspace to which the caller was let in; raises `TooManyEvents`."""
        self.budget.check(workspace_id)
        self.budget.spend(workspace_id, self.events, self.size)
        self.workspace_id = workspace_id

    def give_back(self) -> None:
        """Give back what was taken."""
        if self.workspace_id is not None:
            self.budget.spend(self.workspace_id, -self.events, -self.size)
            self.workspace_id = None

    def settle(self, workspace_id: UUID) -> None:
        """Let the workspace that was published to pay: a slug may have gone to another one."""
        if self.workspace_id not in (None, workspace_id):
            self.give_back()
            self.budget.spend(workspace_id, self.events, self.size)


class AnswerBudget:
    """Counts the bytes of the answers that are kept for idempotency keys, in 24 hours.

    Of each user and operator, and of all API keys of a workspace together. Counted once they are
    kept, so that the last one may exceed it. Each process holds its part of the limit.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        part = max(1, settings.max_kept_answer_bytes // settings.processes)
        self.bytes = Buckets(part, 24 * 60 * 60, clock)
        self.refused = 0

    def check(self, principal: Principal) -> None:
        """Raise `RateLimited` while there is no room for another answer."""
        tokens = self.bytes.tokens(principal.turn)
        if tokens >= 1:
            return
        self.refused += 1
        wait = self.bytes.wait(tokens)
        raise RateLimited(
            f"More than {self.bytes.capacity} bytes of answers are kept for your idempotency keys "
            f"of 24 hours; wait {wait} s, or send the request without one.",
            headers={"Retry-After": str(wait)},
        )

    def count(self, principal: Principal, size: int) -> None:
        """Count an answer that was kept."""
        self.bytes.spend(principal.turn, size)
