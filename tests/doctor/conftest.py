"""A deployment for the doctor to look at, in which all is well."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import msgspec
import pytest

from app.database.pools import WORKER_NAME
from app.dev.demo import new_signing_key
from app.doctor import visit
from app.doctor.visit import Result
from app.settings import Settings
from tests.conftest import MIGRATING_ROLE, TestDatabase, execute, settings_for


class KeySet:
    """A Supabase project's server, which serves its key set or something else."""

    def __init__(self) -> None:
        self.status, self.keys = 200, [public(SIGNING)]
        self.body: bytes | None = None

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = self.body or json.dumps({"keys": self.keys}).encode()
        head = (
            f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


def public(jwk: str) -> dict[str, str]:
    """Return a key as its project publishes it."""
    given: dict[str, str] = json.loads(jwk)
    return {k: v for k, v in given.items() if k != "d"}


SIGNING = new_signing_key()


@dataclass
class Deployment:
    """A database with a worker beside it, and the settings of its server."""

    database: TestDatabase
    keys: KeySet
    url: str
    others: dict[str, Any] = field(default_factory=dict)

    def settings(self, **others: Any) -> Settings:
        healthy = {
            "environment": "production",
            "supabase_url": self.url,
            "signing_key": SIGNING,
            "max_streams": 100,
            "max_streams_per_principal": 20,
            "max_streams_per_workspace": 50,
            "max_streams_per_address": 50,
            "max_connections_per_address": 100,
            "jwt_issuer": None,
            "jwt_secret": None,
            "trusted_proxies": ["10.0.0.7/32"],
        }
        return msgspec.structs.replace(settings_for(self.database), **{**healthy, **others})

    async def visit(self, **others: Any) -> dict[str, Result]:
        """Let the doctor look; returns what is not well."""
        results = await visit.visit(self.settings(**others))
        return {r.check: r for r in results if r.finding is not None}

    async def execute(self, sql: str) -> None:
        await execute(self.database.url("postgres"), sql)


@pytest.fixture
async def deployment(own_database: TestDatabase) -> AsyncIterator[Deployment]:
    keys = KeySet()
    named = {"application_name": WORKER_NAME}
    async with contextlib.AsyncExitStack() as stack:
        server = await asyncio.start_server(keys.answer, "127.0.0.1", 0)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        worker = await asyncpg.connect(own_database.url("annex_worker"), server_settings=named)
        stack.push_async_callback(worker.close)
        await execute(own_database.url("postgres"), "select annex.roll_partitions()")
        # A database's own rights are not copied from its template.
        given = f"grant create on database {own_database.name} to {MIGRATING_ROLE}"
        await execute(own_database.url("postgres"), given)
        yield Deployment(own_database, keys, f"http://127.0.0.1:{port}")
