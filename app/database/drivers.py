"""Connections to Postgres: asyncpg's, with timed statements and JSON that is not decoded."""

import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import asyncpg
import msgspec


class Driver(asyncpg.Connection):
    """A connection that tells its pool how long each statement took.

    Not by asyncpg's query loggers, which are called later and with all parameters.
    """

    note: Callable[[str, float, BaseException | None], None] | None = None
    peers: Collection[Any] = ()
    """All connections of its pool, itself included; none until the pool has it."""

    def _drop_global_statement_cache(self) -> None:
        """Drop the statements of all connections of the pool, after a change of the schema.

        asyncpg does so for a pool of its own alone. In a transaction it cannot try again, so each
        connection would fail once.
        """
        for peer in self.peers:
            peer._drop_local_statement_cache()

    def _drop_global_type_cache(self) -> None:
        """Drop their types in the same way."""
        for peer in self.peers:
            if not peer.is_closed():
                peer._drop_local_type_cache()

    async def timed(self, query: str, answer: Awaitable[Any]) -> Any:
        """Wait for a statement's answer."""
        if self.note is None:
            return await answer
        began, error = time.monotonic(), None
        try:
            return await answer
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.note(query, time.monotonic() - began, error)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """Do what asyncpg does, timed."""
        return await self.timed(query, super().fetch(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """Do what asyncpg does, timed."""
        return await self.timed(query, super().fetchrow(query, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Do what asyncpg does, timed."""
        return await self.timed(query, super().fetchval(query, *args, **options))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Do what asyncpg does, timed."""
        found: str = await self.timed(query, super().execute(query, *args, **options))
        return found


async def let_json_through(driver: "asyncpg.Connection[Any]") -> None:
    """Pass JSON through as bytes; callers that need its content decode it."""
    await driver.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        # A byte for the format's version stands before the text.
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda value: msgspec.Raw(value[1:]),
    )
