"""The past from the database: whole, or said to have a hole."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from app.database.pools import Pool
from app.database.statements import Scope, compiled
from app.filters import Filter
from app.permissions import Permission
from app.principals import Principal
from app.realtime.channels import MAX_CHUNK
from app.realtime.cursors import Cursors
from app.realtime.hub import Hub
from app.realtime.replay import MORE_ROWS, Source, past_of_workspace
from app.realtime.streams import Expired
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
    source: Source
    principal: Principal
    workspace: UUID

    async def read(self, after: int, until: int = AGES) -> list[int]:
        """Read a page; returns its positions."""
        _, page = await self.source.page(after, until)
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
    pool = Pool("DATABASE_URL", own_database.url("annex_api"), 2)
    who = Principal(kind="user", id=str(owner))
    source = Source(
        pool, Hub(Cursors(bytes(32))), Scope(who, str(workspace), Permission.EVENTS_READ)
    )
    yield Past(own_database, source, who, workspace)
    pool.close()


async def test_a_page_follows_the_position(past: Past) -> None:
    assert await past.read(10, 13) == [11, 12, 13]
    first = await past.read(0)
    assert first == list(range(1, len(first) + 1))


async def test_a_page_reads_as_many_rows_as_the_last_one_says_fill_a_write(past: Past) -> None:
    async with past.database.connect("postgres") as admin:
        await admin.execute(
            """update annex.events set data = jsonb_build_object('x', repeat('x', 30000))
            where event_id in (select event_id from annex.log where pos > 300)"""
        )
    small = [len(await past.read(0)) for _ in range(3)]
    assert small == [8, 100, 100]
    large = [len(await past.read(400)) for _ in range(3)]
    assert large == [2, 2, 2]
    assert past.source.rows == 2
    # Back to many, in steps: each page holds what it may, and none is left out.
    assert await past.read(298, 302) == [299, 300]
    assert past.source.rows == MORE_ROWS


async def test_a_page_is_no_more_than_one_write(past: Past) -> None:
    past.source.rows = MORE_ROWS
    async with past.database.connect("postgres") as admin:
        await admin.execute(
            """update annex.events set data = jsonb_build_object('x', repeat('x', 1000))"""
        )
    _, page = await past.source.page(0, AGES)
    assert sum(len(frame.bytes) for frame in page) <= MAX_CHUNK
    assert 1 < len(page) < MORE_ROWS


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
        statement = compiled(past_of_workspace, has_workspace=True)
        await connection.execute(f"prepare page as {statement.sql}")
        values = {**past.source.scope.values, "after": 700, "until": 720, "rows_": 500}
        given = ", ".join(f"'{value}'" for value in statement.arguments(values))
        found = await connection.fetchval(
            f"explain (analyze, timing off, format json) execute page({given})"
        )

    def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [node, *(n for child in node.get("Plans", ()) for n in nodes(child))]

    (scan,) = [
        node for node in nodes(json.loads(found)[0]["Plan"]) if node.get("Relation Name") == "log"
    ]
    assert "Index Name" in scan, scan
    assert (scan["Index Name"], scan["Actual Rows"]) == ("log_workspace_id_idx", 20)


async def test_what_a_reader_does_not_want_is_passed_over_and_not_encoded(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(_: UUID, __: int, pos: int) -> str:
        written.append(pos)
        return "cursor"

    monkeypatch.setattr(past.source.hub.cursors, "write", write)
    past.source.rows = MORE_ROWS
    for types, encoded in (("none.made", []), ("test.made", [*range(1, MORE_ROWS + 1)])):
        _, page = await past.source.page(0, AGES, Filter(types=(types,)))
        assert [frame.pos for frame in page] == [*range(1, MORE_ROWS + 1)]
        assert written == encoded
