"""Attackers, in processes of their own: each does one thing as often as it can, for a while.

Run as `python -m tests.bounds.attacks URL`. Reads attacks from its input, an `Order` a line; for
each prints its name and how often each answer came, by the problem's code.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec

PATIENCE_SECONDS = 20
HANGING_SECONDS = 8.0
"""What a request may last that waits for the key set, beside everything else."""
CRASH = "!"
"""Begins what is told in place of an answer if the attack itself failed."""
BOMB = '{"type": "x", "data": [' + ",".join(["1e131000"] * 7000) + "]}"
JSON = {"Content-Type": "application/json"}


class Order(msgspec.Struct, frozen=True):
    """What an attacker is told to do, and who it is: an owner of a workspace of theirs."""

    name: str
    seconds: float
    path: str
    token: str
    cursor: str
    address: str
    """Where it comes from; budgets of an address must not be the neighbour's."""
    is_patient: bool
    """Whether it goes on until it was told what it must be; for `PATIENCE_SECONDS` at most."""


class Attacker(NamedTuple):
    """One who attacks."""

    url: str
    path: str
    token: str
    cursor: str
    address: str
    ends_at: float
    answers: Counter[str]
    expected: set[str]
    """What it must be told; on a slow machine it has `PATIENCE_SECONDS` more for that."""
    is_patient: bool

    @property
    def is_over(self) -> bool:
        late = time.monotonic() - self.ends_at
        has_all = not self.is_patient or self.expected <= self.answers.keys()
        return late > PATIENCE_SECONDS or (late > 0 and has_all)

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        """Make a client."""
        transport = httpx.AsyncHTTPTransport(
            local_address=self.address, limits=httpx.Limits(max_connections=None)
        )
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, transport=transport, timeout=30
        )

    def note(self, answer: httpx.Response) -> str:
        """Count an answer; returns the problem's code, or the status."""
        is_problem = "problem+json" in answer.headers.get("content-type", "")
        found = answer.json()["code"] if is_problem else str(answer.status_code)
        self.answers[found] += 1
        return found

    async def repeat(self, at_once: int, act: Callable[[int], Awaitable[None]]) -> None:
        """Do something again and again, so many at once, until it is over."""
        numbers = itertools.count()

        async def run() -> None:
            while not self.is_over:
                with contextlib.suppress(httpx.HTTPError, OSError, TimeoutError):
                    await act(next(numbers))

        await asyncio.gather(*(run() for _ in range(at_once)))

    async def together(self, *acts: Coroutine[Any, Any, None]) -> None:
        """Do things together until it is over, also those that would wait for longer.

        Raises what one of them raises.
        """
        tasks = [asyncio.create_task(act) for act in acts]
        while not self.is_over:
            done, _ = await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()

    async def send(self, *parts: bytes, pause: float = 0) -> None:
        """Send bytes on a connection of their own, and count the answer."""
        host, port = urlsplit(self.url).hostname, urlsplit(self.url).port
        reader, writer = await asyncio.open_connection(host, port, local_addr=(self.address, 0))
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

        await a.together(a.repeat(40, hold), a.repeat(2, act))


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
                    # Which of the two comes first depends on how fast they are opened.
                    if a.note(answer) in ("too_many_streams", "rate_limited"):
                        a.answers["refused"] += 1
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        async for _raw in answer.aiter_raw():
                            pass

        await a.repeat(60, act)


async def rings(a: Attacker) -> None:
    """Events of numbers, held by one stream, and many others with a new filter each."""
    numbers = {"type": "x", "data": [0.25] * 10_000}
    async with a.client() as client:
        listed = await client.get(f"{a.path}/events?limit=1")
        if listed.status_code != 200:
            a.note(listed)
            return
        cursor = listed.json()["stream_cursor"]
        for _ in range(16):
            a.note(await client.post(f"{a.path}/events", json=numbers))

        async def hold(_: int) -> None:
            url = f"{a.path}/stream?where=data.0:1&where=data.1:2"
            async with client.stream("GET", url) as answer:
                async for _raw in answer.aiter_raw():
                    if a.is_over:
                        return

        async def act(n: int) -> None:
            url = f"{a.path}/stream?types=x,a.b{n}&where=data.{n % 5}:{n}"
            async with client.stream("GET", url, headers={"Last-Event-ID": cursor}) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    if a.note(answer) in ("too_many_streams", "rate_limited"):
                        a.answers["refused"] += 1
                    await asyncio.sleep(0.5)
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        async for _raw in answer.aiter_raw():
                            pass

        await a.together(a.repeat(1, hold), a.repeat(5, act))


async def guesses(a: Attacker) -> None:
    """Keys that are wrong."""
    async with a.client("annex_sk_wrong") as client:

        async def act(_: int) -> None:
            a.note(await client.get("/api/v1/workspaces"))

        await a.repeat(20, act)


async def tokens(a: Attacker) -> None:
    """Tokens of keys that nobody knows, while the host of the key set hangs."""
    # Each address alone has spent its failures before the host has hung for long.
    part = os.getpid() % 250
    addresses = [a._replace(address=f"127.1.{part}.{n}") for n in range(1, 6)]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(a.client("")) for a in addresses]

        async def act(n: int) -> None:
            token = unknown_token(f"{os.getpid()}-{n}")
            path = f"{a.path}/stream" if n % 2 else "/api/v1/workspaces"
            began = time.monotonic()
            answer = await clients[n % len(clients)].get(
                path, headers={"Authorization": f"Bearer {token}"}
            )
            seconds = time.monotonic() - began
            assert seconds < HANGING_SECONDS, f"{path} took {seconds:.1f} s"
            a.note(answer)
            if seconds > 0.5:
                a.answers["waited"] += 1

        await a.repeat(40, act)


def unknown_token(kid: str) -> str:
    """Write a token that names a key; its signature is none."""
    parts = [json.dumps({"alg": "ES256", "kid": kid}), "{}", "x" * 64]
    return ".".join(urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts)


async def workspaces(a: Attacker) -> None:
    """Workspaces without an end."""
    async with a.client() as client:

        async def act(_: int) -> None:
            a.note(await client.post("/api/v1/workspaces", json={"name": "x"}))

        await a.repeat(20, act)


async def unread(a: Attacker) -> None:
    """Answers of megabytes that nobody reads."""
    host, port = urlsplit(a.url).hostname, urlsplit(a.url).port
    get = b"GET /docs/assets/scalar.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    loop = asyncio.get_running_loop()

    async def take(_: int) -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            connection.bind((a.address, 0))
            await loop.sock_connect(connection, (host, port))
            await loop.sock_sendall(connection, get)
            await asyncio.sleep(1.5)
            size, head = 0, b""
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionResetError):
                    while more := await loop.sock_recv(connection, 2**16):
                        head, size = head or more, size + len(more)
            length = head.lower().partition(b"content-length:")[2]
            is_whole = bool(length) and size > int(length.split()[0])
            a.answers["200" if is_whole else "closed"] += 1

    await a.repeat(60, take)


async def keys(a: Attacker) -> None:
    """Keys of one account, each with requests of its own."""
    body = {"name": "One of many", "permissions": ["events:read"]}
    async with a.client() as owner, contextlib.AsyncExitStack() as stack:
        clients = list[httpx.AsyncClient]()
        for _ in range(20):
            made = await owner.post(f"{a.path}/api-keys", json=body)
            a.note(made)
            clients.append(await stack.enter_async_context(a.client(made.json()["secret"])))

        async def act(n: int) -> None:
            a.note(await clients[n % len(clients)].get(f"{a.path}/events?limit=1"))

        await a.repeat(40, act)


async def answers(a: Attacker) -> None:
    """Answers that are to be kept for a new idempotency key each."""
    async with a.client() as client:

        async def act(n: int) -> None:
            headers = {"Idempotency-Key": f"{os.getpid()}-{n}"}
            body = {"type": "x", "data": {"n": n}}
            answer = await client.post(f"{a.path}/events", json=body, headers=headers)
            if a.note(answer) == "rate_limited" and "are kept" in answer.json()["detail"]:
                a.answers["kept"] += 1

        await a.repeat(8, act)


async def roles(a: Attacker) -> None:
    """A role that is changed as fast as that is answered, beside streams that have to look."""
    async with a.client() as client:

        async def hold(_: int) -> None:
            async with client.stream("GET", "/api/v1/stream/notifications") as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    await asyncio.sleep(1)
                    return
                async for _raw in answer.aiter_raw():
                    if a.is_over:
                        return

        async def act(n: int) -> None:
            permissions = ["workspace:read", "events:read", *["events:audit"] * (n % 2)]
            body = {"name": "Desk", "permissions": permissions, "grantable": []}
            a.note(await client.put(f"{a.path}/roles/desk", json=body))

        await a.together(a.repeat(20, hold), a.repeat(2, act))


async def questions(a: Attacker) -> None:
    """Questions of nobody that reach the database."""
    async with a.client("nobody") as client:

        async def act(n: int) -> None:
            if n % 2:
                await client.get("/health/ready")
                return
            body = {"List-Unsubscribe": "One-Click"}
            a.note(
                await client.post("/unsubscribe", params={"token": f"annex_ut_{n:043}"}, data=body)
            )

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
    "replays": (replays, {"refused"}),
    "rings": (rings, {"201", "refused"}),
    "guesses": (guesses, {"too_many_failures"}),
    "tokens": (tokens, {"invalid_token", "too_many_failures", "waited"}),
    "workspaces": (workspaces, {"too_many_workspaces"}),
    "unread": (unread, {"closed"}),
    "keys": (keys, {"rate_limited"}),
    "answers": (answers, {"kept"}),
    "roles": (roles, {"rate_limited"}),
    "questions": (questions, {"too_many_failures"}),
}


def attack(url: str, order: Order) -> None:
    """Attack, and print what was answered."""
    act, expected = ATTACKS[order.name]
    ends_at = time.monotonic() + order.seconds
    attacker = Attacker(
        url,
        order.path,
        order.token,
        order.cursor,
        order.address,
        ends_at,
        Counter(),
        expected,
        order.is_patient,
    )
    try:
        asyncio.run(act(attacker))  # type: ignore[arg-type]
    except Exception as error:
        attacker.answers[CRASH + repr(error)] += 1
    # In one write, as attackers may be several at once.
    os.write(1, f"{order.name} {json.dumps(attacker.answers)}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        # All is imported by now, and an attack's connections end with its process.
        if not os.fork():
            attack(sys.argv[1], msgspec.json.decode(line, type=Order))
            os._exit(0)
