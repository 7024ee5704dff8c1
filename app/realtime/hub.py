"""The hub: keeps the newest of the log for whom somebody follows, and wakes the readers."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from app.realtime.cursors import Cursors
from app.realtime.filters import Filter, decode_exactly
from app.schemas.events import Event

RING = 1024
"""Entries kept a channel, for readers that come back soon."""
AUTHORITY = ("annex.member.", "annex.role.", "annex.workspace.", "annex.api_key.")
"""Events after which a reader's rights may be others."""


class Counts(msgspec.Struct):
    """What a process has done for its readers since it started; plain numbers, cheap to count."""

    connections: int = 0
    """Streams that are open now."""
    deliveries: int = 0
    """Events handed to a reader, one for each reader."""
    replays: int = 0
    """Streams that had to read their past from the database."""
    resets: int = 0
    """Times a reader was told that its cursor could not be kept."""
    slow_readers: int = 0
    """Streams that were ended because their reader did not take what it was sent."""
    refused: int = 0
    """Streams that were not opened because the process was full."""


class Frame:
    """An event as every reader gets it: encoded once, its filters' verdicts kept."""

    __slots__ = ("_data", "bytes", "event", "pos", "verdicts")

    def __init__(self, pos: int, cursor: str, event: Event) -> None:
        self.pos = pos
        self.event = event
        self.bytes = b"id: %b\ndata: %b\n\n" % (cursor.encode(), msgspec.json.encode(event))
        self.verdicts: dict[Filter, bool] = {}
        self._data: Any = msgspec.UNSET

    @property
    def type(self) -> str:
        return self.event.type

    @property
    def topics(self) -> list[str]:
        return self.event.topics

    @property
    def data(self) -> Any:
        """The data, decoded when a filter asks for it."""
        if self._data is msgspec.UNSET:
            try:
                self._data = decode_exactly.decode(self.event.data)
            except (msgspec.DecodeError, RecursionError):
                # Nested or with numbers beyond what can be read: no `where` finds anything in it.
                self._data = None
        return self._data

    def passes(self, wanted: Filter, *, sees_audit: bool) -> bool:
        """Say whether a reader gets it; never an audit event without the right to."""
        if self.event.visibility == "audit" and not sees_audit:
            return False
        verdict = self.verdicts.get(wanted)
        if verdict is None:
            verdict = self.verdicts[wanted] = wanted.matches(self)
        return verdict


class Channel:
    """One workspace's newest frames, complete from `since` on, and the readers that wait."""

    __slots__ = ("__weakref__", "authority", "frames", "since", "waiting")

    def __init__(self, since: int) -> None:
        self.since = since
        self.authority = since
        """The last position at which rights may have changed."""
        self.frames: deque[Frame] = deque()
        self.waiting: set[asyncio.Future[None]] = set()

    def add(self, frame: Frame) -> None:
        """Append a frame; the oldest goes when the ring is full."""
        self.frames.append(frame)
        if len(self.frames) > RING:
            self.since = self.frames.popleft().pos
        if frame.type.startswith(AUTHORITY):
            self.authority = frame.pos

    def after(self, pos: int) -> Iterator[Frame]:
        """Yield the frames after a position, in order."""
        newer = []
        for frame in reversed(self.frames):
            if frame.pos <= pos:
                break
            newer.append(frame)
        return reversed(newer)

    def wake(self) -> None:
        """Let every waiting reader look again."""
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
        self.waiting.clear()


class Hub:
    """Where the tail puts entries and streams take them from; one a process."""

    def __init__(self, cursors: Cursors) -> None:
        self.cursors = cursors
        self.epoch = 0
        self.head = 0
        self.retained_from = 1
        self.channels: WeakValueDictionary[UUID, Channel] = WeakValueDictionary()
        self.is_closed = False
        self.counts = Counts()

    def channel(self, workspace_id: UUID) -> Channel:
        """Return a workspace's channel, complete from now on; it goes with its last holder."""
        channel = self.channels.get(workspace_id)
        if channel is None:
            channel = self.channels[workspace_id] = Channel(self.head)
        return channel

    def publish(self, rows: Iterable[Any]) -> None:
        """Take what the tail read, in order, and wake the readers that it concerns.

        Of a deleted event only its position is left, without a type.
        """
        touched = set()
        for row in rows:
            channel = self.channels.get(row["workspace_id"])
            if channel is not None and row["user_id"] is None and row["type"] is not None:
                channel.add(self.frame(row["pos"], as_event(row)))
                touched.add(channel)
            # Last, so that an event that cannot be encoded holds the log up and is not lost.
            self.head = row["pos"]
        for channel in touched:
            channel.wake()

    def frame(self, pos: int, event: Event) -> Frame:
        """Encode an event at its position."""
        return Frame(pos, self.cursors.write(self.epoch, pos), event)

    def cursor(self) -> str:
        """The head, as a cursor: what a reader who begins now has not missed."""
        return self.cursors.write(self.epoch, self.head)

    def restart(self, epoch: int, head: int, retained_from: int) -> None:
        """Begin another epoch: what was kept belongs to positions that are no more."""
        self.epoch, self.head, self.retained_from = epoch, head, retained_from
        for channel in self.channels.values():
            channel.frames.clear()
            channel.since = channel.authority = head
            channel.wake()

    def close(self) -> None:
        """End every stream, so that the server can stop."""
        self.is_closed = True
        for channel in self.channels.values():
            channel.wake()


def as_event(row: Any) -> Event:
    """Make an event of a row of the log."""
    return Event(
        id=row["event_id"],
        workspace_id=row["workspace_id"],
        type=row["type"],
        source=row["source"],
        key=row["key"],
        subject=row["subject"],
        topics=row["topics"],
        actor=row["actor"],
        visibility=row["visibility"],
        data=row["data"],
        context=row["context"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
    )
