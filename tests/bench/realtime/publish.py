"""The publisher, a process of its own: `python -m tests.bench.realtime.publish`.

Reads a `Plan` and writes `Published`, both as JSON. Each event has a number, dense from 0 in its
channel, and the time of its sending.
"""

import asyncio
import itertools
import mmap
import struct
import sys
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import uvloop

DATA_BYTES = 250
MAX_BATCH = 100
PAUSE = 0.0005
"""Seconds before the publisher looks again whether the server has caught up."""


class Http(msgspec.Struct, tag=True):
    """Post each event."""

    port: int
    path: str
    headers: dict[str, str] = {}
    before: str = ""
    """What of the body stands before the data, and after it."""
    after: str = ""


class Sql(msgspec.Struct, tag=True):
    """Publish in plain SQL, as any writer may."""

    url: str
    workspaces: list[UUID]
    connections: int = 1


class Plan(msgspec.Struct):
    """So many events for each channel, at a rate; or as fast as they are delivered."""

    via: Http | Sql
    count: int = 0
    """Events a channel."""
    per_second: float | None = None
    """Over all channels; None: keep `window` events under way."""
    window: int = 0
    readers: int = 0
    seconds: float = 0
    """With a window: how long to go on."""
    counter: str = ""
    first: int = 0
    """The number of the first event."""


class Published(msgspec.Struct):
    """Events of each channel, and what that took."""

    count: int
    seconds: float
    cpu_seconds: float
    """Of the publisher itself."""


def data(n: int) -> str:
    """Make an event's data, always of the same size."""
    text = f'{{"n":{n},"t":{time.monotonic_ns()},"pad":"'
    return f'{text}{"x" * (DATA_BYTES - len(text) - 2)}"}}'


class HttpSender:
    """Posts on one connection without waiting for answers (RFC 9112, section 9.3.2)."""

    channels = 1

    def __init__(self, via: Http) -> None:
        self.via = via
        lines = [f"POST {via.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in via.headers.items()]
        self.head = "\r\n".join([*lines, "Content-Length: "])
        self.sent = self.answered = 0

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.via.port)
        self.answers = asyncio.create_task(self.read_answers())

    async def send(self, channel: int, first: int, count: int) -> None:
        if self.answers.done():
            self.answers.result()
        for n in range(first, first + count):
            body = f"{self.via.before}{data(n)}{self.via.after}"
            self.writer.write(f"{self.head}{len(body)}\r\n\r\n{body}".encode())
            self.sent += 1
        await self.writer.drain()

    async def read_answers(self) -> None:
        """Read answers for ever; ends the publisher at one that is no success."""
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 2"):
                raise SystemExit(f"The publisher was answered {head.decode().splitlines()[0]}.")
            length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
            await self.reader.readexactly(int(length or 0))
            self.answered += 1

    async def close(self) -> None:
        while self.answered < self.sent and not self.answers.done():
            await asyncio.sleep(PAUSE)
        if self.answers.done():
            self.answers.result()
        self.answers.cancel()
        self.writer.close()


class SqlSender:
    """Publishes to its workspaces on one connection, so that each one's order is that of numbers.

    One event with `annex.publish`, several as a batch.
    """

    def __init__(self, via: Sql, workspaces: list[UUID]) -> None:
        self.via, self.workspaces = via, workspaces
        self.channels = len(workspaces)

    async def open(self) -> None:
        self.connection = await asyncpg.connect(self.via.url)
        self.one = await self.connection.prepare(
            "select annex.publish($1, 'bench.tick', $2::jsonb, source => 'bench')"
        )
        self.many = await self.connection.prepare(
            "select count(*) from annex.publish_events($1, $2::jsonb)"
        )

    async def send(self, channel: int, first: int, count: int) -> None:
        workspace = self.workspaces[channel]
        if count == 1:
            await self.one.fetch(workspace, data(first))
            return
        batch = (
            f'{{"type":"bench.tick","source":"bench","data":{data(n)}}}'
            for n in range(first, first + count)
        )
        await self.many.fetch(workspace, f"[{','.join(batch)}]")

    async def close(self) -> None:
        await self.connection.close()


async def publish(plan: Plan) -> Published:
    """Publish as planned."""
    senders: list[HttpSender | SqlSender]
    if isinstance(plan.via, Http):
        senders = [HttpSender(plan.via)]
    else:
        step = plan.via.connections
        senders = [SqlSender(plan.via, plan.via.workspaces[n::step]) for n in range(step)]
    for sender in senders:
        await sender.open()
    began, cpu = time.monotonic(), time.process_time()
    if plan.per_second:
        await asyncio.gather(*(at_rate(s, plan, plan.per_second / len(senders)) for s in senders))
        count = plan.count
    else:
        [sender] = senders
        count = await as_delivered(sender, plan, map_counter(plan.counter))
    for sender in senders:
        await sender.close()
    return Published(count, time.monotonic() - began, time.process_time() - cpu)


def map_counter(path: str) -> mmap.mmap:
    """Map the load generator's count of deliveries."""
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


async def at_rate(sender: HttpSender | SqlSender, plan: Plan, per_second: float) -> None:
    """Publish evenly; one that falls behind hurries, so that the rate holds."""
    began = time.monotonic()
    for turn, (n, channel) in enumerate(
        itertools.product(range(plan.count), range(sender.channels))
    ):
        await asyncio.sleep(max(0, began + turn / per_second - time.monotonic()))
        await sender.send(channel, plan.first + n, 1)


async def as_delivered(sender: HttpSender | SqlSender, plan: Plan, shared: mmap.mmap) -> int:
    """Keep a window of events under way, so that the server always has more to do."""
    published, ends_at = 0, time.monotonic() + plan.seconds
    before = struct.unpack("=Q", shared[:8])[0]
    while time.monotonic() < ends_at:
        delivered = (struct.unpack("=Q", shared[:8])[0] - before) // plan.readers
        free = plan.window - (published - delivered)
        if free > 0:
            count = min(free, MAX_BATCH)
            await sender.send(0, plan.first + published, count)
            published += count
        else:
            await asyncio.sleep(PAUSE)
    return published


if __name__ == "__main__":
    planned = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(publish(planned))))
