"""A tenant that behaves notices no attacker, at any bound or beyond it."""

import asyncio
import ctypes
import gc
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest

from app.dev.postgres import EmbeddedPostgres
from app.server import raise_file_limit
from app.settings import Settings
from tests.bounds.attacks import ATTACKS
from tests.conftest import (
    ROOT,
    UNLIMITED,
    Callers,
    Running,
    Tenant,
    new_database,
    new_tenant,
    running,
)
from tests.realtime.reader import cursor_at_head, follow

SECONDS = 4.0
TIMES = 5
LIST_SECONDS, DELIVERY_SECONDS = 0.25, 0.5
"""What a tenant may wait at most, unless this machine is slower by itself."""
# As an operator gets them, but for the rates, which a few seconds must be able to reach.
DEFAULTS = {f.name: f.default for f in msgspec.structs.fields(Settings) if f.name in UNLIMITED}
LIMITS = {
    **DEFAULTS,
    "rate_limit_requests": 150,
    "max_events_per_minute": 2000,
    "body_seconds": 2,
    "header_seconds": 2,
}


class Scene(NamedTuple):
    server: Running
    quiet: Tenant
    loud: Tenant
    attackers: asyncio.subprocess.Process
    alone: tuple[float, float]
    """The quiet tenant's p99 of a list and of a delivery, without anybody else."""


@pytest.fixture(scope="module")
async def scene(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[Scene]:
    raise_file_limit()
    async with new_database(postgres, template) as database:
        async with database.connect("postgres") as admin:
            await admin.execute("update annex.limits set value = 20")
        async with running(database, **LIMITS) as server:
            callers = Callers(server)
            quiet, loud = [await new_tenant(callers) for _ in range(2)]
            await server.app.runtime.tail.catch_up()
            cursor = cursor_at_head(server, loud)
            async with database.connect("postgres") as admin:
                batch = [{"type": "x", "source": "s", "data": {"n": n}} for n in range(500)]
                for _ in range(40):
                    text = msgspec.json.encode(batch).decode()
                    await admin.execute("select annex.publish_events($1, $2)", UUID(loud.id), text)
            await server.app.runtime.tail.catch_up(30)
            token = loud.owner.client.headers["authorization"].removeprefix("Bearer ")
            attackers = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bounds.attacks"),
                *(server.url, loud.path, token, cursor),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            alone = [await behave(quiet) for _ in range(2)][1]
            yield Scene(server, quiet, loud, attackers, alone)
            assert attackers.returncode is None
            attackers.kill()
            await attackers.wait()
            await callers.close()


async def behave(tenant: Tenant) -> tuple[float, float]:
    """List, publish and read the stream, as an app would; returns the p99 of list and delivery.

    Fails if anything is lost or refused.
    """
    client, path = tenant.owner.client, tenant.path
    lists, deliveries, number = list[float](), list[float](), 0
    ends_at = time.monotonic() + SECONDS
    async with follow(client, f"{path}/stream", types="quiet.made") as reader:
        assert (await reader.message()).event == "cursor"
        # Within its own rate.
        while time.monotonic() < ends_at:
            began = time.monotonic()
            answer = await client.get(f"{path}/events", params={"limit": 20})
            lists.append(time.monotonic() - began)
            assert answer.status_code == 200, answer.text
            number += 1
            body = {"type": "quiet.made", "data": {"n": number}}
            began = time.monotonic()
            answer = await client.post(f"{path}/events", json=body)
            assert answer.status_code == 201, answer.text
            while (found := await reader.message(10)).event != "message":
                pass
            deliveries.append(time.monotonic() - began)
            assert found.json()["data"]["n"] == number
            await asyncio.sleep(0.15)
    return p99(lists), p99(deliveries)


def begin(name: str, scene: Scene, seconds: float) -> asyncio.Task[bytes]:
    """Begin an attack in a process of its own; the task returns its answers, as JSON."""
    assert scene.attackers.stdin is not None
    assert scene.attackers.stdout is not None
    scene.attackers.stdin.write(f"{name} {seconds}\n".encode())
    return asyncio.create_task(scene.attackers.stdout.readline())


def memory() -> int:
    """Return the resident memory of this process, the server's, without what is free in it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def p99(times: list[float]) -> float:
    """Return the time that one in a hundred is above; of fewer, the longest but one."""
    return sorted(times)[-max(2, len(times) // 100)]


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_neighbour_does_not_notice(name: str, scene: Scene) -> None:
    runtime = scene.server.app.runtime
    # Each attack is judged by itself: what a tenant or address spent before is given back.
    runtime.limiter.of_callers.found.clear()
    runtime.failures.buckets.found.clear()
    # What the first attack of a kind leaves is the allocator's and caches'; the next adds nothing.
    await begin(name, scene, 1)
    runtime.limiter.of_callers.found.clear()
    runtime.failures.buckets.found.clear()
    before = memory()
    attack = begin(name, scene, SECONDS + 0.5)
    await asyncio.sleep(0.3)  # until it is in full swing
    waited = await behave(scene.quiet)
    output = await attack
    assert json.loads(output).keys() >= ATTACKS[name][1], output.decode()
    await asyncio.sleep(0.5)  # until what it left open is closed
    assert memory() <= 1.2 * before, f"{before} bytes before, {memory()} after"
    limits = (LIST_SECONDS, DELIVERY_SECONDS)
    bounds = [max(TIMES * alone, limit) for alone, limit in zip(scene.alone, limits, strict=True)]
    assert [w <= b for w, b in zip(waited, bounds, strict=True)] == [
        True,
        True,
    ], f"waited {waited}, alone {scene.alone}"
