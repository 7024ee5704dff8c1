"""What a returning reader's question costs where there are many tenants."""

from typing import NamedTuple
from uuid import UUID, uuid4

import pytest

from tests.conftest import TestDatabase
from tests.database.conftest import Connection, fan_out, join, new_user, new_workspace, user
from tests.database.test_fanout import publish
from tests.database.test_read_costs import pages

pytestmark = pytest.mark.timeout(120)

OTHERS = 200_000
MARK = UUID(int=0)
ASK = "select annex.sight_changed($1)"
# Of the log and of what waits: changes of everybody's rights in other workspaces, and of others'.
FILL = """
insert into annex.log (pos, event_id, workspace_id, rights_of)
  select n, gen_random_uuid(), md5((n % 3000)::text)::uuid,
    case when n % 2 = 0 then '*' else 'user:' || md5((n % 5000)::text)::uuid end
  from generate_series(1, $1) n;
insert into annex.pending (event_id, workspace_id, rights_of)
  select gen_random_uuid(), md5((n % 3000)::text)::uuid,
    case when n % 2 = 0 then '*' else 'user:' || md5((n % 5000)::text)::uuid end
  from generate_series(1, $1 / 4) n;
update annex.log_state set head = $1;
analyze;
"""


class Reader(NamedTuple):
    """A user with items in two workspaces."""

    database: TestDatabase
    who: UUID
    workspaces: list[UUID]


@pytest.fixture(scope="module")
async def reader(database: TestDatabase) -> Reader:
    async with database.connect("postgres") as admin:
        who = await new_user(admin)
        workspaces = [await new_workspace(admin, await new_user(admin)) for _ in range(2)]
        for workspace in workspaces:
            await join(admin, workspace, who, "viewer")
            await fan_out(admin, await publish(admin, workspace, recipients=[who]))
        await admin.execute("delete from annex.pending")
        for statement in FILL.replace("$1", str(OTHERS)).strip().split(";\n"):
            await admin.execute(statement)
    return Reader(database, who, workspaces)


async def test_the_question_reads_nothing_of_other_tenants(reader: Reader) -> None:
    async with reader.database.connect("annex_api", user(reader.who)) as session:
        for after in (0, OTHERS // 2, OTHERS):
            assert await session.fetchval(ASK, after) is False
            assert await pages(session, ASK, (after,)) < 80


@pytest.mark.parametrize("table", ["log", "pending"])
@pytest.mark.parametrize("whose", ["mine", "everybody's", "another's", "elsewhere"])
async def test_what_concerns_the_caller_is_found(reader: Reader, table: str, whose: str) -> None:
    rights_of = {"mine": f"user:{reader.who}", "another's": f"user:{uuid4()}"}.get(whose, "*")
    workspace = uuid4() if whose == "elsewhere" else reader.workspaces[1]
    async with (
        reader.database.connect("postgres") as admin,
        reader.database.connect("annex_api", user(reader.who)) as session,
    ):
        await mark(admin, table, workspace, rights_of)
        asked = {after: await session.fetchval(ASK, after) for after in (0, OTHERS, OTHERS + 1)}
        await admin.execute(f"delete from annex.{table} where event_id = $1", MARK)
    is_found = whose in ("mine", "everybody's")
    assert asked == {0: is_found, OTHERS: is_found, OTHERS + 1: is_found and table == "pending"}


async def mark(admin: Connection, table: str, workspace: UUID, rights_of: str) -> None:
    """Add an entry, the log's last."""
    position = {"log": "pos, ", "pending": ""}[table]
    value = {"log": f"{OTHERS + 1}, ", "pending": ""}[table]
    await admin.execute(
        f"insert into annex.{table} ({position}event_id, workspace_id, rights_of)"
        f" values ({value}$1, $2, $3)",
        MARK,
        workspace,
        rights_of,
    )
