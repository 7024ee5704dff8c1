"""The channels that keep a feed's recent frames, and the groups of readers in them."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence, Set
from typing import Protocol, TypeVar
from uuid import UUID

import structlog

from app.filters import EVERYTHING, Filter, Parts
from app.realtime.feeds import Feed, Sight
from app.realtime.frames import Documents, Frame, Verdicts
from app.realtime.messages import Message, chunk

log = structlog.get_logger()

RING = 1024
"""Frames that a channel keeps, for readers that reconnect soon."""
RING_BYTES = 1024 * 1024
"""Memory for those frames; a channel with large events keeps fewer."""
JOINED_BYTES = 1024 * 1024
"""Joined messages that a channel keeps for all groups together, for 1 s at most."""
JOINED_EACH = 512
"""What a joined message takes besides its bytes."""
MAX_CHUNK = 64 * 1024
"""Bytes joined for one write, or looked through at once, unless a single frame is larger."""
KNOWN = 1000
"""Principals and workspaces whose changes of rights a channel remembers one by one."""


Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Work in many small steps; its runner may let other tasks go on between two of them."""


def finish(steps: Steps[Result]) -> Result:
    """Run all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


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


def hand(reader: Reader, message: Message, framed: bytes, wall: float) -> bool:
    """Send a waiting reader a message, also framed as a chunk; False if it was woken for it."""
    try:
        is_sent = reader.ends_at > wall and reader.push(framed)
    except Exception as error:
        # How much it got is unknown, so it ends, and its client resumes from its cursor.
        log.error("a reader could not be sent to", exc_info=error)
        reader.ends_at, is_sent = 0, False
    if not is_sent:
        reader.wake(message)
    return is_sent


def within_chunk(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield frames until they are 64 KiB, so that a look through them is short; at least one."""
    size = 0
    for frame in frames:
        if size >= MAX_CHUNK:
            return
        size += len(frame.bytes)
        yield frame


class Group:
    """The readers of a channel that want the same and may see the same."""

    __slots__ = ("due", "parked", "sent_at", "sight", "size", "verdicts", "wanted")

    def __init__(self, wanted: Filter, sight: Sight, verdicts: Verdicts | None) -> None:
        self.wanted = wanted
        self.verdicts = verdicts
        """None if the readers want everything."""
        self.sight = sight
        self.size = 0
        self.sent_at = 0.0
        """When all readers that waited were sent something; by the clock of `Hub.now`."""
        self.parked: set[Reader] = set()
        """Readers that have taken all there is, and wait."""
        self.due: set[Reader] = set()
        """Readers that waited when the newest frames came, and have not been sent them yet."""

    def passes(self, frame: Frame) -> bool:
        """Say whether the readers get a frame; never an event that they may not see."""
        return self.sight.sees(frame) and (self.verdicts is None or self.verdicts.of(frame))

    def join(self, frames: Iterable[Frame], after: int) -> Message:
        """Join those of the next 64 KiB of a ring's frames that pass; perhaps none."""
        return finish(self.joining(within_chunk(frames), after))

    def joining(self, frames: Iterable[Frame], after: int) -> Steps[Message]:
        """Join the frames that pass, up to 64 KiB; perhaps none. A step is a frame."""
        parts, size, until = list[bytes](), 0, after
        for frame in frames:
            if self.passes(frame):
                size += len(frame.bytes)
                if parts and size > MAX_CHUNK:
                    break
                parts.append(frame.bytes)
            until = frame.pos
            yield
        return Message(b"".join(parts), until, len(parts))

    def begin(self) -> None:
        """Mark the readers that wait as due: the channel has new frames."""
        self.due |= self.parked
        self.parked = set()

    def end(self, message: Message) -> None:
        """Wake every reader that is still due, with a message that lets it look for itself."""
        due, self.due = self.due, set()
        for reader in due:
            reader.wake(message)

    def send(self, message: Message, now: float) -> Steps[None]:
        """Send every due reader the same; readers that cannot take it at once are woken.

        A step is a reader.
        """
        self.sent_at, wall = now, time.time()
        framed = chunk(message.raw)
        while self.due:
            reader = self.due.pop()
            if hand(reader, message, framed, wall):
                self.parked.add(reader)
            yield

    def discard(self, reader: Reader) -> None:
        """Forget that a reader waits."""
        self.parked.discard(reader)
        self.due.discard(reader)

    def release(self, reader: Reader, message: Message) -> None:
        """Hand one reader its message, if it still waits."""
        if reader in self.parked or reader in self.due:
            self.discard(reader)
            reader.wake(message)

    def wake(self, message: Message) -> None:
        """Hand every waiting reader the same, and let it look for more."""
        self.begin()
        self.end(message)


class Joined:
    """What follows a position, by group; many readers come from the same, until there is more.

    Bounded in bytes for all groups together. Forgotten with the group, and at the hub's next tick.
    """

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: dict[Group, dict[int, Message]] = {}
        self.size = 0

    def get(self, group: Group, after: int) -> Message | None:
        """Return what was joined."""
        found = self.messages.get(group)
        return None if found is None else found.get(after)

    def keep(self, group: Group, after: int, message: Message) -> None:
        """Keep what was joined; all else is forgotten if there is no room for it."""
        size = JOINED_EACH + len(message.raw)
        if self.size + size > JOINED_BYTES:
            self.clear()
        if size <= JOINED_BYTES:
            self.messages.setdefault(group, {})[after] = message
            self.size += size

    def drop(self, group: Group) -> None:
        """Forget what was joined for a group."""
        for message in self.messages.pop(group, {}).values():
            self.size -= JOINED_EACH + len(message.raw)

    def clear(self) -> None:
        """Forget all."""
        self.messages.clear()
        self.size = 0


class Channel:
    """Recent frames of one feed, complete after `since`, and the feed's readers."""

    __slots__ = (
        "authority",
        "authority_of",
        "changed",
        "count",
        "documents",
        "empty_since",
        "feed",
        "frames",
        "groups",
        "joined",
        "since",
        "size",
    )

    def __init__(self, feed: Feed, since: int, documents: Documents) -> None:
        self.feed = feed
        self.documents = documents
        self.since = since
        self.frames: deque[Frame] = deque()
        self.size = self.count = 0
        """Of memory, in bytes; of frames, ever."""
        self.groups: dict[tuple[Filter, Sight], Group] = {}
        self.joined = Joined()
        self.empty_since = 0.0
        self.authority = since
        """The last position at which everybody's rights may have changed."""
        self.authority_of: dict[str, int] = {}
        """The same, of one principal."""
        self.changed: dict[UUID, int] = {}
        """The same, by the workspace in which it was a principal's rights that may have changed."""

    def group(self, wanted: Filter, sight: Sight) -> Group:
        """Join the readers that want and may see the same."""
        key = (wanted, sight)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(wanted, sight, self.verdicts(wanted))
        group.size += 1
        return group

    def verdicts(self, wanted: Filter) -> Verdicts | None:
        """Return what is known of a filter: the same for all groups that have it."""
        if wanted is EVERYTHING:
            return None
        same = (g.verdicts for g in self.groups.values() if g.wanted == wanted)
        return next(same, None) or Verdicts(wanted, self.documents)

    @property
    def newest(self) -> int:
        """The last position that a reader can have looked at here."""
        return self.frames[-1].pos if self.frames else self.since

    def leave(self, group: Group) -> None:
        """Leave a group, which goes with its last reader."""
        group.size -= 1
        if not group.size:
            del self.groups[group.wanted, group.sight]
            self.joined.drop(group)

    def add(self, frame: Frame) -> None:
        """Append a frame; the oldest may have to go."""
        frame.number = self.count
        self.count += 1
        self.frames.append(frame)
        self.size += frame.size
        while len(self.frames) > RING or self.size > RING_BYTES:
            oldest = self.frames.popleft()
            self.size -= oldest.size
            self.since = oldest.pos

    def note_rights(self, rights_of: str, pos: int, workspace_id: UUID) -> None:
        """Remember whose rights changed where: a principal's, or everybody's (`*`)."""
        if rights_of == "*":
            self.authority = pos
            return
        self.authority_of[rights_of] = self.changed[workspace_id] = pos
        if max(len(self.authority_of), len(self.changed)) > KNOWN:
            self.authority = pos
            self.authority_of.clear()
            self.changed.clear()

    def authority_over(self, principal: str) -> int:
        """Return the last position at which a principal's rights may have changed."""
        return max(self.authority, self.authority_of.get(principal, 0))

    def holds_in(self, workspaces: Set[UUID]) -> bool:
        """Say whether a reader holds something in one of these."""
        return any(not workspaces.isdisjoint(g.sight.grants) for g in self.groups.values())

    def changed_after(self, pos: int) -> set[UUID] | None:
        """Return the workspaces in which principals' rights may have changed; None if in all."""
        if self.authority > pos:
            return None
        return {w for w, changed_at in self.changed.items() if changed_at > pos}

    def unknown(self, frames: Iterable[Frame]) -> set[UUID]:
        """Return the workspaces of these events in which not every reader holds something."""
        sights = [group.sight.grants for group in self.groups.values()]
        workspaces = {f.workspace_id for f in frames}
        return {w for w in workspaces if any(w not in grants for grants in sights)}

    def after(self, pos: int) -> Iterator[Frame]:
        """Yield the frames after a position, in order."""
        newer = []
        for frame in reversed(self.frames):
            if frame.pos <= pos:
                break
            newer.append(frame)
        return reversed(newer)

    def take(self, frames: Sequence[Frame]) -> None:
        """Take new frames; the readers that wait are due them until `deliver` comes to them."""
        number = self.count
        for frame in frames:
            self.add(frame)
        self.joined.clear()
        for group in self.groups.values():
            if group.verdicts is not None:
                group.verdicts.forget(number, len(frames))
            group.begin()

    def judge(self, groups: Iterable[Group], frames: Sequence[Frame]) -> Steps[None]:
        """Evaluate filters on each frame together, so that its data is decoded once for all.

        A step is a frame: some milliseconds for as many filters as a workspace may have.
        """
        found = {id(g.verdicts): g.verdicts for g in groups if g.verdicts is not None}
        for frame in frames if len(found) > 1 else ():
            parts = Parts(frame.type, frame.topics, frame.data)
            for verdicts in found.values():
                try:
                    verdicts.judge(frame, parts)
                except Exception:
                    continue  # its groups meet the same error when they join the frame
            yield

    def deliver(
        self, frames: Sequence[Frame], before: int, now: float, *, must_look: bool
    ) -> Steps[int]:
        """Send each group of those taken what passes, joined once; returns the deliveries.

        A due reader has taken everything up to `before`. Where rights changed (`must_look`),
        every reader looks for itself.
        """
        deliveries = 0
        look = Message(b"", before)
        # The others' frames are decoded first.
        groups = sorted(self.groups.values(), key=lambda g: bool(g.wanted.where))
        looking = [group for group in groups if group.wanted.where]
        for group in groups:
            if looking and group is looking[0]:
                yield from self.judge(looking, frames)
            if not group.due:
                continue
            try:
                message = look if must_look else (yield from group.joining(frames, before))
            except Exception as error:
                # Each reader of the group meets the error itself; other groups go on.
                log.error("events could not be joined", exc_info=error)
                message = look
            deliveries += message.count * len(group.due)
            if must_look or message.until < frames[-1].pos:
                # They look for themselves, or for the rest of what was cut.
                group.end(message)
            elif message.count:
                yield from group.send(message, now)
            else:
                group.parked |= group.due
                group.due = set()
            yield
        return deliveries

    def abandon(self, before: int) -> None:
        """Let readers that are still due look for themselves, because delivery has ended."""
        for group in self.groups.values():
            group.end(Message(b"", before))

    def forget(self, reached: int, head: int) -> None:
        """Drop all frames up to `head`; every reader looks. A waiting one has read to `reached`."""
        self.frames.clear()
        self.joined.clear()
        self.size = 0
        self.since = self.authority = head
        self.authority_of.clear()
        self.changed.clear()
        for group in self.groups.values():
            group.wake(Message(b"", reached))
