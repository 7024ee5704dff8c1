"""How lists of notifications are read when there are many: by an index, in its order."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from app.database.statements import compiled
from app.services.notifications import Wanted, listing
from tests.conftest import TestDatabase, encode
from tests.database.conftest import Connection, user
from tests.database.test_plans import nodes

pytestmark = pytest.mark.timeout(240)

USERS, ITEMS = 200, 200_000
FILL = """
insert into auth.users (id) select gen_random_uuid() from generate_series(1, {users});
insert into annex.profiles (user_id) select id from auth.users;
insert into annex.workspaces (slug, name) select 'w-' || n, 'Test' from generate_series(1, 4) n;
insert into annex.members (workspace_id, user_id, role)
  select w.id, p.user_id, 'viewer' from annex.workspaces w, annex.profiles p;
insert into annex.notifications (workspace_id, user_id, event_id, type, actor, category, reason,
  title, arrived_at, seen_at, read_at, archived_at, snoozed_until)
select w.ids[1 + n / {users} % 4], u.ids[1 + (n::bigint * 7919 % {users})::int], gen_random_uuid(),
  'test.made', 'system', 'general', 'recipient', 'Title', now() - n * interval '1 second',
  case when n % 3 > 0 then now() end, case when n % 3 = 2 then now() end,
  case when n % 11 = 0 then now() end, case when n % 11 = 1 then now() end
from generate_series(1, {items}) n,
  (select array_agg(id order by id) as ids from annex.workspaces) w,
  (select array_agg(user_id order by user_id) as ids from annex.profiles) u;
insert into annex.inboxes (user_id, workspace_id, permission)
  select distinct user_id, workspace_id, 'events:read' from annex.notifications;
analyze;
"""
STATES = {
    "active": (Wanted(), "notifications_active_idx"),
    "unread": (Wanted(is_unread=True), "notifications_unread_idx"),
    "archived": (Wanted(is_archived=True), "notifications_archived_idx"),
    "snoozed": (Wanted(is_snoozed=True), "notifications_snoozed_idx"),
    "of a workspace": (Wanted(in_workspace=True), "notifications_workspace_id_idx"),
}
"""Each list, and the index that it is read from."""
PASSED_OVER = {"of a workspace": 100}
"""How many items a page may look at in vain: an index of a workspace holds all states."""


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scans of notifications."""
    return (n for n in nodes(plan) if n.get("Relation Name") == "notifications")


async def check_list(session: Connection, who: UUID, name: str, is_first: bool) -> float:
    """Hold the plan of one list's page to what it may be; returns how many milliseconds it took."""
    wanted, index = STATES[name]
    statement = compiled(
        listing(wanted, None, is_first=is_first), has_workspace=wanted.in_workspace
    )
    values = {
        "claims": encode(user(who)),
        "ws": "w-1",
        "permission": "events:read",
        "limit_": 21,
        "after_arrived_at": "2100-01-01",
        "after_id": "ffffffff-ffff-ffff-ffff-ffffffffffff",
    }
    given = ", ".join(f"'{v}'" for v in statement.arguments(values))
    await session.execute(f"prepare list as {statement.sql}")
    found = await session.fetchval(
        f"explain (analyze, timing off, format json) execute list({given})"
    )
    await session.execute("deallocate list")
    [explained] = json.loads(found)
    plan = explained["Plan"]
    [scan] = scans(plan)
    assert scan["Node Type"] == "Index Scan", (name, scan)
    assert scan["Index Name"] == index, (name, scan)
    # The page, and the first of the next one.
    assert scan["Actual Rows"] == 21, (name, scan)
    assert scan.get("Rows Removed by Filter", 0) <= PASSED_OVER.get(name, 0), (name, scan)
    sorts = [n for n in nodes(plan) if n["Node Type"] in ("Sort", "Incremental Sort")]
    # The only thing sorted are the user's few inboxes.
    assert not [s for s in sorts if any(scans(s))], name
    return float(explained["Execution Time"])


async def test_each_list_is_read_from_its_index_in_order(own_database: TestDatabase) -> None:
    async with own_database.connect("postgres") as admin:
        await admin.execute(FILL.format(users=USERS, items=ITEMS))
        who: UUID = await admin.fetchval("select user_id from annex.profiles limit 1")
    async with own_database.connect("annex_api") as session:
        for name in STATES:
            for is_first in (True, False):
                await check_list(session, who, name, is_first)
