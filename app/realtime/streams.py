"""One reader of a feed as Server-Sent Events (WHATWG HTML, section 9.2)."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import takewhile
from typing import Self

import msgspec
import structlog

from app.errors import Problem, Unavailable
from app.filters import Filter
from app.realtime.channels import finish
from app.realtime.feeds import Feed, Sight
from app.realtime.frames import Frame
from app.realtime.hub import Hub
from app.realtime.messages import Message, named, position
from app.realtime.tail import Tail

log = structlog.get_logger()

LIFETIME_SECONDS = 900.0
RETRY_MS = (1000, 5000)
"""Between these a reader is told how long to wait, so that not all come back at once."""
BUSY_RETRY_MS = (10_000, 30_000)
"""The same, when there is no room."""
REFUSED_RETRY_MS = 60_000
ANSWER_SECONDS = 10.0
"""How long a stream waits for the database before it breaks off."""
SLOW_SECONDS = 5.0
"""A reader that took nothing for so long, and then was gone, was too slow."""
BEFORE_ALL = -1
"""Sentinel that forces a rights check."""

Replay = Callable[[int, int, Filter], Awaitable[tuple[Sight, list[Frame]]]]
"""Reads frames of the feed after a position, up to another, in order; at most a page.

Returns what the reader sees as well, from the same snapshot; raises a Problem without rights.
"""
HasChanged = Callable[[int], Awaitable[bool]]
"""Says whether what the reader sees may have changed after a position."""
Authorize = Callable[[], Awaitable[tuple[Sight, float | None]]]
"""Says what the reader sees now; raises a Problem when it has no right to the feed.

Takes its own turn at the database, or none where another stream of the reader has looked.

Returns when the reader's credential expires as well, in Unix seconds; None if it does not.
"""


def never(_: bytes) -> bool:
    """Send nothing."""
    return False


class Expired(Exception):
    """Events after the reader's position have expired: what is left of the past has a hole."""


def refused(problem: msgspec.Struct) -> bytes:
    """Tell an EventSource that it may not read; a page never sees the reason of a 401."""
    return named("unauthorized", problem, retry_ms=REFUSED_RETRY_MS)


def busy() -> bytes:
    """Tell a reader to come back later; an EventSource gives up at any status but 200."""
    retry = random.randint(*BUSY_RETRY_MS)
    return b": no room for another stream just now\nretry: %d\n\n" % retry


@contextlib.asynccontextmanager
async def in_time(hub: Hub) -> AsyncIterator[None]:
    """Limit a question to 10 s; raises `Unavailable`."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError:
        hub.counts.unanswered += 1
        raise Unavailable("The database does not answer; try again in a moment.") from None


@contextlib.asynccontextmanager
async def asking(hub: Hub, whose: str) -> AsyncIterator[None]:
    """Take one of the streams' turns at the database for a question; waits and lasts 10 s in all.

    `whose` is a principal's turn, or an address before one is known: turns are fair among them.
    Raises `Unavailable`.
    """
    async with in_time(hub), hub.queries.of(whose):
        yield


class Stream:
    """Iterates over messages until the reader's time is over, its rights are gone or we stop.

    No queue and no task of its own: what it reads lies in the channel's ring or in the database.
    Whoever makes one calls `close` at its end, however that comes.
    """

    __slots__ = (
        "authorize",
        "channel",
        "checked",
        "describe",
        "ends_at",
        "epoch",
        "feed",
        "group",
        "has_begun",
        "has_changed",
        "has_replayed",
        "hub",
        "is_over",
        "is_sending",
        "last_event_id",
        "pos",
        "principal",
        "push",
        "replay",
        "sent_at",
        "tail",
        "turn",
        "waiter",
    )

    def __init__(
        self,
        hub: Hub,
        tail: Tail,
        feed: Feed,
        wanted: Filter,
        *,
        principal: str,
        turn: str,
        sight: Sight,
        last_event_id: str | None,
        ends_at: float | None,
        authorized_at: int,
        authorize: Authorize,
        replay: Replay,
        describe: Callable[[Problem], msgspec.Struct],
        has_changed: HasChanged | None = None,
    ) -> None:
        self.hub = hub
        self.tail = tail
        self.feed = feed
        self.principal = principal
        self.turn = turn
        self.last_event_id = last_event_id
        self.authorize = authorize
        self.replay = replay
        self.describe = describe
        self.has_changed = has_changed
        """Of a feed that is seen by rights in many workspaces; its reader is told of a change."""
        lifetime = time.time() + LIFETIME_SECONDS * random.uniform(0.8, 1.2)
        self.ends_at = min(lifetime, ends_at or lifetime)
        self.checked = authorized_at
        self.pos = hub.head
        self.epoch = hub.epoch
        # Joined before the first look at the log, so that nothing falls between.
        self.channel = hub.channel(feed)
        self.group = self.channel.group(wanted, sight)
        self.waiter: asyncio.Future[Message] | None = None
        self.push: Callable[[bytes], bool] = never
        """Sends to a reader that waits; False when that has to wait, too."""
        self.sent_at = hub.now
        self.has_begun = self.has_replayed = self.is_over = self.is_sending = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.is_sending = False
        raw = None
        if not self.is_over:
            try:
                raw = await (self.following() if self.has_begun else self.begin())
            except Problem as problem:
                self.is_over = True
                if not isinstance(problem, Unavailable):
                    raw = refused(self.describe(problem))
            except Exception as error:
                # There is no status left to send: the reader resumes from its cursor.
                log.error("a stream broke off", feed=str(self.feed), exc_info=error)
        if raw is None:
            self.is_over = True
            raise StopAsyncIteration
        self.sent_at = self.hub.now
        self.is_sending = True
        return raw

    async def begin(self) -> bytes:
        """Find where to begin: at the cursor, or with a `reset` at the head if that cannot be."""
        self.has_begun = True
        retry = random.randint(*RETRY_MS)
        if not self.last_event_id:
            return self.position("cursor", retry)
        hub = self.hub
        cursor = hub.cursors.read(self.feed.id, self.last_event_id)
        if cursor and cursor.epoch == hub.epoch and cursor.pos > hub.head:
            # Written by another process whose tail is ahead of ours, or by nobody.
            try:
                await self.tail.catch_up()
            except TimeoutError:
                raise Unavailable("The log cannot be read; try again in a moment.") from None
        if (
            cursor is None
            or cursor.epoch != hub.epoch
            or not hub.retained_from - 1 <= cursor.pos <= hub.head
        ):
            return self.reset(retry)
        self.pos, self.epoch = cursor.pos, cursor.epoch
        if self.has_changed is not None:
            async with asking(hub, self.turn):
                if await self.has_changed(self.pos):
                    return self.reload(retry)
        return self.position("cursor", retry)

    async def following(self) -> bytes | None:
        """Return what comes next, events or a heartbeat; None at the stream's end."""
        hub, has_looked = self.hub, False
        while not (self.is_over or hub.is_closed or time.time() >= self.ends_at):
            if self.epoch != hub.epoch or self.pos < hub.retained_from - 1:
                self.checked = BEFORE_ALL
                return self.reset()
            if hub.pace.is_spent:
                # Thousands of readers that go on at once would take one long turn of the loop.
                await hub.pace.turn(self.feed.id)
                continue
            # The log itself says that rights may have changed: look before anything more is sent.
            if self.must_look and not has_looked:
                has_looked = True
                if await self.look_up_rights():
                    return self.reload()
                continue
            has_looked = False
            if self.pos < self.channel.since:
                if raw := await self.past():
                    return raw
                continue
            # From here on nothing waits before the reader is parked, so nothing falls between.
            message = self.looked_up() if (must_look := self.must_look) else self.newest()
            self.pos = message.until
            if message.count:
                hub.counts.deliveries += message.count
                return message.raw
            if must_look or self.pos < self.channel.newest:
                continue
            message = await self.parked()
            self.pos = message.until
            if message.raw and self.epoch == hub.epoch and time.time() < self.ends_at:
                return message.raw
        return None

    @property
    def must_look(self) -> bool:
        """Whether the reader's rights may have changed since they were looked up."""
        if self.channel.authority_over(self.principal) > self.checked:
            return True
        return self.feed.kind == "user" and self.hub.changes.are_newer(
            self.group.sight.grants, self.checked
        )

    def looked_up(self) -> Message:
        """Join what the ring has up to the position at which the reader's rights were looked up.

        They may have changed again since. Without this, changes that come faster than a look-up
        takes would hold a reader for as long as they come.
        """
        newer = self.channel.after(self.pos)
        return self.group.join(takewhile(lambda f: f.pos <= self.checked, newer), self.pos)

    def newest(self) -> Message:
        """Join what the ring has after the reader's position, once for all who stand there."""
        joined = self.channel.joined
        message = joined.get(self.group, self.pos)
        if message is None:
            message = self.group.join(self.channel.after(self.pos), self.pos)
            joined.keep(self.group, self.pos, message)
        return message

    async def parked(self) -> Message:
        """Wait until the hub has something for this reader, or wants it to look."""
        waiter: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.waiter = waiter
        self.group.parked.add(self)
        return await waiter

    def wake(self, message: Message) -> None:
        """Hand the reader what comes next."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(message)

    async def look_up_rights(self) -> bool:
        """Look up what the reader may see now, and until when; says if it must load anew."""
        head = self.hub.head
        sight, ends_at = await self.authorize()
        if ends_at is not None:
            self.ends_at = min(self.ends_at, ends_at)
        return self.see(sight, head)

    def see(self, sight: Sight, checked: int) -> bool:
        """Go on with what the reader may see as of a position; says if it must load anew."""
        self.checked = checked
        if sight == self.group.sight:
            return False
        self.channel.leave(self.group)
        self.group = self.channel.group(self.group.wanted, sight)
        return self.has_changed is not None

    async def past(self) -> bytes:
        """Read on from the database, up to where the channel is complete; perhaps nothing passes.

        Nothing of it is kept: a reader may take as long as it likes for a page.
        """
        head, until = self.hub.head, self.channel.since
        self.hub.counts.replays += not self.has_replayed
        self.has_replayed = True
        try:
            async with asking(self.hub, self.turn):
                sight, frames = await self.replay(self.pos, until, self.group.wanted)
        except Expired:
            return self.reset()
        # A reader that never waits would never let others run.
        await asyncio.sleep(0)
        if self.epoch != self.hub.epoch:
            return b""
        if self.see(sight, head):
            return self.reload()
        message = finish(self.group.joining(frames, self.pos))
        self.pos = message.until if frames else until
        self.hub.counts.deliveries += message.count
        return message.raw

    def reset(self, retry_ms: int | None = None) -> bytes:
        """Go on from the head, and say that what lies before is not to be had."""
        self.hub.counts.resets += 1
        self.pos, self.epoch = self.hub.head, self.hub.epoch
        return self.position("reset", retry_ms)

    def reload(self, retry_ms: int | None = None) -> bytes:
        """Say that what the reader may see is not what it was, and go on where it stands."""
        return self.position("reset", retry_ms)

    def position(self, event: str, retry_ms: int | None = None) -> bytes:
        """Tell the reader where it stands."""
        cursor = self.hub.cursors.write(self.feed.id, self.epoch, self.pos)
        return position(event, cursor, retry_ms)

    def leave(self) -> None:
        """End: the client is gone."""
        self.is_over = True
        self.group.discard(self)
        self.wake(Message(b"", self.pos))

    def close(self) -> None:
        """Leave the channel."""
        self.is_over = True
        self.group.discard(self)
        self.channel.leave(self.group)
        if self.is_sending and self.hub.now - self.sent_at >= SLOW_SECONDS:
            self.hub.counts.slow_readers += 1
