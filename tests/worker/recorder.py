"""A reader of the worker that writes down what it was handed."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from app.database.drivers import Driver
from app.database.pools import Database
from app.settings import read_settings
from app.worker.runner import Entry, Runner
from tests.conftest import TestDatabase
from tests.database.conftest import new_user, new_workspace

TABLE = """
create table public.seen (n bigint generated always as identity, pos bigint, event_id uuid);
grant select, insert on public.seen to annex_worker
"""


class Recorder:
    """Writes each entry into a table without constraints, so that a repetition shows."""

    name = "recorder"

    def __init__(self) -> None:
        self.batches = 0
        self.is_handling = False

    async def handle(self, connection: Driver, batch: Sequence[Entry]) -> None:
        """Write the entries down."""
        self.batches += 1
        self.is_handling = True
        try:
            await connection.executemany(
                "insert into public.seen (pos, event_id) values ($1, $2)",
                [(entry["pos"], entry["event_id"]) for entry in batch],
            )
        finally:
            self.is_handling = False

    def committed(self) -> None:
        """Take no note."""


class Stuck(Recorder):
    """Writes, says so, and never comes to its cursor."""

    async def handle(self, connection: Driver, batch: Sequence[Entry]) -> None:
        """Write the entries down and wait."""
        await super().handle(connection, batch)
        sys.stdout.write(f"wrote {len(batch)}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def prepare(database: TestDatabase) -> UUID:
    """Make the table and a workspace; returns its id."""
    async with database.connect("postgres") as admin:
        await admin.execute(TABLE)
        return await new_workspace(admin, await new_user(admin))


async def publish(database: TestDatabase, workspace: UUID, count: int) -> None:
    """Publish events in one transaction."""
    async with database.connect("postgres") as admin:
        await admin.execute(
            "select annex.publish($1, 'test.made', jsonb_build_object('n', n))"
            " from generate_series(1, $2) n",
            workspace,
            count,
        )


class State:
    """How far the log and the recorder are."""

    def __init__(self, seen: list[Any], log: list[Any], pending: int, pos: int) -> None:
        self.seen = [(row["pos"], row["event_id"]) for row in seen]
        self.log = [(row["pos"], row["event_id"]) for row in log]
        self.pending = pending
        self.pos = pos

    @property
    def is_done(self) -> bool:
        """Whether all that was committed has been recorded."""
        return not self.pending and len(self.seen) >= len(self.log)

    def check(self, events: int) -> None:
        """Hold that each event has one position, dense, and was recorded once, in order."""
        assert [pos for pos, _ in self.log] == [*range(1, events + 1)]
        assert self.seen == self.log
        assert self.pos == events


async def look(database: TestDatabase) -> State:
    """Look how far all is, in one snapshot."""
    async with (
        database.connect("postgres") as admin,
        admin.transaction(isolation="repeatable_read"),
    ):
        return State(
            await admin.fetch("select pos, event_id from public.seen order by n"),
            await admin.fetch("select pos, event_id from annex.log order by pos"),
            await admin.fetchval("select count(*) from annex.pending"),
            await admin.fetchval("select coalesce(max(pos), 0) from annex.readers") or 0,
        )


async def recorded(database: TestDatabase, seconds: float = 30) -> State:
    """Wait until all that was committed has been recorded."""
    async with asyncio.timeout(seconds):
        while not (state := await look(database)).is_done:
            await asyncio.sleep(0.05)
        return state


async def events_of(database: TestDatabase) -> int:
    """Count the events."""
    async with database.connect("postgres") as admin:
        found: int = await admin.fetchval("select count(*) from annex.events")
        return found


async def main() -> None:
    """Run a recorder that gets stuck, by the environment's settings."""
    async with Database(read_settings()) as database:
        await Runner(database, [Stuck()]).run()


if __name__ == "__main__":
    asyncio.run(main())
