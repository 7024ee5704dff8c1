"""Bodies that are being received, or wait for an answer, are bounded in bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Problem
from app.http.bodies import Bodies, Body
from app.http.protocol import Protocol
from tests.bounds.test_protocol import answer, connect
from tests.conftest import Callers, Running, Tenant, TestDatabase, new_tenant, running
from tests.realtime.reader import until

MIB = 2**20
LIMITS: dict[str, Any] = {
    "max_held_bytes_per_address": 2 * MIB,
    "max_held_bytes": 3 * MIB,
    "body_seconds": 30,
    "trusted_proxies": ["127.0.0.1"],  # so that clients may come from any address
}


class Counted:
    """Bodies of a bound, and those that were given up, by the problem's status."""

    def __init__(self, of_client: int, of_process: int) -> None:
        self.bodies = Bodies(of_client, of_process)
        self.given_up = list[tuple[str, int]]()

    def body(self, client: str, name: str, size: int) -> Body:
        def end(problem: Problem) -> None:
            assert int(problem.headers["Retry-After"]) > 0
            self.given_up.append((name, problem.status))

        made = Body(client, end)
        self.bodies.grow(made, size)
        return made


def test_the_oldest_of_a_client_that_is_not_whole_is_given_up() -> None:
    counted = Counted(3 * MIB, 100 * MIB)
    whole, old, young = [counted.body("a", name, MIB) for name in ("whole", "old", "young")]
    whole.is_whole = True
    counted.body("b", "other", 3 * MIB)
    assert counted.given_up == []
    counted.bodies.grow(young, MIB + 1)
    assert counted.given_up == [("old", 429)]
    # What still comes of it is nothing.
    counted.bodies.grow(old, 2 * MIB)
    counted.bodies.remove(old)
    assert counted.bodies.total == 5 * MIB + 1
    # Nothing is left but what waits for an answer: the one that grows goes.
    young.is_whole = True
    counted.body("a", "late", MIB)
    assert counted.given_up == [("old", 429), ("late", 429)]
    for body in (whole, young, young):
        counted.bodies.remove(body)
    assert counted.bodies.sizes == {"b": 3 * MIB}


def test_for_the_process_the_client_gives_up_that_holds_the_most() -> None:
    counted = Counted(3 * MIB, 5 * MIB)
    for n in range(2):
        counted.body("loud", f"loud {n}", MIB)
    quiet = counted.body("quiet", "quiet", MIB)
    for n in range(5):
        counted.body(f"other {n}", f"other {n}", MIB // 2)
    assert counted.given_up == [("loud 0", 503)]
    assert not quiet.is_over
    assert counted.bodies.total <= 5 * MIB


def test_a_few_clients_whose_bodies_are_whole_leave_room_for_others() -> None:
    counted = Counted(8 * MIB, 32 * MIB)
    for _ in range(8):
        for client in range(8):
            counted.body(f"loud {client}", f"loud {client}", MIB).is_whole = True
    assert {(name.split()[0], status) for name, status in counted.given_up} == {("loud", 429)}
    assert counted.bodies.total < 30 * MIB
    assert max(counted.bodies.sizes.values()) <= 4 * MIB
    counted.given_up.clear()
    for n in range(4):
        counted.body(f"quiet {n}", f"quiet {n}", MIB // 2)
    assert counted.given_up == []
    # Less is left by now than each loud client holds whole: another body of theirs goes, and ends
    # the search for one that could.
    for n in range(8):
        counted.body(f"loud {n}", f"again {n}", MIB // 2)
    assert counted.given_up == [(f"again {n}", 429) for n in range(8)]
    assert counted.bodies.total == sum(counted.bodies.sizes.values()) < 32 * MIB


SENDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=60)


@given(SENDS)
def test_whatever_clients_send_the_bound_holds_and_is_counted(
    sends: list[tuple[int, int, bool]],
) -> None:
    counted = Counted(4 * MIB, 8 * MIB)
    made = list[Body]()
    for client, half_mib, is_whole in sends:
        if not half_mib:
            # The oldest one is answered, given up or not.
            for body in made[:1]:
                counted.bodies.remove(body)
            del made[:1]
            continue
        body = counted.body(f"{client}", "", half_mib * MIB // 4)
        counted.bodies.grow(body, half_mib * MIB // 2)
        body.is_whole = is_whole
        made.append(body)
        held = [body for body in made if not body.is_over]
        assert counted.bodies.total == sum(body.size for body in held) <= 8 * MIB
        assert {b for each in counted.bodies.held.values() for b in each} == set(held)
        assert max(counted.bodies.sizes.values(), default=0) <= 4 * MIB
    for body in made:
        counted.bodies.remove(body)
    assert (counted.bodies.total, counted.bodies.sizes, counted.bodies.held) == (0, {}, {})


@pytest.fixture
async def small(database: TestDatabase) -> AsyncIterator[Running]:
    async with running(database, **LIMITS) as live:
        yield live


async def upload(
    live: Running, tenant: Tenant, address: str, size: int = MIB - 1
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a body of 1 MiB but for its end, and wait until the server has it."""
    token = tenant.owner.client.headers["authorization"]
    head = (
        f"POST {tenant.path}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        f"X-Forwarded-For: {address}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {MIB}\r\n\r\n"
    )
    reader, writer = await connect(live)
    bodies = live.app.connections.bodies
    sizes, refused = bodies.sizes[address], live.app.connections.refused["bodies"]
    writer.write(head.encode() + b" " * size)
    await until(
        lambda: bodies.sizes[address] == sizes + size
        or live.app.connections.refused["bodies"] > refused
    )
    return reader, writer


async def test_an_address_holds_so_much_and_the_others_go_on(small: Running) -> None:
    callers = Callers(small)
    tenant = await new_tenant(callers)
    connections = small.app.connections
    held = [await upload(small, tenant, "192.0.2.1") for _ in range(3)]
    status, problem = await answer(held[0][0])
    assert (status, problem["code"]) == (429, "rate_limited")
    # Another address: beyond what the process holds, the one with the most loses its oldest.
    held.append(await upload(small, tenant, "192.0.2.2"))
    held.append(await upload(small, tenant, "192.0.2.3", MIB // 2))
    status, problem = await answer(held[1][0])
    assert (status, problem["code"]) == (503, "unavailable")
    # Small ones are not held up, and what is left is answered.
    small_one = await tenant.owner.client.post(f"{tenant.path}/events", json={"type": "x"})
    assert small_one.status_code == 201
    for reader, writer in held[2:4]:
        writer.write(b" ")
        status, problem = await answer(reader)
        assert (status, problem["code"]) == (400, "invalid_request")
    for _, writer in held:
        writer.close()
    await until(lambda: connections.bodies.total == 0 and not connections.bodies.held)
    metrics = await callers.operator().client.get("/metrics")
    assert 'annex_refused_total{code="bodies"} 2.0' in metrics.text
    await callers.close()


async def test_a_body_that_was_given_up_is_not_late_as_well(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = list[Protocol]()
    monkeypatch.setattr(Protocol, "watch", lambda self, _: timed.append(self))
    async with running(database, **LIMITS, pool_size=2) as live:
        callers = Callers(live)
        tenant = await new_tenant(callers)
        sender = tenant._replace(owner=await callers.key(tenant.id, "events:publish"))
        pool, refused = live.app.runtime.database.api, live.app.connections.refused
        # The application asks whose key it is, and looks at no body before it knows.
        async with pool.lend(), pool.lend():
            # Of none the server stops to read because the application does not.
            held = [await upload(live, sender, "192.0.2.1", 60_000) for _ in range(35)]
            assert refused["bodies"] == 1
            late = {protocol for protocol in timed if protocol.body_bytes == 60_000}
            assert len(late) == len(held)
            for protocol in late:
                protocol.body_began_at -= 60
                protocol.on_time()
            assert (refused["bodies"], refused["request_timeout"]) == (1, 34)
        statuses = [(await answer(reader))[0] for reader, _ in held]
        assert statuses == [429] + [408] * 34
        for _, writer in held:
            writer.close()
        await callers.close()


async def test_what_is_answered_before_it_has_come_or_is_broken_off_is_not_held(
    small: Running,
) -> None:
    callers = Callers(small)
    tenant = await new_tenant(callers)
    bodies = small.app.connections.bodies
    stranger = tenant._replace(path="/api/v1/workspaces/none")
    token = tenant.owner.client.headers["authorization"]
    for path, credential, end in (
        (tenant.path, token, b""),
        (stranger.path, token, b" "),
        (tenant.path, "Bearer annex_sk_wrong", b""),
    ):
        head = (
            f"POST {path}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {credential}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {MIB}\r\n\r\n"
        )
        # Two on one connection: the second one is read while the first is answered.
        for count in (1, 2):
            reader, writer = await connect(small)
            with contextlib.suppress(ConnectionError):
                writer.write((head.encode() + b" " * (MIB - 1) + end) * count)
                await writer.drain()
            await asyncio.sleep(0.1)
            writer.transport.abort()
            del reader
    await until(lambda: bodies.total == 0 and not bodies.held and not bodies.sizes)
    await callers.close()
