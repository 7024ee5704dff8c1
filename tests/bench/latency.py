"""What one client waits for: from publish to stream, and 20 permission questions at once."""

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
from httpx_sse import aconnect_sse

START_SECONDS = 60
CHECKS = 300


class Measured(NamedTuple):
    """Milliseconds of each event from publish to stream, and of each request of 20 questions."""

    deliveries: list[float]
    checks: list[float]
    quick_checks: float
    """The share of those requests that the server itself answered within 5 ms."""


def measure(data: Path, count: int) -> Measured:
    """Start `annex dev`, publish events and ask questions, one after the other."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("annex"), "dev", "--port", "0", "--data", data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        facts = read_facts(data / "dev.json", process)
        return Measured(asyncio.run(publish(facts, count)), *asyncio.run(check(facts)))
    finally:
        process.terminate()
        process.wait()


def read_facts(file: Path, process: "subprocess.Popen[bytes]") -> Any:
    """Wait until the server answers and says where."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(file.read_bytes())
        time.sleep(0.1)
    raise SystemExit("`annex dev` does not start; try it by itself.")


async def publish(facts: Any, count: int) -> list[float]:
    """Publish events; each is awaited on the stream before the next one is sent."""
    headers = {"Authorization": f"Bearer {facts['api_key']}"}
    base = f"{facts['url']}/api/v1/workspaces/{facts['workspace']['slug']}/"
    found = []
    async with (
        httpx.AsyncClient(base_url=base, headers=headers, timeout=10) as client,
        aconnect_sse(client, "GET", "stream") as source,
    ):
        arriving = source.aiter_sse()
        for n in range(count):
            began = time.perf_counter()
            body = {"type": "bench.published", "data": {"n": n}}
            answer = asyncio.create_task(client.post("events", json=body))
            async for event in arriving:
                if event.event == "message" and event.json()["data"] == {"n": n}:
                    break
            found.append((time.perf_counter() - began) * 1000)
            (await answer).raise_for_status()
    return found


async def check(facts: Any) -> tuple[list[float], float]:
    """Ask 20 questions at once, about the owner and two others; the first requests do not count.

    Returns the milliseconds that the client saw, and the share that took the server at most 5.
    """
    users = facts["users"]
    headers = {"Authorization": f"Bearer {users['owner']['token']}"}
    permissions = ["events:read", "members:manage", "keys:manage", "workspace:delete", "roles:read"]
    questions = [
        {"permission": permission, "user_id": who and users[who]["id"]}
        for who in (None, "member", "stranger", "owner")
        for permission in permissions
    ]
    path = f"/api/v1/workspaces/{facts['workspace']['slug']}/checks"
    found = []
    async with httpx.AsyncClient(base_url=facts["url"], headers=headers, timeout=10) as client:
        for _ in range(20 + CHECKS):
            began = time.perf_counter()
            answer = await client.post(path, json={"questions": questions})
            found.append((time.perf_counter() - began) * 1000)
            assert len(answer.raise_for_status().json()["data"]) == 20
        operator = {"Authorization": f"Bearer {facts['operator_key']}"}
        metrics = (await client.get("/metrics", headers=operator)).raise_for_status().text
    name = 'annex_http_request_duration_seconds_bucket{le="%s",operation="checkPermissions"'
    within, asked = (
        float(next(i for i in metrics.splitlines() if i.startswith(name % le)).split()[-1])
        for le in ("0.005", "+Inf")
    )
    return found[20:], within / asked
