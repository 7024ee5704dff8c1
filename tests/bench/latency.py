"""From publish to stream: how long after a POST begins its event is on an open stream."""

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
from httpx_sse import aconnect_sse

START_SECONDS = 60


def measure(data: Path, count: int) -> list[float]:
    """Start `annex dev`, publish one event after the other, and return each one's milliseconds."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("annex"), "dev", "--port", "0", "--data", data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return asyncio.run(publish(read_facts(data / "dev.json", process), count))
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
