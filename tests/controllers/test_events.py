import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from tests.conftest import NOBODYS_ID, Caller, Callers, Tenant, add_member, new_tenant

ONE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


async def publish(
    caller: Caller, tenant: Tenant, body: Any, media_type: str = ""
) -> httpx.Response:
    """Publish a body as it is, or as JSON."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    headers = {"Content-Type": media_type or "application/json"}
    where = {ONE: "/cloudevents", BATCH: "/cloudevents/batch"}.get(media_type.partition(";")[0], "")
    if not media_type and isinstance(body, list):
        where = "/batch"
    path = f"{tenant.path}/events{where}"
    return await caller.client.post(path, content=content, headers=headers)


def published(response: httpx.Response) -> list[dict[str, Any]]:
    """What was published, of one event or of a batch."""
    answer: dict[str, Any] = response.json()
    return answer["data"] if "data" in answer else [answer]


async def listed(caller: Caller, tenant: Tenant, **query: Any) -> list[dict[str, Any]]:
    """List a workspace's own events, oldest first, without those that Annex draws."""
    response = await caller.client.get(f"{tenant.path}/events", params=query)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = published(response)
    return [e for e in reversed(found) if not e["type"].startswith("annex.")]


@pytest.fixture
async def key(callers: Callers, tenant: Tenant) -> Caller:
    """A key that publishes and reads."""
    return await callers.key(tenant.id, "events:publish", "events:read")


async def test_an_event_shows_as_it_was_published(
    callers: Callers, tenant: Tenant, key: Caller
) -> None:
    reader = await callers.key(tenant.id, "events:read", "members:read")
    sent = {
        "type": "invoice.paid",
        "data": {"total": 42.5, "lines": [None, True, "ü"]},
        "source": "shop",
        "key": "invoice-1",
        "subject": "invoice:1",
        "topics": ["project:42", "billing"],
        "actor": "user:jane",
        "permission": "events:read",
        "context": {"ip": "::1"},
        "occurred_at": "2026-01-02T03:04:05Z",
    }
    response = await publish(key, tenant, sent)
    [made] = published(response)
    assert (response.status_code, made["is_duplicate"]) == (201, False)
    shown = (await reader.client.get(f"{tenant.path}/events/{made['id']}")).json()
    assert shown == sent | {
        "id": made["id"],
        "workspace_id": tenant.id,
        # Who sent it, as verified, whatever the actor says.
        "principal": f"api_key:{key.claims['sub']}",
        "recorded_at": shown["recorded_at"],
    }


async def test_an_event_needs_nothing_but_a_type(tenant: Tenant, key: Caller) -> None:
    await publish(key, tenant, {"type": "ping"})
    [event] = await listed(key, tenant)
    assert [event[n] for n in ("source", "key", "subject", "topics", "data", "context")] == [
        "api",
        None,
        None,
        [],
        {},
        {},
    ]
    assert event["actor"] == f"api_key:{key.claims['sub']}"


@pytest.mark.parametrize("data", [None, True, 0, "text", [1], {"a": {"b": []}}, 1.5e10])
async def test_data_is_any_json_value(tenant: Tenant, key: Caller, data: Any) -> None:
    await publish(key, tenant, {"type": "x", "data": data})
    assert [e["data"] for e in await listed(key, tenant)] == [data]


async def test_a_batch_keeps_its_order(tenant: Tenant, key: Caller) -> None:
    response = await publish(key, tenant, [{"type": "x", "data": n} for n in range(500)])
    ids = [e["id"] for e in published(response)]
    assert (response.status_code, len(set(ids))) == (201, 500)
    assert [e["data"] for e in await listed(key, tenant, limit=100)] == list(range(400, 500))


@pytest.mark.parametrize("events", [0, 501])
async def test_a_batch_has_1_to_500_events(tenant: Tenant, key: Caller, events: int) -> None:
    response = await publish(key, tenant, [{"type": "x"}] * events)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        ({"type": "Bad"}, "/1/type"),
        ({"type": "x\n"}, "/1/type"),
        ({"type": ""}, "/1/type"),
        ({"data": 1}, "/1/type"),
        ({"type": "x", "nonsense": 1}, "/1/nonsense"),
        ({"type": "x", "topics": ["a,b"]}, "/1/topics/0"),
        ({"type": "x", "topics": [""]}, "/1/topics/0"),
        ({"type": "x", "topics": ["t"] * 21}, "/1/topics"),
        ({"type": "x", "key": ""}, "/1/key"),
        ({"type": "x", "source": None}, "/1/source"),
        ({"type": "x", "context": []}, "/1/context"),
        ({"type": "x", "permission": "secret"}, "/1/permission"),
        ({"type": "x", "occurred_at": "2026-01-02T03:04:05"}, "/1/occurred_at"),
        ({"type": "x", "occurred_at": "yesterday"}, "/1/occurred_at"),
    ],
)
async def test_a_bad_event_is_named_and_nothing_is_published(
    tenant: Tenant, key: Caller, bad: Any, pointer: str
) -> None:
    response = await publish(key, tenant, [{"type": "good"}, bad])
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [pointer]
    assert await listed(key, tenant) == []


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"type": "annex.workspace.deleted"}, 400),
        ({"type": "x", "occurred_at": "0001-01-01T00:00:00+14:00"}, 400),
        ({"type": "x", "occurred_at": "9999-12-31T23:59:59-14:00"}, 400),
        ({"type": "x", "context": {"a": "x" * 16_400}}, 400),
        ({"type": "x", "topics": [str(n) + "x" * 199 for n in range(20)]}, 400),
        ({"type": "x", "data": "x" * 65_535}, 413),
    ],
)
async def test_a_batch_that_the_database_refuses_leaves_nothing_behind(
    tenant: Tenant, key: Caller, bad: Any, status: int
) -> None:
    good = {"type": "good", "key": "k"}
    assert (await publish(key, tenant, [good, bad])).status_code == status
    assert await listed(key, tenant) == []
    [again] = published(await publish(key, tenant, good))
    assert again["is_duplicate"] is False


@pytest.mark.parametrize("batch", [False, True])
async def test_a_time_with_an_offset_that_postgres_does_not_take_is_kept_in_utc(
    tenant: Tenant, key: Caller, batch: bool
) -> None:
    event = {"type": "x", "occurred_at": "2026-01-02T03:04:05+19:00"}
    assert (await publish(key, tenant, [event] if batch else event)).status_code == 201
    [found] = await listed(key, tenant)
    assert found["occurred_at"] == "2026-01-01T08:04:05Z"


async def test_data_of_exactly_64_kib_is_taken(tenant: Tenant, key: Caller) -> None:
    data = "x" * (65_536 - 2)
    assert (await publish(key, tenant, {"type": "x", "data": data})).status_code == 201


async def test_compact_data_within_the_limit_is_taken_however_postgres_spaces_it(
    tenant: Tenant, key: Caller
) -> None:
    data = [0] * 32_767
    assert (await publish(key, tenant, {"type": "x", "data": data})).status_code == 201


# What JSON can say and Postgres cannot store, or no parser should follow.
HOSTILE = {
    "NUL in data": b'{"type": "x", "data": {"a": "\\u0000"}}',
    "NUL in a name": b'{"type": "x", "data": {"\\u0000": 1}}',
    "NUL in text": b'{"type": "x", "subject": "a\\u0000b"}',
    "NUL in a topic": b'{"type": "x", "topics": ["a\\u0000b"]}',
    "lone surrogate in data": b'{"type": "x", "data": "\\ud800"}',
    "lone surrogate in text": b'{"type": "x", "subject": "\\udfff"}',
    "no UTF-8 in data": b'{"type": "x", "data": "\xff"}',
    "no UTF-8 in text": b'{"type": "x", "subject": "\xff"}',
    "huge number": b'{"type": "x", "data": 1e400000}',
    "huge number in the context": b'{"type": "x", "context": {"a": 1e400000}}',
    "deep data": b'{"type": "x", "data": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deep context": b'{"type": "x", "context": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}",
    "unclosed": b'{"type": "x", "data": ' + b"[" * 100_000,
    "no JSON": b"hello",
    "empty": b"",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("media_type", ["application/json", ONE])
async def test_what_cannot_be_stored_is_refused_and_not_a_failure(
    tenant: Tenant, key: Caller, body: bytes, media_type: str
) -> None:
    if media_type == ONE:
        body = body.replace(b'"type"', b'"specversion": "1.0", "id": "1", "source": "s", "type"')
    response = await publish(key, tenant, body, media_type)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert await listed(key, tenant) == []


async def test_a_long_number_keeps_every_digit(tenant: Tenant, key: Caller) -> None:
    number = b"12345678901234567890.123456789012345678901234567890"
    await publish(key, tenant, b'{"type": "x", "data": ' + number + b"}")
    response = await key.client.get(f"{tenant.path}/events", params={"types": "x"})
    assert b'"data":' + number in response.content


async def test_the_same_source_and_key_is_one_event(tenant: Tenant, key: Caller) -> None:
    first = published(await publish(key, tenant, {"type": "x", "key": "k"}))[0]
    again = await publish(key, tenant, {"type": "y", "key": "k", "source": "api"})
    assert again.status_code == 200
    assert published(again) == [{"id": first["id"], "is_duplicate": True}]
    assert [e["type"] for e in await listed(key, tenant)] == ["x"]


async def test_a_key_repeats_within_a_batch_too(tenant: Tenant, key: Caller) -> None:
    batch = [{"type": "a", "key": "k"}, {"type": "b"}, {"type": "c", "key": "k"}]
    response = await publish(key, tenant, batch)
    first, _, third = published(response)
    assert response.status_code == 201
    assert third == {"id": first["id"], "is_duplicate": True}
    assert [e["type"] for e in await listed(key, tenant)] == ["a", "b"]


async def test_a_member_takes_no_event_of_a_server_away(
    callers: Callers, tenant: Tenant, key: Caller
) -> None:
    """All keys, operators and SQL are one publisher; each user is another."""
    event = {"type": "invoice.paid", "source": "billing", "key": "invoice-42"}
    member, path = await add_member(callers, tenant, "member"), f"{tenant.path}/events"
    second = await callers.key(tenant.id, "events:read", "events:publish")
    publishers = (member, key, second, tenant.owner, callers.operator(), member)
    answers = [await p.client.post(path, json=event) for p in publishers]
    assert [a.json()["is_duplicate"] for a in answers] == [False, False, True, False, True, True]
    assert answers[5].json()["id"] == answers[0].json()["id"]


async def test_another_source_or_workspace_makes_another_event(
    callers: Callers, tenant: Tenant, key: Caller
) -> None:
    other = await new_tenant(callers)
    event = {"type": "x", "key": "k"}
    answers = [
        await publish(key, tenant, event),
        await publish(key, tenant, event | {"source": "shop"}),
        await publish(other.owner, other, event),
    ]
    assert [published(a)[0]["is_duplicate"] for a in answers] == [False] * 3


async def test_the_same_keys_published_at_once_are_published_once(
    tenant: Tenant, key: Caller
) -> None:
    keys = [str(n) for n in range(20)]
    orders = [keys, keys[::-1], keys[10:] + keys[:10], keys[::2] + keys[1::2]]
    batches = [[{"type": "x", "key": k} for k in order] for order in orders]
    answers = await asyncio.gather(*(publish(key, tenant, b) for b in batches))
    assert {a.status_code for a in answers} <= {200, 201}
    assert len(await listed(key, tenant)) == 20


async def test_a_user_publishes_as_themselves(tenant: Tenant) -> None:
    refused = await publish(tenant.owner, tenant, {"type": "x", "actor": "user:somebody"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    await publish(tenant.owner, tenant, {"type": "x", "actor": None})
    assert [e["actor"] for e in await listed(tenant.owner, tenant)] == [
        f"user:{tenant.owner.user_id}"
    ]


@pytest.mark.parametrize("name", ["id", "slug"])
@pytest.mark.parametrize("body", [{"type": "x"}, [{"type": "x"}]], ids=["one", "batch"])
async def test_who_may_not_publish_is_refused_by_whatever_name_and_however_often(
    callers: Callers, tenant: Tenant, name: str, body: Any
) -> None:
    path = f"/api/v1/workspaces/{tenant.slug if name == 'slug' else tenant.id.upper()}"
    named = tenant._replace(path=path)
    viewer = await add_member(callers, tenant, "viewer")
    weak = await add_member(callers, tenant, "member")
    stranger = await callers.user()
    keyless = await callers.key(tenant.id, "events:read")
    assert (await publish(weak, named, body)).status_code == 201
    raised = await callers.user(aal="aal2", user_id=tenant.owner.user_id)
    demanded = await raised.client.patch(tenant.path, json={"require_aal2": True})
    assert demanded.status_code == 200
    for caller, status, code in (
        (viewer, 403, "second_factor_required"),
        (weak, 403, "second_factor_required"),
        (stranger, 404, "not_found"),
        (keyless, 403, "forbidden"),
    ):
        for headers in ({}, {"Idempotency-Key": "k"}):
            caller.client.headers.update(headers)
            for _ in range(2):  # once without a look-up that let the caller in before, if any
                response = await publish(caller, named, body)
                assert (response.status_code, response.json()["code"]) == (status, code)
    assert (await publish(raised, named, body)).status_code == 201
    await raised.client.delete(tenant.path)
    assert (await publish(raised, named, body)).status_code == 404


async def test_a_viewer_does_not_publish(callers: Callers, tenant: Tenant) -> None:
    viewer = await add_member(callers, tenant, "viewer")
    response = await publish(viewer, tenant, {"type": "x"})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


CLOUD = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order.placed"}


async def test_a_cloud_event_becomes_an_event(tenant: Tenant, key: Caller) -> None:
    sent = CLOUD | {
        "subject": "order:1",
        "time": "2026-01-02T03:04:05+02:00",
        "datacontenttype": "application/json",
        "dataschema": "https://example.com/schema",
        "data": {"total": 1},
        "topics": "project:1, billing,",
        "actor": "user:jane",
        "traceparent": "00-ab",
        "sequence": 7,
        "sampled": True,
    }
    assert (await publish(key, tenant, sent, ONE)).status_code == 201
    [event] = await listed(key, tenant)
    kept = ("type", "source", "key", "subject", "data", "topics", "actor", "occurred_at", "context")
    assert {n: event[n] for n in kept} == {
        "type": "order.placed",
        "source": "/shop",
        "key": "e-1",
        "subject": "order:1",
        "data": {"total": 1},
        "topics": ["project:1", "billing"],
        "actor": "user:jane",
        "occurred_at": "2026-01-02T01:04:05Z",
        "context": {
            "traceparent": "00-ab",
            "sequence": 7,
            "sampled": True,
            "dataschema": "https://example.com/schema",
        },
    }


async def test_a_null_attribute_of_a_cloud_event_is_an_absent_one(
    tenant: Tenant, key: Caller
) -> None:
    names = ("subject", "time", "datacontenttype", "dataschema", "topics", "recipients", "actor")
    sent = CLOUD | dict.fromkeys([*names, "extension"])
    assert (await publish(key, tenant, sent, ONE)).status_code == 201
    [event] = await listed(key, tenant)
    assert (event["subject"], event["topics"], event["context"]) == (None, [], {})


async def test_a_cloud_event_names_recipients_and_does_not_show_them(
    callers: Callers, tenant: Tenant, key: Caller
) -> None:
    users = [uuid4() for _ in range(1000)]
    text = ",".join(map(str, users))
    for event_id, recipients in (("one", f"{users[0]}".upper()), ("all", text), ("none", "")):
        sent = CLOUD | {"id": event_id, "recipients": recipients}
        assert (await publish(key, tenant, sent, ONE)).status_code == 201
    assert all(e["context"] == {} and "recipients" not in e for e in await listed(key, tenant))
    async with callers.server.database.connect("postgres") as admin:
        rows = await admin.fetch(
            "select key, recipients from annex.events where workspace_id = $1 and source = '/shop'",
            UUID(tenant.id),
        )
    assert {row["key"]: row["recipients"] for row in rows} == {
        "one": users[:1],
        "all": users,
        "none": None,
    }


@pytest.mark.parametrize(
    "recipients", ["jane", f"{NOBODYS_ID}{NOBODYS_ID}", f" {NOBODYS_ID}", [NOBODYS_ID], ","]
)
async def test_recipients_of_a_cloud_event_that_are_none_are_named(
    tenant: Tenant, key: Caller, recipients: Any
) -> None:
    answer = await publish(key, tenant, CLOUD | {"recipients": recipients}, ONE)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "/recipients"


@pytest.mark.parametrize("missing", CLOUD)
async def test_a_cloud_event_needs_its_required_attributes(
    tenant: Tenant, key: Caller, missing: str
) -> None:
    sent = {k: v for k, v in CLOUD.items() if k != missing}
    response = await publish(key, tenant, sent, ONE)
    assert response.status_code == 400
    assert response.json()["errors"] == [
        {"pointer": f"/{missing}", "detail": "Required, and missing"}
    ]


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        ({"specversion": "0.3"}, "/1/specversion"),
        ({"id": ""}, "/1/id"),
        ({"time": "noon"}, "/1/time"),
        ({"topics": ",".join(map(str, range(21)))}, "/1/topics"),
        ({"topics": "x" * 201}, "/1/topics"),
        ({"data_base64": "AA=="}, "/1/data_base64"),
        ({"datacontenttype": "text/xml", "data": "<a/>"}, "/1/datacontenttype"),
    ],
)
async def test_a_bad_cloud_event_of_a_batch_is_named_and_nothing_is_published(
    tenant: Tenant, key: Caller, bad: Any, pointer: str
) -> None:
    response = await publish(key, tenant, [CLOUD, CLOUD | {"id": "e-2"} | bad], BATCH)
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [pointer]
    assert await listed(key, tenant) == []


@pytest.mark.parametrize("kind", ["application/vnd.shop+json", "Application/JSON; charset=utf-8"])
async def test_any_json_media_type_is_json_data(tenant: Tenant, key: Caller, kind: str) -> None:
    response = await publish(key, tenant, CLOUD | {"datacontenttype": kind, "data": 1}, ONE)
    assert response.status_code == 201


async def test_a_batch_of_cloud_events_keeps_its_order(tenant: Tenant, key: Caller) -> None:
    batch = [CLOUD | {"id": str(n)} for n in range(3)]
    response = await publish(key, tenant, batch, f"{BATCH}; charset=utf-8")
    assert response.status_code == 201
    assert [e["key"] for e in await listed(key, tenant)] == ["0", "1", "2"]


@pytest.mark.parametrize(("body", "kind"), [(CLOUD, BATCH), ([CLOUD], ONE), ([], BATCH)])
async def test_one_cloud_event_and_a_batch_are_told_apart(
    tenant: Tenant, key: Caller, body: Any, kind: str
) -> None:
    assert (await publish(key, tenant, body, kind)).status_code == 400


async def test_a_cloud_event_and_our_own_form_share_their_keys(tenant: Tenant, key: Caller) -> None:
    await publish(key, tenant, CLOUD, ONE)
    own = {"type": "x", "source": CLOUD["source"], "key": CLOUD["id"]}
    response = await publish(key, tenant, own)
    assert (response.status_code, published(response)[0]["is_duplicate"]) == (200, True)


EVENTS: list[dict[str, Any]] = [
    {"type": "invoice.paid", "topics": ["p:1"], "data": {"n": 42, "ok": True, "tags": ["a", 7]}},
    {"type": "invoice", "topics": ["p:1", "p:2"], "data": {"n": "42", "ok": None, "a": {"b": "c"}}},
    {"type": "invoiced.late", "topics": [], "data": {"n": 42.0, "ok": False, "a": {"b": [1, {}]}}},
    {"type": "invoice.line.added", "topics": ["p"], "data": {"text": "x:y, z", "ok": "true"}},
    {"type": "other", "topics": ["p:2"], "data": [5, {"n": 42}]},
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"types": "invoice"}, [1]),
        ({"types": "invoice.*"}, [0, 3]),
        ({"types": "invoice.line.*, other"}, [3, 4]),
        ({"types": "nothing"}, []),
        ({"topics": "p:1"}, [0, 1]),
        ({"topics": "p:2,p"}, [1, 3, 4]),
        ({"types": "invoice.*", "topics": "p:1"}, [0]),
        ({"where": "data.n:42"}, [0, 1, 2]),
        ({"where": "data.n:4.2e1"}, [0, 2]),
        ({"where": "data.ok:true"}, [0, 3]),
        ({"where": "data.ok:false"}, [2]),
        ({"where": "data.ok:null"}, [1]),
        ({"where": "data.ok:1"}, []),
        ({"where": "data.a.b:c"}, [1]),
        ({"where": "data.a.b.0:1"}, [2]),
        ({"where": "data.tags.-1:7"}, [0]),
        ({"where": "data.1.n:42"}, [4]),
        ({"where": "data.text:x:y, z"}, [3]),
        ({"where": "data.missing:x"}, []),
        ({"where": ["data.n:42", "data.ok:true"]}, [0]),
        ({"where": "data.n:" + "9" * 400}, []),
    ],
)
async def test_filters_narrow_a_list(
    tenant: Tenant, key: Caller, query: dict[str, Any], found: list[int]
) -> None:
    await publish(key, tenant, EVENTS)
    events = await listed(key, tenant, **query)
    assert [e["type"] for e in events] == [EVENTS[n]["type"] for n in found]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"types": ""}, "types"),
        ({"types": "a,,b"}, "types"),
        ({"types": "in*"}, "types"),
        ({"topics": ","}, "topics"),
        ({"topics": "a\0"}, "topics"),
        ({"where": "total:1"}, "where"),
        ({"where": "data:1"}, "where"),
        ({"where": "data..a:1"}, "where"),
        ({"where": "data." + ".".join("abcdefghi") + ":1"}, "where"),
        ({"where": "data.a:\0"}, "where"),
        ({"where": ["data.a:1"] * 6}, "where"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "many"}, "limit"),
    ],
)
async def test_a_bad_parameter_is_named(
    tenant: Tenant, key: Caller, query: dict[str, Any], name: str
) -> None:
    response = await key.client.get(f"{tenant.path}/events", params=query)
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [name]


async def test_a_number_that_no_database_holds_matches_nothing(tenant: Tenant, key: Caller) -> None:
    response = await key.client.get(f"{tenant.path}/events", params={"where": "data.a:1e999999"})
    assert response.status_code in (200, 400)


async def test_audit_events_show_only_with_the_right_to_them(
    callers: Callers, tenant: Tenant, key: Caller
) -> None:
    auditor = await callers.key(tenant.id, "events:read", "events:audit")
    sent = await publish(key, tenant, {"type": "login", "permission": "events:audit"})
    path = f"{tenant.path}/events/{sent.json()['id']}"
    assert await listed(key, tenant) == []
    assert (await key.client.get(path)).status_code == 404
    assert [e["type"] for e in await listed(auditor, tenant)] == ["login"]
    assert (await auditor.client.get(path)).status_code == 200


@pytest.mark.parametrize("name", [NOBODYS_ID, "no-uuid", "1"])
async def test_an_event_that_is_none_is_not_found(tenant: Tenant, key: Caller, name: str) -> None:
    response = await key.client.get(f"{tenant.path}/events/{name}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_the_list_says_where_to_open_the_stream(
    callers: Callers, tenant: Tenant, key: Caller
) -> None:
    await publish(key, tenant, {"type": "x"})
    runtime = callers.server.app.runtime
    await runtime.tail.catch_up()
    head = runtime.hub.head
    cursor = (await key.client.get(f"{tenant.path}/events")).json()["stream_cursor"]
    position = runtime.hub.cursors.read(UUID(tenant.id), cursor)
    assert position is not None
    assert position.pos >= head
