"""A write: one statement where it is one call of a function, else one transaction."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import anyio
import msgspec
from litestar.di import NamedDependency

from app.database.drivers import Driver
from app.database.pools import Pool, is_unsettled
from app.database.reads import Of
from app.database.statements import Compiled, Scope, access_on, run, run_on

# Both in one message, so that no time is spent between them.
BEGIN = "begin; select set_config('request.jwt.claims', E'{}', true)"


class Work(msgspec.Struct, frozen=True):
    """An open transaction: its connection, whose it is, and the path's workspace."""

    driver: Driver
    scope: Scope
    workspace_id: UUID | None

    async def call(self, build: Of, values: dict[str, Any]) -> Sequence[Any]:
        """Do what `Write.call` does, in this transaction."""
        _, rows = await run_on(self.driver, self.scope, build, values)
        return rows

    async def fetch(self, statement: Compiled, values: dict[str, Any]) -> Sequence[Any]:
        """Run a statement that was compiled before; returns its rows."""
        rows: Sequence[Any] = await self.driver.fetch(statement.sql, *statement.arguments(values))
        return rows


class Write:
    """A handler's way to write: as its caller, in the workspace of its path."""

    def __init__(self, pool: Pool, scope: Scope, committed: Callable[[], None]) -> None:
        self.pool = pool
        self.scope = scope
        self.committed = committed
        """Called after each commit."""
        self.workspace_id: UUID | None = None
        """The workspace that was written to."""

    async def call(self, build: Of, values: dict[str, Any]) -> Sequence[Any]:
        """Call a definer function in one statement: claims, access, call. Returns its rows."""
        self.workspace_id, rows = await run(self.pool, self.scope, build, values)
        self.committed()
        return rows

    async def reach(self) -> UUID:
        """Look up access to the path's workspace alone; returns its id.

        Raises what `Scope.access` raises.
        """
        async with self.pool.lend(self.scope.principal.turn, self.scope.group) as driver:
            return await access_on(driver, self.scope)

    @asynccontextmanager
    async def work(self) -> AsyncIterator[Work]:
        """Open a transaction; commits at the end, rolls back on any exception.

        Open it when the body has been read and decoded: whoever sends slowly must not hold a
        connection. Raises `Unavailable`, and what `Scope.access` raises.
        """
        async with self.pool.lend(self.scope.principal.turn, self.scope.group) as driver:
            async with transaction(driver, self.scope) as work:
                yield work
                self.workspace_id = work.workspace_id
        self.committed()


@asynccontextmanager
async def transaction(driver: Driver, scope: Scope) -> AsyncIterator[Work]:
    """Run a transaction with a principal's claims, which hold for it alone."""
    # A literal, not a parameter: only a simple query takes two statements. With E'' it reads the
    # same whatever standard_conforming_strings says.
    claims = scope.principal.claims_json.replace("\\", "\\\\").replace("'", "''")
    await driver.execute(BEGIN.format(claims))
    try:
        yield Work(driver, scope, None if scope.ws is None else await access_on(driver, scope))
        await driver.execute("commit")
    except Exception:
        # Shielded: a connection must not go back with its transaction open. `Pool.lend` closes it
        # where even this fails.
        with anyio.CancelScope(shield=True):
            if is_unsettled(driver):
                await driver.execute("rollback")
        raise


Writing = NamedDependency[Write]
