"""One reader of a workspace's log as Server-Sent Events (WHATWG HTML, section 9.2)."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from uuid import UUID

import msgspec
import structlog
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from app.errors import Problem, Unavailable
from app.realtime.filters import Filter
from app.realtime.hub import Channel, Frame, Hub
from app.realtime.tail import Tail
from app.schemas.stream import StreamPosition

log = structlog.get_logger()

HEARTBEAT_SECONDS = 15.0
LIFETIME_SECONDS = 900.0
RETRY_MS = (1000, 5000)
"""Between these a reader is told how long to wait, so that not all come back at once."""
MAX_CHUNK = 64 * 1024
BEFORE_ALL = -1
"""A position below every other: rights checked there have to be checked now."""
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}

Replay = Callable[[UUID, int, int], Awaitable[list[Frame]]]
"""Reads frames of a workspace after a position, up to another, in order; at most a page."""
Authorize = Callable[[], Awaitable[bool]]
"""Looks the reader's rights up again.

Returns whether they see audit events, raises a Problem when they have none.
"""


class Message(ServerSentEventMessage):
    """Bytes that are framed already; Litestar would frame plain bytes once more."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def encode(self) -> bytes:
        return self.raw


def named(
    event: str, data: msgspec.Struct, cursor: str | None = None, retry_ms: int | None = None
) -> Message:
    """Frame a named message."""
    lines = [f"id: {cursor}"] if cursor else []
    lines += [f"retry: {retry_ms}"] if retry_ms else []
    lines += [f"event: {event}", f"data: {msgspec.json.encode(data).decode()}", "", ""]
    return Message("\n".join(lines).encode())


def respond(content: AsyncGenerator[Message]) -> ServerSentEvent:
    """Answer with a stream."""
    return ServerSentEvent(content, headers=HEADERS)


async def refused(problem: msgspec.Struct) -> AsyncGenerator[Message]:
    """Tell an EventSource that it may not read; of a 401 it would never tell the reason."""
    yield named("unauthorized", problem, retry_ms=60_000)


class Stream:
    """Yields messages until the reader's time is over, its rights are gone or the server stops."""

    def __init__(
        self,
        hub: Hub,
        tail: Tail,
        workspace_id: UUID,
        wanted: Filter,
        *,
        sees_audit: bool,
        last_event_id: str | None,
        ends_at: float | None,
        authorized_at: int,
        authorize: Authorize,
        replay: Replay,
        describe: Callable[[Problem], msgspec.Struct],
    ) -> None:
        self.hub = hub
        self.tail = tail
        self.workspace_id = workspace_id
        self.wanted = wanted
        self.sees_audit = sees_audit
        self.last_event_id = last_event_id
        self.authorize = authorize
        self.replay = replay
        self.describe = describe
        lifetime = time.time() + LIFETIME_SECONDS * random.uniform(0.8, 1.2)
        self.ends_at = min(lifetime, ends_at or lifetime)
        self.checked = authorized_at
        self.pos = hub.head
        self.epoch = hub.epoch
        self.page: Iterator[Frame] = iter(())
        """What is left of a page of the past."""

    async def messages(self) -> AsyncGenerator[Message]:
        """Yield the stream's messages; lets its channel go at the end, however that comes."""
        # Joined before the first look at the log, so that nothing falls between.
        self.channel: Channel = self.hub.channel(self.workspace_id)
        try:
            message: Message | None = await self.begin()
            while True:
                if message is not None:
                    self.quiet_until = time.monotonic() + HEARTBEAT_SECONDS
                    yield message
                if self.hub.is_closed or time.time() >= self.ends_at:
                    break
                message = await self.following()
        except Problem as problem:
            if not isinstance(problem, Unavailable):
                yield named("unauthorized", self.describe(problem), retry_ms=60_000)
        except Exception as error:
            # Mid-stream there is no status left to send: the reader resumes from its cursor.
            log.error("a stream broke off", workspace_id=str(self.workspace_id), exc_info=error)
        finally:
            # A cancellation's traceback keeps this stream until the next garbage collection. One
            # cut off in mid-send may not come by here: its channel goes with it.
            del self.channel

    async def begin(self) -> Message:
        """Find where to begin: at the cursor, or with a `reset` at the head if that cannot be."""
        retry = random.randint(*RETRY_MS)
        if not self.last_event_id:
            return self.position("cursor", retry)
        cursor = self.hub.cursors.read(self.last_event_id)
        if cursor and cursor.epoch == self.hub.epoch and cursor.pos > self.hub.head:
            # Written by another process whose tail is ahead of ours, or by nobody.
            try:
                await self.tail.catch_up()
            except TimeoutError:
                raise Unavailable("The log cannot be read; try again in a moment.") from None
        if (
            cursor is None
            or cursor.epoch != self.hub.epoch
            or not self.hub.retained_from - 1 <= cursor.pos <= self.hub.head
        ):
            self.pos, self.epoch = self.hub.head, self.hub.epoch
            return self.position("reset", retry)
        self.pos, self.epoch = cursor.pos, cursor.epoch
        # No empty line after it: it belongs to the first message, whichever that will be.
        return Message(f"retry: {retry}\n".encode())

    async def following(self) -> Message | None:
        """Return what comes next, frames or a heartbeat; None when it is time to look again."""
        if self.epoch != self.hub.epoch:
            self.pos, self.epoch = self.hub.head, self.hub.epoch
            self.checked, self.page = BEFORE_ALL, iter(())
            return self.position("reset")
        # The log itself says that rights may have changed: look before anything more is sent, and
        # again if they changed meanwhile.
        while self.channel.authority > self.checked:
            self.checked = self.hub.head
            self.sees_audit = await self.authorize()
        if message := self.chunk(self.page):
            return message
        if self.pos < self.channel.since:
            await self.turn_page()
            return None
        # Nothing below waits before the reader is parked, so no wake-up falls between.
        head = self.hub.head
        if message := self.chunk(self.channel.after(self.pos)):
            return message
        self.pos = head
        if time.monotonic() >= self.quiet_until:
            return self.position("cursor")
        await self.woken()
        return None

    async def turn_page(self) -> None:
        """Read a page of the past from the database, up to where the channel is complete."""
        until = self.channel.since
        frames = await self.replay(self.workspace_id, self.pos, until)
        if not frames:
            self.pos = until
        self.page = iter(frames)
        # A reader that never waits would never let others run.
        await asyncio.sleep(0)

    def chunk(self, frames: Iterable[Frame]) -> Message | None:
        """Join the frames that pass, up to 64 KiB, and go on behind the last one looked at."""
        parts, size = [], 0
        for frame in frames:
            self.pos = frame.pos
            if frame.passes(self.wanted, sees_audit=self.sees_audit):
                parts.append(frame.bytes)
                size += len(frame.bytes)
                if size >= MAX_CHUNK:
                    break
        return Message(b"".join(parts)) if parts else None

    async def woken(self) -> None:
        """Wait for the channel, until a heartbeat is due or the stream's time is over."""
        future = asyncio.get_running_loop().create_future()
        self.channel.waiting.add(future)
        seconds = min(self.quiet_until - time.monotonic(), self.ends_at - time.time())
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            pass
        finally:
            self.channel.waiting.discard(future)

    def position(self, event: str, retry_ms: int | None = None) -> Message:
        """Tell the reader where it stands, so that a quiet one, too, resumes from now."""
        cursor = self.hub.cursors.write(self.epoch, self.pos)
        return named(event, StreamPosition(cursor), cursor, retry_ms)
