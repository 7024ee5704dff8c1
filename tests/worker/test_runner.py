"""The worker's readers: they keep the log moving, and record each entry once."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from app.database.drivers import Driver
from app.database.pools import Database
from app.supervision import Supervised
from app.worker.runner import Entry, Following, Job, Runner
from tests.conftest import ROOT, TestDatabase, running, settings_for
from tests.faults.processes import environment
from tests.realtime.reader import calling, until
from tests.realtime.writers import Load
from tests.worker.recorder import Recorder, events_of, look, prepare, publish, recorded

SEED = 20261127


@contextlib.asynccontextmanager
async def working(
    database: TestDatabase, *readers: Any, jobs: Sequence[Job] = (), **settings: Any
) -> AsyncIterator[Runner]:
    """Run a worker beside the test, and no API process."""
    async with Database(settings_for(database, **settings)) as pools:
        runner = Runner(pools, readers, jobs)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_reader_alone_keeps_the_log_moving_and_skips_nothing(
    own_database: TestDatabase,
) -> None:
    workspace = await prepare(own_database)
    load = Load(own_database, str(workspace), SEED, pause_seconds=0.005)
    async with working(own_database, Recorder()):
        # Writers that commit out of order, and some that roll back.
        async with load.writing():
            await load.more(300)
        state = await recorded(own_database)
    assert load.rolled_back
    state.check(await events_of(own_database))


async def test_a_worker_without_readers_gives_positions_too(own_database: TestDatabase) -> None:
    workspace = await prepare(own_database)
    async with working(own_database):
        await publish(own_database, workspace, 2500)
        async with asyncio.timeout(30):
            while (await look(own_database)).pending:
                await asyncio.sleep(0.02)
    positions = [pos for pos, _ in (await look(own_database)).log]
    assert positions == [*range(1, await events_of(own_database) + 1)]


async def test_a_reader_that_is_killed_between_its_rows_and_its_cursor_repeats_nothing(
    own_database: TestDatabase,
) -> None:
    workspace = await prepare(own_database)
    await publish(own_database, workspace, 40)
    async with working(own_database, Recorder()):
        await recorded(own_database)
    before = await look(own_database)
    await publish(own_database, workspace, 30)
    settings = settings_for(own_database, log_level="warning")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
    for _ in range(2):
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.worker.recorder",
            cwd=ROOT,
            env=kept | environment(settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        try:
            assert await child.stdout.readline() == b"wrote 30\n"
        finally:
            child.kill()
            await child.wait()
        state = await look(own_database)
        assert (state.seen, state.pos) == (before.seen, before.pos)
    async with working(own_database, Recorder()):
        state = await recorded(own_database)
    state.check(await events_of(own_database))


async def test_of_two_workers_one_leads_at_a_time_and_the_other_takes_over(
    own_database: TestDatabase,
) -> None:
    workspace = await prepare(own_database)
    one, two = Recorder(), Recorder()
    async with working(own_database, two):
        async with working(own_database, one):
            for _ in range(20):
                await publish(own_database, workspace, 7)
                assert not (one.is_handling and two.is_handling)
            await recorded(own_database)
        batches = two.batches
        await publish(own_database, workspace, 5)
        state = await recorded(own_database)
        assert two.batches > batches
    state.check(await events_of(own_database))


async def test_while_one_leads_the_other_waits(own_database: TestDatabase) -> None:
    workspace = await prepare(own_database)
    await publish(own_database, workspace, 3)
    entered, may_go_on = asyncio.Event(), asyncio.Event()

    class Slow(Recorder):
        async def handle(self, connection: Driver, batch: Sequence[Entry]) -> None:
            entered.set()
            await may_go_on.wait()
            await super().handle(connection, batch)

    other = Recorder()
    async with working(own_database, Slow()), Database(settings_for(own_database)) as pools:
        await entered.wait()
        async with pools.worker.lend() as driver:
            assert await Following(pools, other).step(driver) is None
        assert other.batches == 0
        may_go_on.set()
        state = await recorded(own_database)
    state.check(await events_of(own_database))


class Failing(Recorder):
    """Writes, and then raises until it is mended."""

    def __init__(self) -> None:
        super().__init__()
        self.is_mended = False

    async def handle(self, connection: Driver, batch: Sequence[Entry]) -> None:
        """Write the entries down, and fail."""
        await super().handle(connection, batch)
        if not self.is_mended:
            raise ArithmeticError("this reader is broken")


async def test_a_reader_that_raises_is_begun_again_with_back_off_and_loses_nothing(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = await prepare(own_database)
    await publish(own_database, workspace, 10)
    pauses = list[float]()
    tell = Supervised.tell

    def note(self: Supervised, error: Exception | None, pause: float) -> None:
        if self.name.startswith("reader "):
            pauses.append(pause)
        tell(self, error, pause)

    monkeypatch.setattr(Supervised, "tell", note)
    monkeypatch.setattr("app.supervision.BACKOFF", (0.01, 0.02, 0.04))
    reader = Failing()
    async with working(own_database, reader) as runner:
        task = runner.tasks[0]
        await until(lambda: task.restarts >= 4, 20)
        state = await look(own_database)
        assert (state.seen, state.pos) == ([], 0)
        assert pauses[:4] == [0.01, 0.02, 0.04, 0.04]
        reader.is_mended = True
        state = await recorded(own_database)
    state.check(await events_of(own_database))


async def test_a_task_of_a_server_that_is_down_is_counted_and_turns_readiness_off(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = await prepare(own_database)
    await publish(own_database, workspace, 1)
    monkeypatch.setattr("app.supervision.DOWN_SECONDS", 0.2)
    monkeypatch.setattr("app.supervision.SETTLED_SECONDS", 0.2)
    reader = Failing()
    async with running(own_database) as server, calling(server) as callers:
        client = callers.client()
        assert (await client.get("/health/ready")).status_code == 200
        runtime = server.app.runtime
        task = Supervised("reader recorder", Following(runtime.database, reader).run)
        runtime.tasks.append(task)
        keeping = asyncio.create_task(task.keep())
        try:
            await until(lambda: task.is_down, 20)
            answer = await client.get("/health/ready")
            assert answer.status_code == 503
            assert "reader recorder" in answer.json()["detail"]
            metrics = (await callers.operator().client.get("/metrics")).text
            [counted] = [
                float(line.rpartition(" ")[2])
                for line in metrics.splitlines()
                if line.startswith('annex_task_restarts_total{task="reader recorder"}')
            ]
            assert counted >= 1
            reader.is_mended = True
            await until(lambda: not task.is_down, 20)
            assert (await client.get("/health/ready")).status_code == 200
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def found_nothing(following: Following) -> None:
    """Wait for a read that finds nothing, which comes after the last rest."""
    following.pause.quiet = 0
    await until(lambda: following.pause.quiet > 0)


async def test_a_reader_rests_after_a_read_that_was_no_full_hand(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = await prepare(own_database)
    rests, sleep = list[float](), asyncio.sleep

    async def spy(seconds: float) -> None:
        rests.append(seconds)
        await sleep(0 if seconds > 1 else seconds)

    monkeypatch.setattr("app.worker.runner.BATCH", 5)
    monkeypatch.setattr("app.worker.runner.REST_SECONDS", 60.0)
    monkeypatch.setattr("app.worker.runner.MAX_REST_SECONDS", 60.0)
    async with Database(settings_for(own_database)) as pools:
        for count, expected in ((12, 1), (10, 0)):
            with monkeypatch.context() as patched:
                patched.setattr("app.worker.runner.asyncio.sleep", spy)
                following = Following(pools, Recorder())
                task = asyncio.create_task(following.run())
                await recorded(own_database)
                rests.clear()
                await publish(own_database, workspace, count)
                await recorded(own_database)
                await found_nothing(following)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert len([r for r in rests if r > 1]) == expected


async def test_a_job_runs_at_the_start_and_again_and_outlives_an_error(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.supervision.BACKOFF", (0.01,))
    ran = list[int]()

    async def run(database: Database) -> None:
        async with database.worker.lend() as driver:
            ran.append(await driver.fetchval("select 1"))
        if len(ran) == 2:
            raise ArithmeticError

    async with working(own_database, jobs=[Job("often", 0.01, run)]) as runner:
        await until(lambda: len(ran) >= 4, 20)
        assert [t.restarts for t in runner.tasks if t.name == "job often"] == [1]
