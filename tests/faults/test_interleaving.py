"""An event that is published in every moment in which a stream's way from replay to live waits."""

import asyncio
import contextlib
import sys
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import pytest

from app.http.application import Application
from tests.conftest import Tenant, TestDatabase, running
from tests.faults.health import healthy
from tests.realtime.reader import calling, cursor_at_head, follow, new_tenant, number

T = TypeVar("T")

RING = 4
PAGE = 3
PAST = 11
"""Events before the stream begins: some pages, and then what the ring holds."""


class Stepping:
    """Counts how often the requests for one path wait, in all their tasks.

    Before one goes on after the `at`-th time, `act` is done.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = ""
        self.at = self.waited = 0
        self.act: Callable[[], Awaitable[None]] = no_act
        self.acted = False
        self.is_stepped = ContextVar("is_stepped", default=False)
        answer = Application.__call__

        async def step(app: Application, scope: Any, receive: Any, send: Any) -> None:
            inner = answer(app, scope, receive, send)
            if scope.get("path") == self.path and b"types=none" not in scope["query_string"]:
                self.is_stepped.set(True)
                inner = self.wrap(inner)
            await inner

        monkeypatch.setattr(Application, "__call__", step)

    def begin(self, at: int, path: str, act: Callable[[], Awaitable[None]]) -> None:
        """Step through the next request for a path."""
        self.at, self.waited, self.path, self.act, self.acted = at, 0, path, act, False

    async def wrap(self, inner: Coroutine[Any, Any, T]) -> T:
        return await Stepped(self, inner)

    def make_task(
        self, loop: asyncio.AbstractEventLoop, inner: Coroutine[Any, Any, T], **options: Any
    ) -> "asyncio.Task[T]":
        """Make a task of a stepped request a stepped one."""
        context: Context | None = options.get("context")
        is_stepped = context.get(self.is_stepped) if context else self.is_stepped.get()
        return asyncio.Task(self.wrap(inner) if is_stepped else inner, loop=loop, **options)


class Stepped(Awaitable[T]):
    """Runs a coroutine, one wait at a time."""

    def __init__(self, stepping: Stepping, inner: Coroutine[Any, Any, T]) -> None:
        self.stepping = stepping
        self.inner = inner

    def __await__(self) -> Generator[Any, Any, T]:
        value, error = None, None
        while True:
            try:
                waited_for = self.inner.throw(error) if error else self.inner.send(value)
            except StopIteration as done:
                result: T = done.value
                return result
            value, error = None, None
            try:
                value = yield waited_for
                self.stepping.waited += 1
                if self.stepping.waited == self.stepping.at:
                    self.stepping.acted = True
                    yield from self.stepping.act().__await__()
            except BaseException as raised:
                error = raised


async def no_act() -> None:
    """Do nothing."""


@pytest.mark.parametrize("count", [1, RING + 2])
@pytest.mark.parametrize("has_ring", [True, False], ids=["ring", "no ring"])
async def test_an_event_at_any_point_from_replay_to_live_comes_once_and_in_order(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch, count: int, has_ring: bool
) -> None:
    monkeypatch.setattr("app.realtime.channels.RING", RING)
    for name in ("FIRST_ROWS", "MORE_ROWS"):
        monkeypatch.setattr(f"app.realtime.replay.{name}", PAGE)
    past, now = [f"past {n}" for n in range(PAST)], [f"now {n}" for n in range(count)]
    async with running(own_database) as server, healthy(server), calling(server) as callers:
        stepping, tail, loop = (
            Stepping(monkeypatch),
            server.app.runtime.tail,
            get_running_loop(),
        )
        loop.set_task_factory(stepping.make_task)  # type: ignore[arg-type]
        while stepping.acted or stepping.at == 0:
            async with contextlib.AsyncExitStack() as stack:
                tenant = await new_tenant(callers)
                client, path = tenant.owner.client, f"{tenant.path}/stream"

                async def publish(tenant: Tenant = tenant) -> None:
                    await number(tenant, *now)
                    await tail.catch_up()

                start = cursor_at_head(server, tenant)
                if has_ring:
                    # Somebody's being there keeps the newest of the past in memory.
                    watcher = await stack.enter_async_context(follow(client, path, types="none"))
                    await watcher.message()
                await number(tenant, *past)
                await tail.catch_up()
                stepping.begin(stepping.at + 1, path, publish)
                reader = await stack.enter_async_context(
                    follow(client, path, start, types="test.*")
                )
                got = await reader.names(PAST)
                # By now the stream waits for more, or waits on the way: this lets it go on.
                await number(tenant, "last")
                while "last" not in got or (stepping.acted and len(got) < PAST + 1 + count):
                    got += await reader.names(1)
                # Nothing more comes, and the end is not stepped through.
                stepping.waited = stepping.at
                await number(tenant, "end")
                assert await reader.names(1) == ["end"]
            assert got[:PAST] == past, (stepping.at, got)
            # At the last points the stream was let go on by the one that is now the first.
            expected = ([*now, "last"], ["last", *now]) if stepping.acted else (["last"],)
            assert got[PAST:] in expected, (stepping.at, got)
        loop.set_task_factory(None)
    assert stepping.at > 6, "the stream was not stepped through"
    sys.stdout.write(f"{stepping.at} points\n")
