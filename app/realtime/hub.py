"""The hub: hands new entries of the log to the channels that this process has readers for."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec
import structlog

from app.database.turns import Turns
from app.realtime.channels import Channel, Group, Reader, Steps, hand
from app.realtime.cursors import Cursors
from app.realtime.feeds import Changes, Feed, SharedSight
from app.realtime.frames import Documents, Frame, as_event
from app.realtime.messages import Message, chunk, position
from app.schemas.events import Event
from app.watchdog import Pace

log = structlog.get_logger()

LINGER_SECONDS = 60.0
"""How long a channel outlives its last reader, because its readers may be reconnecting."""
TICK_SECONDS = 1.0
"""Between two ticks, which send heartbeats, end streams and drop channels."""
MAX_WOKEN = 50
"""Readers that a tick wakes in one turn of the loop; each costs tens of microseconds more there."""
HEARTBEAT_SECONDS = 15.0
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
    unanswered: int = 0
    """Questions of streams that had no turn at the database, or no answer, in time."""


class Hub:
    """Where the tail puts entries and streams take them from; one a process."""

    def __init__(
        self,
        cursors: Cursors,
        capacity: int = 10_000,
        queries: int = 5,
        pace: Pace | None = None,
    ) -> None:
        self.cursors = cursors
        self.capacity = capacity
        """Streams at once."""
        self.queries = Turns(queries, max(1, queries - 2))
        """Turns of all streams at the database, so that requests find it free."""
        self.pace = pace or Pace()
        self.epoch = 0
        self.head = 0
        self.retained_from = 1
        self.channels: dict[UUID, Channel] = {}
        """By the id of their feed."""
        self.documents = Documents()
        self.changes = Changes()
        self.sights = WeakValueDictionary[tuple[UUID, str], SharedSight]()
        """By feed and claims: of two tokens of a user, one may have passed a second factor."""
        self.is_closed = False
        self.is_leaving = False
        """Whether the process will stop soon; streams go on meanwhile."""
        self.now = time.monotonic()
        self.counts = Counts()

    def admit(self) -> bool:
        """Take a place for a stream; returns whether there is one, which `release` gives back."""
        if self.is_closed or self.counts.connections >= self.capacity:
            self.counts.refused += 1
            return False
        self.counts.connections += 1
        return True

    def release(self) -> None:
        """Give a place back."""
        self.counts.connections -= 1

    def channel(self, feed: Feed) -> Channel:
        """Return a feed's channel, complete from now on if it is new."""
        channel = self.channels.get(feed.id)
        if channel is None:
            channel = self.channels[feed.id] = Channel(feed, self.head, self.documents)
        channel.empty_since = self.now
        return channel

    def shared_sight(self, feed: Feed, claims: str) -> SharedSight:
        """Return what a caller sees of a feed, the same object for all of the caller's streams."""
        return self.sights.setdefault((feed.id, claims), SharedSight(feed))

    def changed_since(self, shared: SharedSight) -> set[UUID] | None:
        """Return the workspaces in which a sight may be out of date; None if any may be."""
        channel = self.channels.get(shared.feed.id)
        if channel is None or shared.epoch != self.epoch or self.changes.forgotten > shared.pos:
            return None
        found = channel.changed_after(shared.pos)
        if found is not None and shared.feed.kind == "user":
            found |= self.changes.among(shared.sight.grants, shared.pos)
        return found

    def is_followed(self, entry: Any) -> bool:
        """Say whether somebody in this process follows an entry's feed."""
        return Feed.id_of(entry) in self.channels

    async def publish(self, entries: Sequence[Any], events: Mapping[UUID, Any]) -> None:
        """Do what `publishing` does, and let the rest of the loop go on every 10 ms."""
        with contextlib.closing(self.publishing(entries, events)) as steps:
            for _ in steps:
                if self.pace.is_spent:
                    await self.pace.turn()

    def publishing(self, entries: Sequence[Any], events: Mapping[UUID, Any]) -> Steps[None]:
        """Take entries of the log, in order, and hand their events to the readers that follow them.

        If an event is missing, its readers look in the database: it was deleted, or its channel
        began after the events had been read.
        """
        before = self.head
        frames, failure = dict[int, Frame](), None
        for n, entry in enumerate(entries):
            feed_id, event = Feed.id_of(entry), events.get(entry["event_id"])
            if event is None or feed_id not in self.channels:
                continue
            try:
                frame = self.frame(feed_id, entry["pos"], as_event(event))
                _ = frame.bytes  # encoded before anybody is told of it
                frames[entry["pos"]] = frame
            except Exception as error:
                # The log stops before an event that cannot be encoded, so that it is not lost.
                entries, failure = entries[:n], error
                break
            yield
        taken = self.take(entries, frames)
        try:
            for channel, fresh, must_look in taken:
                self.counts.deliveries += yield from channel.deliver(
                    fresh, before, self.now, must_look=must_look
                )
        finally:
            for channel, _, _ in taken:
                channel.abandon(before)
        if failure is not None:
            raise failure

    def take(
        self, entries: Sequence[Any], frames: Mapping[int, Frame]
    ) -> list[tuple[Channel, Sequence[Frame], bool]]:
        """Move the head and fill the channels, in one step without a turn of the loop.

        Returns the channels with something new, what it is, and whether their readers must look
        their rights up.
        """
        before = self.head
        fresh: dict[UUID, list[Frame]] = {}
        incomplete, looking = set[UUID](), set[UUID]()
        changed = set[UUID]()
        for entry in entries:
            feed_id = Feed.id_of(entry)
            if feed_id in self.channels:
                if frame := frames.get(entry["pos"]):
                    fresh.setdefault(feed_id, []).append(frame)
                else:
                    incomplete.add(feed_id)
            if entry["rights_of"] is not None:
                for channel in self.judged_by(entry):
                    channel.note_rights(entry["rights_of"], entry["pos"], entry["workspace_id"])
                    looking.add(channel.feed.id)
                if entry["rights_of"] == "*":
                    self.changes.note(entry["workspace_id"], entry["pos"])
                    changed.add(entry["workspace_id"])
            self.head = entry["pos"]
        looking |= self.touched(changed, fresh)
        for feed_id in incomplete:
            fresh.pop(feed_id, None)
            looking.discard(feed_id)
            self.channels[feed_id].forget(before, self.head)
        taken: list[tuple[Channel, Sequence[Frame], bool]] = [
            (self.channels[feed_id], fresh.get(feed_id, []), feed_id in looking)
            for feed_id in fresh.keys() | looking
        ]
        for channel, new, _ in taken:
            channel.take(new)
        return taken

    def judged_by(self, entry: Any) -> Iterator[Channel]:
        """Yield the channels that note an entry's change of rights.

        The workspace's does. The user's does, too, because the user's rights in each workspace
        decide what their own feed shows. A change of everybody's rights is noted in `changes`.
        """
        if channel := self.channels.get(entry["workspace_id"]):
            yield channel
        kind, _, principal_id = entry["rights_of"].partition(":")
        if kind == "user" and (channel := self.channels.get(UUID(principal_id))):
            yield channel

    def touched(self, changed: set[UUID], fresh: Mapping[UUID, Sequence[Frame]]) -> set[UUID]:
        """Return the users' feeds whose readers must look up their rights.

        Such a reader holds something in a workspace where everybody's rights changed; streams of
        others go on. Or it gets an event of a workspace in which it held nothing at its last look.
        """
        found = set[UUID]()
        if changed:
            found |= {
                feed_id
                for feed_id, channel in self.channels.items()
                if channel.feed.kind == "user" and channel.holds_in(changed)
            }
        for feed_id, frames in fresh.items():
            channel = self.channels[feed_id]
            unknown = channel.unknown(frames) if channel.feed.kind == "user" else ()
            for workspace_id in unknown:
                channel.note_rights(f"user:{feed_id}", frames[-1].pos, workspace_id)
                found.add(feed_id)
        return found

    def frame(self, feed_id: UUID, pos: int, event: Event) -> Frame:
        """Make a frame of an event at its position in a feed."""
        return Frame(pos, partial(self.cursors.write, feed_id, self.epoch, pos), event)

    def stand(self) -> Callable[[UUID], str]:
        """Return what writes the head of now as a cursor of a feed.

        A list that is read after this call and a stream from this cursor miss no event together.
        """
        return partial(self.cursors.write, epoch=self.epoch, pos=self.head)

    def restart(self, epoch: int, head: int, retained_from: int) -> None:
        """Begin a new epoch; drops all frames, because their positions exist no longer."""
        self.epoch, self.head, self.retained_from = epoch, head, retained_from
        self.changes.clear()
        for channel in self.channels.values():
            channel.forget(head, head)

    def gap(self, head: int) -> None:
        """Move the head past positions that were not read; resets readers with older cursors."""
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
            for reader in (*group.parked, *group.due)
        ]

    async def keep_time(self) -> None:
        """Run a tick every second until cancelled: one timer for all streams."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.tick()
            except Exception as error:
                log.error("a tick of the hub failed", exc_info=error)

    async def tick(self) -> None:
        """Do what `ticking` does, and let the rest of the loop go on between its steps."""
        woken = 0
        for is_woken in self.ticking():
            woken += is_woken
            if self.pace.is_spent or woken >= MAX_WOKEN:
                # The readers that were woken do their work in the next turn.
                woken = 0
                await self.pace.turn()

    def ticking(self) -> Iterator[bool]:
        """Send heartbeats, end streams whose time is over, drop channels without readers.

        A step is a reader, and says whether that reader was woken.
        """
        self.now, wall = time.monotonic(), time.time()
        self.documents.clear()
        for feed_id, channel in list(self.channels.items()):
            channel.joined.clear()
            stand: tuple[int, int] | None = None
            for group in list(channel.groups.values()):
                for reader in list(group.parked):
                    if reader not in group.parked:
                        continue  # it went on between two steps
                    is_woken = False
                    if reader.ends_at <= wall:
                        group.release(reader, Message(b"", self.head))
                        is_woken = True
                    elif self.now - max(reader.sent_at, group.sent_at) >= HEARTBEAT_SECONDS:
                        # A reader that is parked has taken everything up to the head of now.
                        if stand != (self.epoch, self.head):
                            stand = self.epoch, self.head
                            cursor = self.cursors.write(feed_id, *stand)
                            beat = Message(position("cursor", cursor), self.head)
                            framed = chunk(beat.raw)
                        is_woken = not hand(reader, beat, framed, wall)
                        if is_woken:
                            group.discard(reader)
                        else:
                            reader.sent_at = self.now
                    yield is_woken
            if channel.groups:
                channel.empty_since = self.now
            elif self.now - channel.empty_since >= LINGER_SECONDS:
                del self.channels[feed_id]

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
