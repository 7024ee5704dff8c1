"""Feeds: whose events a reader follows, and what the reader may see of them."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Set
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

MAX_CHANGED = 10_000
"""Workspaces of which it is remembered one by one that rights changed there."""


class Feed(msgspec.Struct, frozen=True):
    """A workspace's events, or the personal ones of a user."""

    kind: Literal["workspace", "user"]
    id: UUID

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @staticmethod
    def id_of(entry: Any) -> UUID:
        """Return the id of the feed that an entry of the log belongs to."""
        found: UUID = entry["user_id"] or entry["workspace_id"]
        return found


class Guarded(Protocol):
    """What of an event says who may see it."""

    @property
    def workspace_id(self) -> UUID: ...

    @property
    def permission(self) -> str | None: ...


class Sight:
    """What a reader holds, by workspace: the same rule as the policy `events_select`.

    Hashable, so that readers with the same sight share their bytes.
    """

    __slots__ = ("_hash", "grants")

    def __init__(self, grants: Mapping[UUID, frozenset[str]]) -> None:
        self.grants = grants
        self._hash = hash(frozenset(grants.items()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Sight) and self.grants == other.grants)

    def sees(self, event: Guarded) -> bool:
        """Say whether the reader may see an event of a feed that it follows."""
        held = self.grants.get(event.workspace_id, frozenset())
        return "events:read" in held and (event.permission is None or event.permission in held)

    def patched(self, workspaces: Set[UUID], grants: Mapping[UUID, frozenset[str]]) -> "Sight":
        """Return the sight with what is held in some workspaces now, and no more in the others."""
        kept = {w: held for w, held in self.grants.items() if w not in workspaces}
        return Sight({**kept, **grants})


class SharedSight:
    """What one caller sees of a feed as of a position, for all of the caller's streams here.

    The stream that holds the lock looks it up for the others.
    """

    __slots__ = ("__weakref__", "epoch", "feed", "lock", "pos", "sight")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.lock = asyncio.Lock()
        self.sight = Sight({})
        self.epoch = self.pos = -1

    def keep(self, sight: Sight, epoch: int, pos: int) -> None:
        """Take what a look-up found that began at a position; the latest one counts.

        Positions are compared within one epoch: after a restore, the epoch may be a lower one.
        """
        if epoch != self.epoch or pos >= self.pos:
            # The same object while it is the same, so that no stream has to compare them.
            self.sight = self.sight if sight == self.sight else sight
            self.epoch, self.pos = epoch, pos


class Changes:
    """The last position at which everybody's rights in a workspace may have changed."""

    __slots__ = ("forgotten", "found", "newest")

    def __init__(self) -> None:
        self.found: OrderedDict[UUID, int] = OrderedDict()
        self.forgotten = 0
        """Every workspace counts as changed at this position."""
        self.newest = 0

    def note(self, workspace_id: UUID, pos: int) -> None:
        """Remember a change; of 10,000 workspaces the one that changed first is forgotten."""
        self.found.pop(workspace_id, None)
        self.found[workspace_id] = self.newest = pos
        if len(self.found) > MAX_CHANGED:
            _, self.forgotten = self.found.popitem(last=False)

    def are_newer(self, workspaces: Iterable[UUID], pos: int) -> bool:
        """Say whether rights in one of these may have changed after a position."""
        if self.newest <= pos:
            return False
        return self.forgotten > pos or any(self.found.get(w, 0) > pos for w in workspaces)

    def among(self, workspaces: Iterable[UUID], pos: int) -> set[UUID]:
        """Return those of some workspaces whose change after a position is remembered."""
        if self.newest <= pos:
            return set()
        return {w for w in workspaces if self.found.get(w, 0) > pos}

    def clear(self) -> None:
        """Forget all: the positions belong to an epoch that is no more."""
        self.found.clear()
        self.forgotten = self.newest = 0
