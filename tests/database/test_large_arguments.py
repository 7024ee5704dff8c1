"""What SQL hands to Annex's functions is measured before it costs anything."""

from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from tests.conftest import TestDatabase
from tests.database.conftest import Connection, insert, join, new_user, new_workspace, user

# Arguments that a call needs to come as far as its list or document. All others are left out.
NEEDED = {
    "name": "'x'",
    "member_id": "(select annex.user_id())",
    "key": "'new'",
    "prefix": "'aaaaaaaaaaaa'",
    "secret_hash": "decode(repeat('00', 32), 'hex')",
    "permissions": "'{workspace:read}'::text[]",
    "type": "'test.made'",
    "role": "'viewer'",
    "overlap_seconds": "0",
    "emails": "array['a@example.com']",
    "token_hashes": "array[decode(repeat('00', 32), 'hex')]",
    "max_uses": "1",
    "lifetime_hours": "1",
    "is_mailed": "false",
    "mail_limit": "1",
    "topic": "'t'",
    "new_status": "'read'",
    "questions": """'[{"permission": "workspace:read"}]'::jsonb""",
    "batch": """'[{"type": "test.made", "source": "x"}]'::jsonb""",
    "max_rows": "10",
}
ITEMS = {
    "text[]": "array_fill('viewer'::text, array[100000])",
    "uuid[]": "array(select gen_random_uuid() from generate_series(1, 100000))",
    "integer[]": "array_fill(7, array[100000])",
    "bigint[]": "array_fill(7::bigint, array[100000])",
    "bytea[]": "array_fill('\\x00'::bytea, array[100000])",
}
DOCUMENTS = {
    "members": msgspec.json.encode({f"k{n}": {} for n in range(100_000)}).decode(),
    # Compressed to a hundredth, where it is stored or handed on.
    "items": msgspec.json.encode({"a": ["0"] * 400_000}).decode(),
}
TOO_MUCH = ("5301", "532", "57")
"""How the SQLSTATE of a call begins that ran out of memory or of time."""
FUNCTIONS = """
select p.proname, array_agg(a.name order by a.n) as names,
  array_agg(format_type(a.type, null) order by a.n) as types,
  p.pronargs - p.pronargdefaults as needed
from pg_proc p
cross join unnest(p.proargnames[1 : p.pronargs], p.proargtypes::oid[])
  with ordinality a (name, type, n)
where p.pronamespace = 'annex'::regnamespace and p.prosecdef
  and has_function_privilege('annex_api', p.oid, 'execute')
group by p.oid order by p.oid
"""


async def attempts(admin: Connection, workspace: UUID, kinds: set[str]) -> list[tuple[str, str]]:
    """Return a call of each function for each argument of some types, and the type."""
    made = []
    for name, names, types, needed in await admin.fetch(FUNCTIONS):
        for tried, kind in zip(names, types, strict=True):
            if kind not in kinds:
                continue
            first = zip(names[:needed], types[:needed], strict=True)
            given = {a: value_of(a, t, workspace) for a, t in first} | {tried: "$1"}
            listed = ", ".join(f"{a} => {v}" for a, v in given.items())
            made.append((f"annex.{name}({listed})", kind))
    return made


def value_of(name: str, kind: str, workspace: UUID) -> str:
    """Return what a call has for an argument."""
    if name in ("workspace_id", "ws"):
        return f"'{workspace}'::{kind}"
    return NEEDED.get(name, f"null::{kind}")


async def run(api: Connection, call: str, *values: Any) -> str | None:
    """Call and roll back; returns the SQLSTATE of a refusal."""
    transaction = api.transaction()
    await transaction.start()
    try:
        await api.execute(f"select * from {call}", *values)
    except asyncpg.PostgresError as error:
        return f"{error.sqlstate}"
    finally:
        await transaction.rollback()
    return None


async def test_no_list_is_too_long_for_a_function(
    database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    lists = await attempts(admin, workspace, set(ITEMS))
    assert {kind for _, kind in lists} >= {"text[]", "uuid[]", "integer[]"}
    async with database.connect("annex_api", user(owner)) as api:
        for call, kind in lists:
            state = await run(api, call.replace("$1", ITEMS[kind]))
            assert state is None or not state.startswith(TOO_MUCH), (call, state)


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_no_document_is_too_large_for_a_function(
    document: str, database: TestDatabase, admin: Connection
) -> None:
    owner = await new_user(admin)
    workspace = await new_workspace(admin, owner)
    calls = await attempts(admin, workspace, {"jsonb"})
    states = {}
    async with database.connect("annex_api", user(owner)) as api:
        for call, _ in calls:
            text = call.replace("$1", "convert_from($1::bytea, 'UTF8')::jsonb")
            states[call] = await run(api, text, DOCUMENTS[document].encode())
    # Not by an object's size, but by what it is: a list of questions or events. And an operator's.
    others = ("annex.check_permissions", "annex.publish_events", "annex.put_event_type")
    measured = {c: s for c, s in states.items() if not c.startswith(others)}
    assert len(measured) == 9
    assert set(measured.values()) == {"54000"}, measured
    assert not any(s is None or s.startswith(TOO_MUCH) for s in states.values()), states


async def test_a_small_document_is_measured_by_its_text(admin: Connection) -> None:
    measure = "select annex.json_bytes($1::text::jsonb)"
    assert await admin.fetchval(measure, "{}") == 2
    # As many small values as a text of 128 KiB holds.
    most = msgspec.json.encode([1] * 43_690).decode().replace(",", ", ")
    assert await admin.fetchval(measure, most) == 43_690 * 3
    assert await admin.fetchval("select annex.json_bytes('[1]')") == 3
    with pytest.raises(asyncpg.ProgramLimitExceededError):
        await admin.fetchval(measure, DOCUMENTS["items"])


@pytest.mark.parametrize("function", ["find_preferences", "patch_preferences"])
async def test_null_for_a_flag_is_the_same_as_leaving_it_out(
    function: str, database: TestDatabase, admin: Connection
) -> None:
    viewer = await new_user(admin)
    workspace = await new_workspace(admin, await new_user(admin))
    await join(admin, workspace, viewer, "viewer")
    default: dict[str, Any] = {
        "workspace_id": workspace,
        "categories": '{"theirs": {"email": false}}',
    }
    await insert(admin, "preferences", **default)
    asked = "null" if function == "find_preferences" else """null, '{"mine": {"email": false}}'"""
    async with database.connect("annex_api", user(viewer)) as api:
        text = f"select categories::text from annex.{function}($1::uuid::text, {asked})"
        seen = await api.fetchval(text, workspace)
    assert "theirs" not in seen
    kept = "select categories::text from annex.preferences where workspace_id = $1"
    kept += " and user_id is null"
    assert await admin.fetchval(kept, workspace) == '{"theirs": {"email": false}}'
