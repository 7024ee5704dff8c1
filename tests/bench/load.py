"""The load generator, a process of its own: keep-alive connections that ask again at once.

`python -m tests.bench.load` reads a `Plan` and writes a `Tally`, both as JSON.
"""

import asyncio
import re
import sys
import time
from typing import Any

import msgspec
import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
END_OF_HEAD = b"\r\n\r\n"


class Plan(msgspec.Struct):
    """One measurement: a request for each connection."""

    port: int
    requests: list[bytes]
    seconds: float
    warmup_seconds: float


class Tally(msgspec.Struct):
    """What came of it; failures count from the start."""

    answers: int = 0
    warmup_answers: int = 0
    seconds: float = 0
    failures: int = 0
    cpu_seconds: float = 0
    """Of the load generator itself."""


class Connection(asyncio.Protocol):
    """Sends its request, and again as soon as the whole answer is there."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self.request, self.tally = request, tally
        self.received = bytearray()
        self.whole = 0
        self.has_begun = asyncio.get_running_loop().create_future()
        self.is_over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.has_begun.done():
            self.has_begun.set_result(None)
        self.received += data
        if not self.whole:
            head = self.received.find(END_OF_HEAD)
            if head < 0:
                return
            length = LENGTH.search(self.received, 0, head + 2)
            assert length is not None, self.received
            self.whole = head + len(END_OF_HEAD) + int(length[1])
        if len(self.received) < self.whole:
            return
        self.tally.answers += 1
        self.tally.failures += not self.received.startswith(b"HTTP/1.1 20")
        self.received.clear()
        self.whole = 0
        self.transport.write(self.request)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_over.set_result(error)


async def run(plan: Plan) -> Tally:
    """Ask for the planned time on all connections at once."""
    loop, tally = asyncio.get_running_loop(), Tally()
    connections = [
        (await loop.create_connection(lambda r=r: Connection(r, tally), "127.0.0.1", plan.port))[1]  # type: ignore[misc]
        for r in plan.requests
    ]
    # The server may still be starting.
    await asyncio.wait([c.has_begun for c in connections], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(plan.warmup_seconds)
    tally.warmup_answers, tally.answers = tally.answers, 0
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(plan.seconds)
    tally.seconds, tally.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    found = msgspec.structs.replace(tally)
    for connection in connections:
        if connection.is_over.done():
            raise SystemExit("The server closed a connection.")
        connection.transport.abort()
    await asyncio.gather(*(c.is_over for c in connections))
    return found


if __name__ == "__main__":
    planned = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(planned))))
