"""How lists of events are read when there are a million: by which index, and how much of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from uuid import UUID

import pytest

import db_models as m
from app.database.reads import page_of
from app.database.statements import compiled
from app.dev.postgres import EmbeddedPostgres
from app.schemas import events as s
from controllers.events import NEWEST_FIRST
from tests.conftest import TestDatabase, encode, new_database
from tests.database.conftest import Claims, Connection, key, postgrest, user
from tests.versions import PLAN_EVENTS, PLAN_EVENTS_ELSEWHERE

# Building the million may take longer than a test may.
pytestmark = pytest.mark.timeout(240)

WORKSPACES = 200
DAYS_IN_MS = 45 * 24 * 3600 * 1000
TENANTS = """
insert into auth.users (id) select gen_random_uuid() from generate_series(1, {count});
insert into annex.profiles (user_id) select id from auth.users;
insert into annex.workspaces (slug, name, created_by)
  select 'w-' || row_number() over (), 'Test', user_id from annex.profiles;
insert into annex.members (workspace_id, user_id, role)
  select id, created_by, 'member' from annex.workspaces;
"""
# Half the time to write a million rows is their WAL.
UNLOGGED = """
do $$
declare partition regclass;
begin
  for partition in select inhrelid from pg_inherits where inhparent = 'annex.events'::regclass loop
    execute format('alter table %s set unlogged', partition);
  end loop;
end $$
"""
# From 45 days ago to now. All but the last workspace are equally busy; that had a few at the start.
FILL = """
insert into annex.events (event_id, workspace_id, type, source, actor)
select (lpad(to_hex(now_ms - ({events} - n) * {pace}), 12, '0') || '70008000'
    || lpad(to_hex(n), 12, '0'))::uuid,
  workspaces[case when n < 50 then {workspaces} else 1 + n % {others} end],
  'test.made', 'test', 'system'
from (select array_agg(id order by id) as workspaces from annex.workspaces) w,
  (select (extract(epoch from now()) * 1000)::bigint as now_ms) t,
  generate_series($1::bigint, $2::bigint) n
"""
COLUMNS = "annex.events.event_id, annex.events.type, annex.events.data"
# The shape of what PostgREST sends for GET /events with select, workspace_id, order and limit=20.
POSTGREST = """
with pgrst_source as (
  select {columns} from annex.events {where} order by annex.events.event_id desc
  limit 20 offset 0
)
select null::bigint as total_result_set, pg_catalog.count(t) as page_total,
  coalesce(json_agg(t), '[]')::text as body
from (select * from pgrst_source) t
"""
OF_ONE_WORKSPACE = POSTGREST.format(columns=COLUMNS, where="where annex.events.workspace_id = $1")
OF_ALL = POSTGREST.format(columns=COLUMNS, where="")


def tenants_of(count: int) -> str:
    """Write the statements that make so many workspaces, each with an owner."""
    return TENANTS.format(count=count)


class Million(NamedTuple):
    """A million events, and a busy and a quiet tenant: workspace and owner of each."""

    database: TestDatabase
    busy: tuple[UUID, UUID]
    quiet: tuple[UUID, UUID]
    indexes: frozenset[str]
    """The partitions' parts of the index on (workspace_id, event_id)."""
    filled: frozenset[str]
    """The partitions that have rows."""


@pytest.fixture(scope="module")
async def million(request: pytest.FixtureRequest, database: TestDatabase) -> Million:
    is_one_of_many = request.config.option.markexpr == "postgres"
    events = PLAN_EVENTS_ELSEWHERE if is_one_of_many else PLAN_EVENTS
    fill = FILL.format(
        events=events, pace=DAYS_IN_MS // events, workspaces=WORKSPACES, others=WORKSPACES - 1
    )
    async with database.connect("postgres") as first, database.connect("postgres") as second:
        await first.execute(tenants_of(WORKSPACES))
        await first.execute(UNLOGGED)
        half = events // 2
        await asyncio.gather(first.execute(fill, 1, half), second.execute(fill, half + 1, events))
        await first.execute("analyze")
        owners = await first.fetch("select id, created_by from annex.workspaces order by id")
        indexes = await first.fetch(
            "select inhrelid::regclass::text from pg_inherits"
            " where inhparent = 'annex.events_workspace_id_idx'::regclass"
        )
        filled = await first.fetch(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where i.inhparent = 'annex.events'::regclass and c.reltuples > 0"
        )
    return Million(
        database,
        (owners[0][0], owners[0][1]),
        (owners[-1][0], owners[-1][1]),
        frozenset(row[0].removeprefix("annex.") for row in indexes),
        frozenset(row[0] for row in filled),
    )


class Plan(NamedTuple):
    """What the server did for a statement."""

    scans: list[dict[str, Any]]
    pages: int
    rows: int


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk a plan."""
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


async def explain(connection: Connection, sql: str, values: list[Any]) -> Plan:
    """Run a prepared statement as the role's settings plan it, and say how it was done."""
    await connection.execute(f"prepare list as {sql}")
    given = ", ".join(f"'{value}'" for value in values)
    found = await connection.fetchval(
        "explain (analyze, buffers, timing off, format json) execute list"
        + (f"({given})" if given else "")
    )
    top = json.loads(found)[0]["Plan"]
    limit = next(node for node in nodes(top) if node["Node Type"] == "Limit")
    scans = [node for node in nodes(top) if node.get("Relation Name", "").startswith("events")]
    pages = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return Plan(scans, pages, int(limit["Actual Rows"]))


def assert_served_by_the_index(plan: Plan, million: Million) -> None:
    """Hold every scan of a partition that has rows against the index, and the pages to a few."""
    assert len(million.filled) >= 2
    used = {s["Relation Name"]: s.get("Index Name") for s in plan.scans}
    assert set(used) >= million.filled
    assert {used[name] for name in million.filled} <= million.indexes
    # What 20 rows and the look-up of the caller's workspaces take; a million events have 25,000.
    assert plan.pages < 1500


tenants = pytest.mark.parametrize("tenant", ["busy", "quiet"])


async def explain_page(database: TestDatabase, claims: Claims, workspace: UUID, page: str) -> Plan:
    """Run the API's own statement for a page of 20 as a caller, and say how it was done."""
    build = page_of(m.Event.of, s.Event, tuple(NEWEST_FIRST), None, is_first=page == "first")
    statement = compiled(build, has_workspace=True)
    values = {
        "claims": encode(claims),
        "ws": str(workspace),
        "permission": "events:read",
        "limit_": 21,
        "after_workspace_id": workspace,
        "after_id": UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"),
    }
    async with database.connect("annex_api") as connection, connection.transaction():
        return await explain(connection, statement.sql, statement.arguments(values))


pages = pytest.mark.parametrize("page", ["first", "following"])


@tenants
@pytest.mark.parametrize("who", ["user", "key"])
@pages
async def test_the_apis_list_is_served_by_the_index(
    page: str, who: str, tenant: str, million: Million
) -> None:
    workspace, owner = getattr(million, tenant)
    async with million.database.connect("postgres") as admin:
        claims = user(owner) if who == "user" else await key(admin, workspace, "events:read")
    plan = await explain_page(million.database, claims, workspace, page)
    assert plan.rows == 21
    assert_served_by_the_index(plan, million)


FEW_EVENTS = 100_000
# All in the first workspace, but the oldest 50: they are in the last one.
LOUD = f"""
insert into annex.events (event_id, workspace_id, type, source, actor)
select (lpad(to_hex(now_ms - ({FEW_EVENTS} - n) * 38880), 12, '0') || '70008000'
    || lpad(to_hex(n), 12, '0'))::uuid,
  workspaces[case when n <= 50 then cardinality(workspaces) else 1 end],
  'test.made', 'test', 'system'
from (select array_agg(id order by id) as workspaces from annex.workspaces) w,
  (select (extract(epoch from now()) * 1000)::bigint as now_ms) t,
  generate_series(1, {FEW_EVENTS}::bigint) n
"""


class Few(NamedTuple):
    """So many workspaces, of which one has nearly all events, and a quiet one with its owner."""

    database: TestDatabase
    quiet: UUID
    owner: UUID


@pytest.fixture(scope="module", params=[1, 2, 3, 200])
async def few(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, template: str
) -> AsyncIterator[Few]:
    async with (
        new_database(postgres, template) as database,
        database.connect("postgres") as admin,
    ):
        await admin.execute(tenants_of(request.param))
        await admin.execute(UNLOGGED)
        await admin.execute(LOUD)
        await admin.execute("analyze")
        last = "select id, created_by from annex.workspaces order by id desc limit 1"
        (row,) = await admin.fetch(last)
        yield Few(database, row[0], row[1])


@pages
async def test_a_quiet_workspaces_list_reads_no_more_than_its_page(page: str, few: Few) -> None:
    plan = await explain_page(few.database, user(few.owner), few.quiet, page)
    assert plan.rows == 21
    read = sum(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan in plan.scans)
    # A merge of the partitions looks at the first row of each.
    assert read <= 21 + len(plan.scans)
    assert {scan["Node Type"] for scan in plan.scans} == {"Index Scan"}
    assert all("workspace_id" in scan["Index Name"] for scan in plan.scans)


@tenants
async def test_postgrests_list_of_a_workspace_is_served_by_the_index(
    tenant: str, million: Million
) -> None:
    workspace, owner = getattr(million, tenant)
    async with postgrest(million.database, user(owner)) as connection:
        sql = OF_ONE_WORKSPACE.replace("$1", "$1::uuid")
        plan = await explain(connection, sql, [workspace])
    assert plan.rows == 20
    assert_served_by_the_index(plan, million)


async def test_a_list_over_all_of_ones_workspaces_reads_the_newest_first_until_it_is_full(
    million: Million,
) -> None:
    # No index gives the newest of several workspaces in order, and the planner cannot know how few
    # rows are theirs: it goes back through everybody's. Who asks for one workspace is better off.
    _, owner = million.busy
    async with postgrest(million.database, user(owner)) as connection:
        plan = await explain(connection, OF_ALL, [])
    assert {s["Node Type"] for s in plan.scans} == {"Index Scan"}
    assert {s["Scan Direction"] for s in plan.scans} == {"Backward"}
    assert plan.rows == 20
    # Of each row, about as many others as there are workspaces.
    assert sum(s.get("Rows Removed by Filter", 0) for s in plan.scans) < 50 * WORKSPACES
