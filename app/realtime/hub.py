"""The hub: keeps the newest of the log for whom somebody follows, and hands it to the readers."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec
import structlog

from app.filters import EVERYTHING, Filter, decode_exactly
from app.realtime.cursors import Cursors
from app.realtime.messages import Message, chunk, position
from app.schemas.events import Event

log = structlog.get_logger()

RING = 1024
"""Frames kept a channel, for readers that come back soon."""
RING_BYTES = 1024 * 1024
"""Of those frames together: a channel with large events keeps fewer."""
LINGER_SECONDS = 60.0
"""A channel is kept for so long after its last reader: all of them may be on their way back."""
TICK_SECONDS = 1.0
"""Between two looks at what is due: heartbeats, ends of lifetimes, channels to let go."""
HEARTBEAT_SECONDS = 15.0
MAX_CHUNK = 64 * 1024
"""Bytes joined for one write, unless a single frame is larger."""
JOINED = 16
"""Positions of which a group keeps what follows, as joined."""
KNOWN = 1000
"""Principals of whom a channel remembers one by one that their rights changed."""
DRAIN_SECONDS = 3.0
DRAIN_STEP = 0.05


class Counts(msgspec.Struct):
    """What a process has done for its readers since it started; plain numbers, cheap to count."""

    connections: int = 0
    """Streams that are open now, or about to be."""
    deliveries: int = 0
    """Events handed to a reader, one for each reader."""
    replays: int = 0
    """Streams that had to read their past from the database."""
    resets: int = 0
    """Times a reader was told that its cursor could not be kept."""
    slow_readers: int = 0
    """Streams that ended while their reader did not take what it was sent."""
    refused: int = 0
    """Streams that were not opened because the process was full."""


class Frame:
    """An event as every reader gets it: encoded once, its filters' verdicts kept."""

    __slots__ = ("_data", "_verdicts", "bytes", "event", "pos")

    def __init__(self, pos: int, cursor: str, event: Event) -> None:
        self.pos = pos
        self.event = event
        self.bytes = b"id: %b\ndata: %b\n\n" % (cursor.encode(), msgspec.json.encode(event))
        self._verdicts: dict[Filter, bool] = {}
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
        if wanted is EVERYTHING:
            return True
        verdict = self._verdicts.get(wanted)
        if verdict is None:
            verdict = self._verdicts[wanted] = wanted.matches(self)
        return verdict


class Reader(Protocol):
    """A stream that has taken all there is, and waits."""

    ends_at: float
    """Unix seconds."""
    sent_at: float
    """By the clock of `Hub.now`."""

    def push(self, chunk: bytes) -> bool:
        """Send it a chunk while it waits; False when that has to wait, too."""

    def wake(self, message: Message) -> None:
        """Hand it what comes next; without bytes, it looks for itself, after `until`."""


class Group:
    """The readers of a channel that want the same and may see the same."""

    __slots__ = ("joined", "parked", "sees_audit", "sent_at", "size", "wanted")

    def __init__(self, wanted: Filter, *, sees_audit: bool) -> None:
        self.wanted = wanted
        self.sees_audit = sees_audit
        self.size = 0
        self.sent_at = 0.0
        """When all who waited were sent something; by the clock of `Hub.now`."""
        self.parked: set[Reader] = set()
        self.joined: dict[int, Message] = {}
        """What follows a position; many readers come from the same, until there is more."""

    def join(self, frames: Iterable[Frame], after: int) -> Message:
        """Join the frames that pass, up to 64 KiB; perhaps none."""
        parts, size, until = list[bytes](), 0, after
        for frame in frames:
            if frame.passes(self.wanted, sees_audit=self.sees_audit):
                size += len(frame.bytes)
                if parts and size > MAX_CHUNK:
                    break
                parts.append(frame.bytes)
            until = frame.pos
        return Message(b"".join(parts), until, len(parts))

    def send(self, message: Message, now: float) -> None:
        """Send every waiting reader the same; only who cannot take it at once is woken."""
        self.sent_at, wall, woken = now, time.time(), list[Reader]()
        framed = chunk(message.raw)
        for reader in self.parked:
            try:
                if reader.ends_at > wall and reader.push(framed):
                    continue
            except Exception as error:
                # Nobody knows what it got: it ends, and its client resumes from its cursor.
                log.error("a reader could not be sent to", exc_info=error)
                reader.ends_at = 0
            woken.append(reader)
        for reader in woken:
            self.release(reader, message)

    def release(self, reader: Reader, message: Message) -> None:
        """Hand one reader its message, if it still waits."""
        if reader in self.parked:
            self.parked.discard(reader)
            reader.wake(message)

    def wake(self, message: Message) -> None:
        """Hand every waiting reader the same, and let it look for more."""
        parked, self.parked = self.parked, set()
        for reader in parked:
            reader.wake(message)


class Channel:
    """One workspace's newest frames, complete after `since`, and its readers."""

    __slots__ = ("authority", "authority_of", "empty_since", "frames", "groups", "since", "size")

    def __init__(self, since: int) -> None:
        self.since = since
        self.frames: deque[Frame] = deque()
        self.size = 0
        self.groups: dict[tuple[Filter, bool], Group] = {}
        self.empty_since = 0.0
        self.authority = since
        """The last position at which everybody's rights may have changed."""
        self.authority_of: dict[str, int] = {}
        """The same, of one principal."""

    def group(self, wanted: Filter, *, sees_audit: bool) -> Group:
        """Join the readers that want and may see the same."""
        key = (wanted, sees_audit)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(wanted, sees_audit=sees_audit)
        group.size += 1
        return group

    def leave(self, group: Group) -> None:
        """Leave a group, which goes with its last reader."""
        group.size -= 1
        if not group.size:
            del self.groups[group.wanted, group.sees_audit]

    def add(self, frame: Frame) -> bool:
        """Append a frame, for which the oldest may have to go; says whether rights may change."""
        self.frames.append(frame)
        self.size += len(frame.bytes)
        while len(self.frames) > RING or self.size > RING_BYTES:
            oldest = self.frames.popleft()
            self.size -= len(oldest.bytes)
            self.since = oldest.pos
        return frame.type.startswith("annex.") and self.note_authority(frame)

    def note_authority(self, frame: Frame) -> bool:
        """Remember whose rights one of Annex's own events may have changed, if anybody's."""
        noun, _, subject = (frame.event.subject or "").partition(":")
        if noun in ("member", "api_key"):
            principal = f"user:{subject}" if noun == "member" else f"api_key:{subject}"
            self.authority_of[principal] = frame.pos
            if len(self.authority_of) > KNOWN:
                self.authority = frame.pos
                self.authority_of.clear()
            return True
        if frame.type == "annex.workspace.updated":
            previous = frame.data.get("previous") if isinstance(frame.data, dict) else None
            if isinstance(previous, dict) and "require_aal2" not in previous:
                return False
        self.authority = frame.pos
        return True

    def authority_over(self, principal: str) -> int:
        """Return the last position at which a principal's rights may have changed."""
        return max(self.authority, self.authority_of.get(principal, 0))

    def after(self, pos: int) -> Iterator[Frame]:
        """Yield the frames after a position, in order."""
        newer = []
        for frame in reversed(self.frames):
            if frame.pos <= pos:
                break
            newer.append(frame)
        return reversed(newer)

    def deliver(self, frames: Sequence[Frame], before: int, now: float) -> int:
        """Take new frames, and send each group what passes, joined once; returns the deliveries.

        Who waits has taken everything up to `before`.
        """
        must_look = False
        for frame in frames:
            must_look |= self.add(frame)
        deliveries = 0
        for group in self.groups.values():
            group.joined.clear()
            if not group.parked:
                continue
            try:
                message = Message(b"", before) if must_look else group.join(frames, before)
            except Exception as error:
                # Each of them meets it by itself; the others must not miss anything for it.
                log.error("events could not be joined", exc_info=error)
                message = Message(b"", before)
            deliveries += message.count * len(group.parked)
            if message.until < frames[-1].pos:
                # They look for themselves, or for the rest of what was cut.
                group.wake(message)
            elif message.count:
                group.send(message, now)
        return deliveries

    def forget(self, reached: int, head: int) -> None:
        """Begin anew after a position, and let every reader look; who waits has reached another."""
        self.frames.clear()
        self.size = 0
        self.since = self.authority = head
        self.authority_of.clear()
        for group in self.groups.values():
            group.joined.clear()
            group.wake(Message(b"", reached))


class Hub:
    """Where the tail puts entries and streams take them from; one a process."""

    def __init__(self, cursors: Cursors, capacity: int = 10_000, queries: int = 5) -> None:
        self.cursors = cursors
        self.capacity = capacity
        """Streams at once."""
        self.queries = asyncio.Semaphore(queries)
        """What streams together ask of the database at once, so that requests find it free."""
        self.epoch = 0
        self.head = 0
        self.retained_from = 1
        self.channels: dict[UUID, Channel] = {}
        self.is_closed = False
        self.now = time.monotonic()
        self.counts = Counts()

    def admit(self) -> bool:
        """Take a place for a stream, if there is one; whoever got it calls `release`."""
        if self.is_closed or self.counts.connections >= self.capacity:
            self.counts.refused += 1
            return False
        self.counts.connections += 1
        return True

    def release(self) -> None:
        """Give a place back."""
        self.counts.connections -= 1

    def channel(self, workspace_id: UUID) -> Channel:
        """Return a workspace's channel, complete from now on if it is new."""
        channel = self.channels.get(workspace_id)
        if channel is None:
            channel = self.channels[workspace_id] = Channel(self.head)
        channel.empty_since = self.now
        return channel

    def is_followed(self, entry: Any) -> bool:
        """Say whether somebody follows an entry's workspace; personal ones nobody does yet."""
        return entry["workspace_id"] in self.channels and entry["user_id"] is None

    def publish(self, entries: Iterable[Any], events: Mapping[UUID, Any]) -> None:
        """Take entries of the log, in order, and hand their events to the readers that follow them.

        Where an event is not there, its readers look in the database: it was deleted, or its
        channel began only after the events had been asked for.
        """
        before = self.head
        fresh: dict[UUID, list[Frame]] = {}
        incomplete = set[UUID]()
        try:
            for entry in entries:
                if self.is_followed(entry):
                    if event := events.get(entry["event_id"]):
                        frame = self.frame(entry["pos"], as_event(event))
                        fresh.setdefault(entry["workspace_id"], []).append(frame)
                    else:
                        incomplete.add(entry["workspace_id"])
                # Last, so that an event that cannot be encoded holds the log up and is not lost.
                self.head = entry["pos"]
        finally:
            for workspace_id in incomplete:
                fresh.pop(workspace_id, None)
                self.channels[workspace_id].forget(before, self.head)
            for workspace_id, frames in fresh.items():
                channel = self.channels[workspace_id]
                self.counts.deliveries += channel.deliver(frames, before, self.now)

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
            channel.forget(head, head)

    def gap(self, head: int) -> None:
        """Go on after a position that was not reached: cursors before it cannot be kept."""
        reached = self.head
        self.head, self.retained_from = head, head + 1
        for channel in self.channels.values():
            channel.forget(reached, head)

    def waiting(self) -> list[tuple[Group, Reader]]:
        """List the readers that wait."""
        return [
            (group, reader)
            for channel in self.channels.values()
            for group in channel.groups.values()
            for reader in group.parked
        ]

    async def keep_time(self) -> None:
        """Do what is due, every second, until cancelled: one timer for all streams."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self.tick()
            except Exception as error:
                log.error("a tick of the hub failed", exc_info=error)

    def tick(self) -> None:
        """Send heartbeats, end what has lived long enough, let go of channels without readers."""
        self.now = time.monotonic()
        wall = time.time()
        look = Message(b"", self.head)
        heartbeat = Message(position("cursor", self.cursor()), self.head)
        for group, reader in self.waiting():
            if reader.ends_at <= wall:
                group.release(reader, look)
            elif self.now - max(reader.sent_at, group.sent_at) >= HEARTBEAT_SECONDS:
                group.release(reader, heartbeat)
        for workspace_id, channel in list(self.channels.items()):
            if channel.groups:
                channel.empty_since = self.now
            elif self.now - channel.empty_since >= LINGER_SECONDS:
                del self.channels[workspace_id]

    async def drain(self) -> None:
        """End every stream, the waiting ones over up to 3 s, so that not all come back at once."""
        self.is_closed = True
        readers = self.waiting()
        random.shuffle(readers)
        steps = round(DRAIN_SECONDS / DRAIN_STEP * min(1.0, len(readers) / 1000)) + 1
        look = Message(b"", self.head)
        for step in range(steps):
            for group, reader in readers[step::steps]:
                group.release(reader, look)
            if step + 1 < steps:
                await asyncio.sleep(DRAIN_STEP)

    def close(self) -> None:
        """End every stream at once."""
        self.is_closed = True
        look = Message(b"", self.head)
        for group, reader in self.waiting():
            group.release(reader, look)


def as_event(row: Any) -> Event:
    """Make an event of its row."""
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
