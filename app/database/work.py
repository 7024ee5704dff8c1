"""A transaction that carries its principal's claims."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg
from litestar.di import NamedDependency
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.database.engines import Driver, connect
from app.principals import Principal

# To plan a statement under row level security over every partition takes longer than to run it, so
# that each connection plans once, for any parameters. Said here, as a pooler takes no such setting
# when it connects.
BEGIN = (
    "begin; select set_config('request.jwt.claims', E'{}', true),"
    " set_config('plan_cache_mode', 'force_generic_plan', true)"
)


class Compiled:
    """A statement that SQLAlchemy compiles once and the driver runs in a session's transaction.

    For what runs with every request and for the hottest lists: it spares SQLAlchemy's work a
    statement, see docs/benchmarks.md. What varies is a bind parameter; rows are the driver's.
    """

    def __init__(self, statement: Select[Any]) -> None:
        result = statement.compile(dialect=dialect())  # type: ignore[no-untyped-call]
        assert isinstance(result, PGCompiler)
        assert result.positiontup is not None
        self.sql, self.names = str(result), list(result.positiontup)

    async def open(self, session: AsyncSession, **parameters: Any) -> "asyncpg.cursor.Cursor[Any]":
        """Run it, and return a cursor that fetches as many rows as it is asked for."""
        driver: Driver = session.info["driver"]
        return await driver.cursor(self.sql, *[parameters[n] for n in self.names])

    async def fetch(self, session: AsyncSession, **parameters: Any) -> list[asyncpg.Record]:
        """Run it, and return all rows."""
        driver: Driver = session.info["driver"]
        return await driver.fetch(self.sql, *[parameters[n] for n in self.names])


@asynccontextmanager
async def transaction(engine: AsyncEngine, principal: Principal) -> AsyncIterator[AsyncSession]:
    """Open a transaction as a principal; commits at the end, rolls back on any exception.

    The claims hold for this transaction only, as `auth.uid()` and PostgREST have it. Raises
    `Unavailable` when the database does not answer.
    """
    # A literal, not a parameter: only a simple query takes two statements. With E'' it reads the
    # same whatever standard_conforming_strings says.
    claims = principal.claims_json.replace("\\", "\\\\").replace("'", "''")
    begin = BEGIN.format(claims)
    connection, driver, _ = await connect(engine, lambda driver: driver.execute(begin))
    session = AsyncSession(
        connection,
        expire_on_commit=False,
        execution_options={"populate_existing": True},
        info={"connection": connection, "driver": driver},
    )
    try:
        yield session
        await driver.execute("commit")
    except BaseException:
        # Shielded: a cancelled request must not give a connection back with its transaction open.
        with anyio.CancelScope(shield=True):
            if driver.is_closed():
                await connection.invalidate()
            elif driver.is_in_transaction():
                await driver.execute("rollback")
        raise
    finally:
        with anyio.CancelScope(shield=True):
            # What ran on the driver alone has left nothing to close.
            if session.in_transaction():
                await session.close()
            await connection.close()


async def read_alone(
    engine: AsyncEngine, statement: Compiled, **parameters: Any
) -> list[asyncpg.Record]:
    """Run a statement that needs no transaction but its own; raises `Unavailable`."""
    values = [parameters[n] for n in statement.names]
    connection, _, rows = await connect(engine, lambda driver: driver.fetch(statement.sql, *values))
    with anyio.CancelScope(shield=True):
        await connection.close()
    return rows


Session = NamedDependency[AsyncSession]
