"""JSON and times at the ends of what can be held: refused or kept exactly, at a linear cost."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from app.documents import check_numbers
from app.errors import Problem
from app.services import publishing
from tests.conftest import Callers, Tenant, TestDatabase, add_member

BOMB = "[" + ",".join(["1e131000"] * 7000) + "]"
"""63 KB that print as 900 MB."""
OUTSIDE = ("1e309", "-1e309", "1e131000", "1e-400", "0e-16000", "9" * 309, f"0.{'0' * 400}1")
INSIDE = ("1e308", "-1.7976931348623157e308", "5e-324", "0", "0.00", "0e-300", "9" * 308)


def is_taken(number: str) -> bool:
    try:
        check_numbers(Raw(f'{{"a": ["x", {number}]}}'.encode()), "/data")
    except Problem:
        return False
    return True


def test_numbers_in_the_range_of_a_double_are_taken() -> None:
    assert [n for n in INSIDE if not is_taken(n)] == []
    assert [n for n in OUTSIDE if is_taken(n)] == []


@pytest.mark.parametrize("text", [f'"{n}"' for n in OUTSIDE] + ['"\\"1e400"', '"a\\\\", "1e400"'])
def test_a_number_in_a_text_is_no_number(text: str) -> None:
    check_numbers(Raw(f"[{text}, 1e300]".encode()), "/data")


@pytest.fixture(scope="module")
async def owner(database: TestDatabase) -> AsyncIterator["asyncpg.Connection[Any]"]:
    async with database.connect("postgres") as connection:
        yield connection


SIZE = "select annex.json_bytes($1::text::jsonb)"


@pytest.mark.parametrize("number", INSIDE + OUTSIDE)
async def test_sql_takes_the_same_numbers(number: str, owner: "asyncpg.Connection[Any]") -> None:
    document = f'{{"a": ["x", {number}, {{"b": 1}}]}}'
    if number in INSIDE:
        assert await owner.fetchval(SIZE, document) == await owner.fetchval(
            "select octet_length($1::text::jsonb::text)", document
        )
    else:
        with pytest.raises(asyncpg.NumericValueOutOfRangeError) as refused:
            await owner.fetchval(SIZE, document)
        assert refused.value.constraint_name == "number_out_of_range"


NUMBERS = st.builds(
    "{}{}e{}".format,
    st.sampled_from(["", "-"]),
    st.decimals(0, 10**6, places=3).map(lambda d: f"{d:f}"),
    st.integers(-420, 330),
)


async def test_python_and_sql_agree_on_any_number(owner: "asyncpg.Connection[Any]") -> None:
    drawn = list[str]()

    @settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @given(NUMBERS)
    def draw(number: str) -> None:
        drawn.append(number)

    draw()
    differing = []
    for number in drawn:
        try:
            await owner.fetchval(SIZE, number)
            taken = True
        except asyncpg.NumericValueOutOfRangeError:
            taken = False
        if taken != is_taken(number):
            differing.append(number)
    assert differing == []


BOMBS = {
    "data": ("annex_api", "select annex.publish($1, 'x', $2::text::jsonb)"),
    "context": (
        "annex_api",
        "select annex.publish($1, 'x', context => jsonb_build_object('a', $2::text::jsonb))",
    ),
    "batch": (
        "annex_api",
        "select annex.publish_events($1, jsonb_build_array(jsonb_build_object('type', 'x',"
        " 'source', 's', 'data', $2::text::jsonb)))",
    ),
    "workspace": (
        "annex_api",
        "select annex.update_workspace($1,"
        " jsonb_build_object('metadata', jsonb_build_object('a', $2::text::jsonb)))",
    ),
    "member": (
        "postgres",
        "update annex.members set metadata = jsonb_build_object('a', $2::text::jsonb)"
        " where workspace_id = $1",
    ),
}


@pytest.mark.parametrize("where", BOMBS)
@pytest.mark.parametrize("bomb", [BOMB, BOMB.replace("1e131", "0e-16")], ids=["huge", "zero"])
async def test_a_bomb_of_numbers_is_refused_in_sql_without_being_printed(
    where: str, bomb: str, tenant: Tenant, database: TestDatabase
) -> None:
    role, statement = BOMBS[where]
    async with database.connect(role, tenant.owner.claims) as connection:
        await connection.execute("set statement_timeout = '1s'")
        before = peak_bytes(connection.get_server_pid())
        with pytest.raises(asyncpg.NumericValueOutOfRangeError) as refused:
            await connection.execute(statement, UUID(tenant.id), bomb)
        assert refused.value.constraint_name == "number_out_of_range"
        assert peak_bytes(connection.get_server_pid()) - before < 50 * 2**20


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process of this machine has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


JSON = {"Content-Type": "application/json"}
CLOUD = {"Content-Type": "application/cloudevents+json"}
CLOUD_EVENT = '{"specversion": "1.0", "id": "1", "source": "s", "type": "x", %s}'
SENT = {
    "data": ("events", JSON, '{"type": "x", "data": %s}', "/data"),
    "context": ("events", JSON, '{"type": "x", "context": {"a": %s}}', "/context"),
    "batch": ("events/batch", JSON, '[{"type": "x"}, {"type": "x", "data": %s}]', "/1/data"),
    "CloudEvent": ("events/cloudevents", CLOUD, CLOUD_EVENT % '"data": %s', "/data"),
    "extension": ("events/cloudevents", CLOUD, CLOUD_EVENT % '"ext": %s', "/context"),
}


@pytest.mark.parametrize("where", SENT)
@pytest.mark.parametrize("number", ["1e309", "0e-16000", BOMB])
async def test_a_publisher_is_told_which_number_is_out_of_range(
    where: str, number: str, tenant: Tenant
) -> None:
    path, headers, body, pointer = SENT[where]
    answer = await tenant.owner.client.post(
        f"{tenant.path}/{path}", content=body % number, headers=headers
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert [e["pointer"] for e in answer.json()["errors"]] == [pointer]


async def test_many_large_numbers_are_too_large(tenant: Tenant) -> None:
    body = '{"type": "x", "data": [' + ",".join(["1e300"] * 10_000) + "]}"
    answer = await tenant.owner.client.post(f"{tenant.path}/events", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def items(item: str, count: int = 15) -> bytes:
    """Write a batch of events whose data are a list of 60 KB of an item, and of a large number."""
    data = ",".join([item] * (60_000 // (len(item) + 1)))
    return b"[%b]" % b",".join([f'{{"type": "x", "data": [{data}, 1e100]}}'.encode()] * count)


MEMBERS = ",".join(f'"a{n}": 1' for n in range(80_000))
FEW = ",".join(f'"a{n:013}": 1' for n in range(2900))
FULL: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "numbers": (publishing.many_events, items("1")),
    "decimals": (publishing.many_events, items("1.5")),
    "exponents": (publishing.many_events, items("1e9")),
    "exponents of no digits": (publishing.many_events, items("1e000")),
    "large exponents": (publishing.many_events, items("1e100")),
    "large exponents of many events": (
        publishing.many_events,
        b"[%b]" % b",".join([b'{"type":"x","data":[%b1]}' % (b"1e100," * 320)] * 500),
    ),
    "long numbers": (publishing.many_events, items("1" * 301)),
    "texts": (publishing.many_events, items('""')),
    "texts of backslashes": (publishing.many_events, items('"\\\\"')),
    "members of a context": (
        publishing.one_event,
        f'{{"type": "x", "context": {{{MEMBERS}, "b": 1e100}}}}'.encode(),
    ),
    "contexts": (
        publishing.many_events,
        b"[%b]" % b",".join([f'{{"type": "x", "context": {{{FEW}}}}}'.encode()] * 17),
    ),
    "attributes of a CloudEvent": (
        publishing.one_cloud_event,
        f'{{"specversion":"1.0","id":"1","source":"x","type":"x",{MEMBERS},"b":1e100}}'.encode(),
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_a_mebibyte_of_json_is_read_in_a_short_turn(name: str) -> None:
    """Nothing else goes on meanwhile, and what is refused may be sent again at once.

    Short is what it takes to decode the same, which is C, some ten times.
    """
    read, body = FULL[name]
    assert 500_000 < len(body) <= 1024 * 1024

    def cost(act: Callable[[bytes], Any]) -> float:
        best = 60.0
        for _ in range(3):
            began = time.thread_time()
            with contextlib.suppress(Problem):
                act(body)
            best = min(best, time.thread_time() - began)
        return best

    assert cost(read) < 15 * cost(msgspec.json.decode)


async def test_metadata_with_such_numbers_is_refused(tenant: Tenant) -> None:
    client = tenant.owner.client
    for number in OUTSIDE:
        made = await client.post(
            "/api/v1/workspaces",
            content=f'{{"name": "x", "metadata": {{"a": {number}}}}}',
            headers=JSON,
        )
        changed = await client.patch(
            tenant.path, content=f'{{"metadata": {{"a": {number}}}}}', headers=JSON
        )
        for answer in (made, changed):
            assert answer.status_code == 400
            assert [e["pointer"] for e in answer.json()["errors"]] == ["/metadata"]


async def test_a_patch_leaves_what_it_does_not_name_to_the_last_digit(callers: Callers) -> None:
    kept = '"n": {"a": 1234567890123456789012, "b": 1.10, "c": [0.1000000000000000000001, "é"]}'
    user = await callers.user()
    made = await user.client.post(
        "/api/v1/workspaces", content=f'{{"name": "x", "metadata": {{{kept}}}}}', headers=JSON
    )
    path = made.headers["location"]
    patch = '{"metadata": {"n": {"d": 12345678901234567890.5, "x": null}, "o": {"p": null}}}'
    changed = await user.client.patch(path, content=patch, headers=JSON)
    expected = kept[:-1] + ', "d": 12345678901234567890.5}'
    for text in (changed.text, (await user.client.get(path)).text):
        assert expected in text
        assert '"o": {}' in text


@pytest.mark.parametrize("levels", [99, 3000])
async def test_a_nested_patch_is_merged_or_refused(levels: int, tenant: Tenant) -> None:
    patch = '{"metadata": ' + '{"a":' * levels + "1" + "}" * levels + "}"
    answer = await tenant.owner.client.patch(tenant.path, content=patch, headers=JSON)
    assert answer.status_code == (200 if levels < 100 else 400)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("9999-12-31T23:59:59.999998Z", "9999-12-31T23:59:59.999998Z"),
        ("9999-12-31T23:59:59.999999Z", None),
        ("0001-01-01T00:00:00.000001Z", "0001-01-01T00:00:00.000001Z"),
        ("0001-01-01T00:00:00Z", None),
        ("2026-01-01T00:00:00+23:59", "2025-12-31T00:01:00Z"),
        ("2026-01-01T00:00:00-23:59", "2026-01-01T23:59:00Z"),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-00:01", None),
    ],
)
@pytest.mark.parametrize("is_batch", [False, True])
async def test_a_time_at_the_ends_of_the_calendar_is_kept_or_refused(
    given: str, shown: str | None, is_batch: bool, tenant: Tenant
) -> None:
    client, path = tenant.owner.client, f"{tenant.path}/events"
    event = {"type": "x", "occurred_at": given}
    answer = (
        await client.post(f"{path}/batch", json=[event, event])
        if is_batch
        else await client.post(path, json=event)
    )
    if shown is None:
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["pointer"].endswith("/occurred_at")
    else:
        listed = (await client.get(path, params={"types": "x"})).json()["data"]
        assert {e["occurred_at"] for e in listed} == {shown}


SETTABLE = """
select c.oid::regclass || '.' || a.attname
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
  and a.atttypid = 'timestamptz'::regtype and a.attnum > 0 and not a.attisdropped
  -- Set by defaults, triggers and functions of ours alone.
  and a.attname not in ('created_at', 'updated_at', 'recorded_at', 'deleted_at', 'last_used_at',
    'next_attempt_at', 'leased_until', 'sent_at', 'failed_at', 'removed_at', 'applied_at',
    'served_at', 'arrived_at', 'seen_at', 'read_at', 'archived_at', 'erased_at', 'due_at', 'hour')
  and not (c.relname in ('idempotency_keys', 'invitations') and a.attname = 'expires_at')
  and not exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'c'
    and pg_get_constraintdef(k.oid) like '%annex.is_rfc3339(' || a.attname || ')%')
"""


async def test_a_time_that_sql_may_set_is_one_that_json_can_show(
    owner: "asyncpg.Connection[Any]",
) -> None:
    assert [row[0] for row in await owner.fetch(SETTABLE)] == []


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "10000-01-01 00:00Z", "0001-01-01 BC"])
async def test_no_other_time_can_be_set(
    moment: str, tenant: Tenant, owner: "asyncpg.Connection[Any]"
) -> None:
    for statement in (
        "update annex.members set joined_at = $2::text::timestamptz where workspace_id = $1",
        "insert into annex.api_keys (workspace_id, name, prefix, secret_hash, permissions,"
        " expires_at) values ($1, 'x', 'xxxxxxxxxxxx', sha256(''), '{}', $2::text::timestamptz)",
        "select annex.publish($1, 'x', occurred_at => $2::text::timestamptz)",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await owner.execute(statement, UUID(tenant.id), moment)


async def test_a_list_goes_on_from_the_ends_of_the_calendar(
    callers: Callers, tenant: Tenant
) -> None:
    # Python's drivers take the very last and first microsecond for infinity.
    last = datetime.max.replace(tzinfo=UTC) - datetime.resolution
    ends = (last, datetime.min.replace(tzinfo=UTC) + datetime.resolution)
    async with callers.server.database.connect("postgres") as admin:
        for n in range(4):
            member = await add_member(callers, tenant, "viewer")
            await admin.execute(
                "update annex.members set joined_at = $2 where user_id = $1",
                member.user_id,
                ends[n % 2],
            )
    found, url = [], f"{tenant.path}/members?limit=1"
    while url:
        answer = await tenant.owner.client.get(url)
        found += [m["joined_at"] for m in answer.json()["data"]]
        url = answer.links.get("next", {}).get("url", "")
        assert len(found) < 6
    assert found[:2] == ["9999-12-31T23:59:59.999998Z"] * 2
    assert found[3:] == ["0001-01-01T00:00:00.000001Z"] * 2


@pytest.mark.parametrize("number", OUTSIDE)
async def test_metadata_of_members_and_keys_is_held_to_the_same(
    number: str, callers: Callers, tenant: Tenant
) -> None:
    client, body = tenant.owner.client, f'"metadata": {{"a": {number}}}}}'
    member = await add_member(callers, tenant, "viewer")
    changed = await client.patch(
        f"{tenant.path}/members/{member.user_id}", content="{" + body, headers=JSON
    )
    made = await client.post(
        f"{tenant.path}/api-keys",
        content='{"name": "x", "permissions": ["events:read"], ' + body,
        headers=JSON,
    )
    assert [a.status_code for a in (changed, made)] == [400, 400]


async def test_a_large_merge_in_sql_costs_no_more_than_it_is_long(
    owner: "asyncpg.Connection[Any]",
) -> None:
    await owner.execute("set statement_timeout = '4s'")
    merged = await owner.fetchval(
        "select annex.merge_patch(o.doc, o.doc || '{\"x\": null}') = o.doc from (select"
        " jsonb_object_agg('k' || n, n) as doc from generate_series(1, 100000) n) o"
    )
    await owner.execute("reset statement_timeout")
    assert merged


async def test_a_merge_in_sql_follows_rfc_7396(owner: "asyncpg.Connection[Any]") -> None:
    # Appendix A of the RFC.
    for target, patch, result in (
        ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
        ('{"a":"b"}', '{"a":null}', "{}"),
        ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
        ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
        ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
        ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
        ('["a","b"]', '["c","d"]', '["c","d"]'),
        ('{"a":"b"}', '["c"]', '["c"]'),
        ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
        ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
        ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
    ):
        found = "select annex.merge_patch($1::text::jsonb, $2::text::jsonb) = $3::text::jsonb"
        assert await owner.fetchval(found, target, patch, result), (target, patch)
