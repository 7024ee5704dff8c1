"""Attackers, in processes of their own: each does one thing as often as it can, for a while.

Run as `python -m tests.bounds.attacks URL PATH TOKEN CURSOR`. Reads attacks from its input, a line
`NAME SECONDS` each; for each prints how often each answer came, by the problem's code.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

ADDRESS = "127.0.0.2"
"""Where attackers come from; budgets of an address must not be the neighbour's."""
PATIENCE_SECONDS = 20
BOMB = '{"type": "x", "data": [' + ",".join(["1e131000"] * 7000) + "]}"
JSON = {"Content-Type": "application/json"}


class Attacker(NamedTuple):
    """One who attacks, as the owner of a workspace of theirs."""

    url: str
    path: str
    token: str
    cursor: str
    ends_at: float
    answers: Counter[str]
    expected: set[str]
    """What it must be told; on a slow machine it has `PATIENCE_SECONDS` more for that."""

    @property
    def is_over(self) -> bool:
        late = time.monotonic() - self.ends_at
        return late > PATIENCE_SECONDS or (late > 0 and self.expected <= self.answers.keys())

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        """Make a client."""
        transport = httpx.AsyncHTTPTransport(
            local_address=ADDRESS, limits=httpx.Limits(max_connections=None)
        )
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, transport=transport, timeout=30
        )

    def note(self, answer: httpx.Response) -> None:
        """Count an answer."""
        is_problem = "problem+json" in answer.headers.get("content-type", "")
        self.answers[answer.json()["code"] if is_problem else str(answer.status_code)] += 1

    async def repeat(self, at_once: int, act: Callable[[int], Awaitable[None]]) -> None:
        """Do something again and again, so many at once, until it is over."""
        numbers = itertools.count()

        async def run() -> None:
            while not self.is_over:
                with contextlib.suppress(httpx.HTTPError, OSError, TimeoutError):
                    await act(next(numbers))

        await asyncio.gather(*(run() for _ in range(at_once)))

    async def send(self, *parts: bytes, pause: float = 0) -> None:
        """Send bytes on a connection of their own, and count the answer."""
        host, port = urlsplit(self.url).hostname, urlsplit(self.url).port
        reader, writer = await asyncio.open_connection(host, port, local_addr=(ADDRESS, 0))
        try:
            with contextlib.suppress(OSError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
            async with asyncio.timeout(max(0.1, self.ends_at - time.monotonic())):
                raw = await reader.read(2**16)
            _, _, body = raw.partition(b"\r\n\r\n")
            self.answers[json.loads(body)["code"] if body else "closed"] += 1
        finally:
            writer.close()


async def bombs(a: Attacker) -> None:
    """Numbers that print as gigabytes."""
    async with a.client() as client:

        async def act(_: int) -> None:
            a.note(await client.post(f"{a.path}/events", content=BOMB, headers=JSON))

        await a.repeat(4, act)


async def dribbles(a: Attacker) -> None:
    """Bodies that come byte by byte."""
    head = (
        f"POST {a.path}/events/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {a.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n["
    )
    await a.repeat(50, lambda _: a.send(head.encode(), *[b" "] * 24, pause=0.1))


async def headers(a: Attacker) -> None:
    """Headers without an end."""
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nx: "
    await a.repeat(8, lambda _: a.send(head, *[b"a" * 16_384] * 8))


async def connections(a: Attacker) -> None:
    """Connections that say nothing."""
    await a.repeat(400, lambda _: a.send())


async def strangers(a: Attacker) -> None:
    """Bodies of a megabyte from nobody."""
    head = (
        b"POST /api/v1/workspaces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000\r\n\r\n"
    )
    await a.repeat(8, lambda _: a.send(head, *[b" " * 65_536] * 3))


async def streams(a: Attacker) -> None:
    """Streams with a filter each, as many as there may be, and batches for all of them."""
    async with a.client() as client:

        async def hold(n: int) -> None:
            types = ",".join(f"t{n}-{i}.*" for i in range(19))
            async with client.stream("GET", f"{a.path}/stream?types={types},x") as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    a.note(answer)
                    # Or these alone would spend the rate of requests, and leave none for batches.
                    await asyncio.sleep(1)
                    return
                async for _ in answer.aiter_raw():
                    if a.is_over:
                        return

        async def act(_: int) -> None:
            body = [{"type": "x", "data": {"n": n}} for n in range(500)]
            answer = await client.post(f"{a.path}/events/batch", json=body)
            a.note(answer)
            await asyncio.sleep(0.05)

        tasks = [
            asyncio.create_task(a.repeat(40, hold)),
            asyncio.create_task(a.repeat(2, act)),
        ]
        while not a.is_over:
            await asyncio.wait(tasks, timeout=0.1)


async def lists(a: Attacker) -> None:
    """Lists that look for what is not there."""
    types = ",".join(f"none.n{i}" for i in range(20))
    async with a.client() as client:

        async def act(_: int) -> None:
            a.note(await client.get(f"{a.path}/events?types={types}&where=data.n:none"))

        await a.repeat(40, act)


async def replays(a: Attacker) -> None:
    """Streams of a long past in which nothing matches."""
    async with a.client() as client:

        async def act(_: int) -> None:
            headers = {"Last-Event-ID": a.cursor}
            url = f"{a.path}/stream?types=none.*"
            async with client.stream("GET", url, headers=headers) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    a.note(answer)
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        async for _raw in answer.aiter_raw():
                            pass

        await a.repeat(60, act)


async def guesses(a: Attacker) -> None:
    """Keys that are wrong."""
    async with a.client("annex_sk_wrong") as client:

        async def act(_: int) -> None:
            a.note(await client.get("/api/v1/workspaces"))

        await a.repeat(20, act)


async def workspaces(a: Attacker) -> None:
    """Workspaces without an end."""
    async with a.client() as client:

        async def act(_: int) -> None:
            a.note(await client.post("/api/v1/workspaces", json={"name": "x"}))

        await a.repeat(20, act)


ATTACKS: dict[str, tuple[Callable[[Attacker], Awaitable[None]], set[str]]] = {
    # What the attacker must have been told, among others.
    "bombs": (bombs, {"invalid_request"}),
    "dribbles": (dribbles, {"request_timeout"}),
    "headers": (headers, {"headers_too_large"}),
    "connections": (connections, {"too_many_connections"}),
    "strangers": (strangers, {"missing_credentials"}),
    "streams": (streams, {"too_many_streams", "too_many_events"}),
    "lists": (lists, {"rate_limited"}),
    "replays": (replays, {"too_many_streams"}),
    "guesses": (guesses, {"too_many_failures"}),
    "workspaces": (workspaces, {"too_many_workspaces"}),
}


def attack(name: str, seconds: float) -> None:
    """Attack, and print what was answered."""
    url, path, token, cursor = sys.argv[1:]
    act, expected = ATTACKS[name]
    ends_at = time.monotonic() + seconds
    attacker = Attacker(url, path, token, cursor, ends_at, Counter(), expected)
    asyncio.run(act(attacker))  # type: ignore[arg-type]
    print(json.dumps(attacker.answers), flush=True)  # noqa: T201


if __name__ == "__main__":
    for line in sys.stdin:
        # All is imported by now, and an attack's connections end with its process.
        if not (child := os.fork()):
            attack(line.split()[0], float(line.split()[1]))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(1)
