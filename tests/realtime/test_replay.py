"""The past from the database: whole, or said to have a hole."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engines import connect_lazily
from app.principals import Principal
from app.realtime.cursors import Cursors
from app.realtime.hub import Hub
from app.realtime.replay import frames, read_frames
from app.realtime.streams import Expired
from app.settings import database_url
from tests.conftest import TestDatabase
from tests.database.conftest import new_user, new_workspace

# One event a day, the oldest first, so that each limit cuts somewhere else.
AGES = 2000
FILL = """
with aged as (
  select n, annex.uuid7_floor(now() - ($2 - n + 0.5) * interval '1 day') as floor
  from generate_series(1, $2) n
), made as (
  insert into annex.events (event_id, workspace_id, type, source, actor)
  select (left(floor::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, $1,
    'test.made', 'test', 'system'
  from aged returning event_id
)
insert into annex.log (pos, event_id, workspace_id)
select row_number() over (order by event_id), event_id, $1 from made
"""


class Past(NamedTuple):
    """A workspace with a long log, and who reads it."""

    database: TestDatabase
    engine: AsyncEngine
    principal: Principal
    workspace: UUID
    hub: Hub

    async def read(self, after: int, until: int = AGES) -> list[int]:
        """Read a page; returns its positions."""
        page = await read_frames(
            self.engine, self.hub, self.principal, self.workspace, after, until
        )
        return [frame.pos for frame in page]

    async def expire(self, days: int, rows: int = 1000) -> None:
        """Delete one batch of what is older."""
        async with self.database.connect("annex_worker") as worker:
            await worker.execute("select annex.expire_events(null, $1, $2)", days, rows)


@pytest.fixture
async def past(own_database: TestDatabase) -> AsyncIterator[Past]:
    async with own_database.connect("postgres") as admin:
        owner = await new_user(admin)
        workspace = await new_workspace(admin, owner)
        await admin.execute(FILL, workspace, AGES)
        await admin.execute("update annex.log_state set head = $1", AGES)
        await admin.execute("analyze")
    engine = connect_lazily(database_url("DATABASE_URL", own_database.url("annex_api")), 2)
    who = Principal(kind="user", id=str(owner))
    yield Past(own_database, engine, who, workspace, Hub(Cursors(bytes(32))))
    await engine.dispose()


async def test_a_page_follows_the_position(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await past.read(10, 13) == [11, 12, 13]
    cut = await past.read(0)
    assert cut == list(range(1, len(cut) + 1))
    monkeypatch.setattr("app.realtime.replay.MAX_CHUNK", 2**30)
    assert len(cut) < 500
    assert await past.read(0) == list(range(1, 501))


async def test_a_page_after_the_end_is_empty(past: Past) -> None:
    assert await past.read(AGES) == []


async def test_who_has_not_read_what_expired_is_told(past: Past) -> None:
    await past.expire(AGES - 100)
    for after in (0, 99):
        with pytest.raises(Expired):
            await past.read(after)
    assert await past.read(100, 103) == [101, 102, 103]


async def test_an_empty_page_is_told_to_have_expired_too(past: Past) -> None:
    await past.expire(AGES - 100)
    with pytest.raises(Expired):
        await past.read(10, 50)


async def test_no_page_ever_has_a_hole_while_events_expire(past: Past) -> None:
    async def follow() -> int:
        after, told = 0, 0
        while after < AGES:
            try:
                page = await past.read(after, min(after + 7, AGES))
            except Expired:
                told += 1
                after += 1
                continue
            assert page == list(range(after + 1, min(after + 7, AGES) + 1))
            after = page[-1]
        return told

    reading = asyncio.create_task(follow())
    for days in range(AGES, 0, -100):
        await past.expire(days, 40)
        await asyncio.sleep(0)
    assert await reading >= 0
    assert await past.read(AGES - 1) == [AGES]


async def test_a_page_is_read_through_the_index(past: Past) -> None:
    async with past.database.connect("postgres") as admin:
        await admin.execute(
            "insert into annex.log (pos, event_id, workspace_id)"
            " select $1 + n, annex.uuid7(), md5((n % 50)::text)::uuid"
            " from generate_series(1, 50000) n",
            AGES,
        )
        await admin.execute("analyze annex.log")
    async with past.database.connect(
        "annex_api", json.loads(past.principal.claims_json)
    ) as connection:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        await connection.execute(f"prepare page as {frames.sql}")
        values = {"workspace_id": past.workspace, "after": 700, "until": 720, "rows": 500}
        given = ", ".join(f"'{values[name]}'" for name in frames.names)
        found = await connection.fetchval(
            f"explain (analyze, timing off, format json) execute page({given})"
        )

    def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [node, *(n for child in node.get("Plans", ()) for n in nodes(child))]

    (scan,) = [
        node for node in nodes(json.loads(found)[0]["Plan"]) if node.get("Relation Name") == "log"
    ]
    assert (scan["Index Name"], scan["Actual Rows"]) == ("log_workspace_id_idx", 20)
