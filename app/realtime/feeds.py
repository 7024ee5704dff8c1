"""Feeds: whose events a reader follows, and what the reader may see of them."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec


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
        return isinstance(other, Sight) and self.grants == other.grants

    def sees(self, event: Guarded) -> bool:
        """Say whether the reader may see an event of a feed that it follows."""
        held = self.grants.get(event.workspace_id, frozenset())
        return "events:read" in held and (event.permission is None or event.permission in held)
