"""What is asked of every server, and the one statement in which Postgres can answer it."""

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

import msgspec

from tests.bench.peers import raw_asyncpg as raw

EVENT = {
    "type": "invoice.paid",
    "source": "billing",
    "subject": "invoice:7",
    "topics": ["project:42", "billing"],
    "data": {"amount": 1999, "currency": "EUR", "lines": [{"sku": "A-1", "count": 2}]},
}
BATCH = 100


class Caller(NamedTuple):
    """A user, their token and claims, their workspace, and an event in it."""

    token: str
    claims: str
    ws: str
    event_id: UUID


class Operation(NamedTuple):
    """A request below /api/v1, and its statement with the values after the claims."""

    name: str
    path: Callable[[Caller], str]
    sql: str
    values: Callable[[Caller], tuple[str, ...]]
    body: bytes = b""
    below: str = "/api/v1/workspaces"

    def request(self, caller: Caller) -> bytes:
        """Write one caller's request."""
        lines = [
            f"{'POST' if self.body else 'GET'} {self.below}{self.path(caller)} HTTP/1.1",
            "Host: localhost",
            "Accept: application/json",
            f"Authorization: Bearer {caller.token}",
        ]
        if self.body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def text(value: object) -> str:
    """Write JSON as pgbench takes it."""
    return msgspec.json.encode(value).decode()


READS = {
    "events": Operation(
        "list of 20 events",
        lambda c: f"/{c.ws}/events?limit=20",
        raw.EVENTS,
        lambda c: (c.ws, "events:read", "21"),
    ),
    "members": Operation(
        "list of 20 members",
        lambda c: f"/{c.ws}/members?limit=20",
        raw.MEMBERS,
        lambda c: (c.ws, "members:read", "21"),
    ),
    "workspaces": Operation(
        "list of 20 workspaces",
        lambda c: "?limit=20",
        raw.WORKSPACES,
        lambda c: ("21",),
    ),
    "event": Operation(
        "one event",
        lambda c: f"/{c.ws}/events/{c.event_id}",
        raw.ONE_EVENT,
        lambda c: (c.ws, "events:read", str(c.event_id)),
    ),
    "workspace": Operation(
        "one workspace",
        lambda c: f"/{c.ws}",
        raw.ONE_WORKSPACE,
        lambda c: (c.ws, "workspace:read"),
    ),
    "notifications": Operation(
        "list of 20 notifications",
        lambda c: "/notifications?limit=20",
        raw.NOTIFICATIONS,
        lambda c: ("21",),
        below="/api/v1/me",
    ),
}
WRITES = {
    "publish": Operation(
        "publish one event",
        lambda c: f"/{c.ws}/events",
        raw.PUBLISH,
        lambda c: (
            *(c.ws, "events:publish", "invoice.paid", text(EVENT["data"])),
            *("{project:42,billing}", "invoice:7", "billing"),
        ),
        text(EVENT).encode(),
    ),
    "batch": Operation(
        f"publish {BATCH} events",
        lambda c: f"/{c.ws}/events/batch",
        raw.PUBLISH_ALL,
        lambda c: (c.ws, "events:publish", text([EVENT] * BATCH)),
        text([EVENT] * BATCH).encode(),
    ),
}
