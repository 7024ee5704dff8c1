"""What a newcomer's first requests meet: examples that work, and refusals that say what to do."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.auth.keys import Key
from app.dev.demo import USERS, WORKSPACE, mint_token, seed
from app.dev.server import SUPABASE
from app.field_errors import as_pointer, field_error
from app.http.application import SINGLE
from app.http.preconditions import expected_versions
from tests.conftest import (
    MIGRATING_ROLE,
    SECRETS,
    Callers,
    Running,
    Tenant,
    TestDatabase,
    read_contract,
    running,
)
from tests.test_contract import OPERATIONS, STREAMS

NOBODYS = {"lookUpInvitation", "respondToInvitation", "unsubscribe", "updateNotification"}
LAST = [
    "deleteRole",
    "deleteJoinRule",
    "rotateApiKey",
    "revokeApiKey",
    "removeMember",
    "deleteWorkspace",
]
ORDER = [*sorted(OPERATIONS.keys() - STREAMS - set(LAST)), *LAST]


@pytest.fixture
async def demo(own_database: TestDatabase) -> AsyncIterator[Running]:
    """A server with the demo data of `annex dev`."""
    sql = (SUPABASE / "seed.sql").read_text()
    await seed(own_database.url("postgres"), MIGRATING_ROLE, sql, Key.read(SECRETS.api_key))
    async with running(own_database) as live:
        yield live


def example_of(operation: Any, kind: str) -> dict[str, Any]:
    """Collect the examples of an operation's required parameters of a kind."""
    return {
        p.name: p.definition.get("example")
        for p in operation.iter_parameters()
        if p.location.value == kind and p.definition.get("required")
    }


async def test_the_example_of_every_operation_works_against_the_demo(demo: Running) -> None:
    owner = USERS["owner"]
    callers = Callers(demo)
    user = callers.client(mint_token(demo.settings, owner["id"], owner["email"]))
    operator, server = callers.operator().client, callers.client(SECRETS.api_key)
    path = f"/api/v1/workspaces/{WORKSPACE['slug']}/events"
    event = (await user.get(path)).json()["data"][0]["id"]
    failed = {}
    for name in ORDER:
        operation = OPERATIONS[name]
        raw = operation.definition.raw
        parts = example_of(operation, "path")
        if "event_id" in parts:  # drawn when the demo is seeded
            parts["event_id"] = event
        if "key_id" in parts:
            listed = await user.get(f"/api/v1/workspaces/{WORKSPACE['slug']}/api-keys")
            parts["key_id"] = listed.json()["data"][0]["id"]
        if "invitation_id" in parts or "join_rule_id" in parts:
            parts |= await made_for(demo, user, operation.path)
        client = {"operator": operator, "key": server}.get(raw["x-permission"], user)
        if name == "createJoinRule":  # the demo's users have no address of their own domain
            client = operator
        content = raw.get("requestBody", {}).get("content", {None: {}})
        for media_type, body in content.items():
            options = {"json": body["example"]} if media_type else {}
            headers = {"Content-Type": media_type} if media_type else {}
            if media_type == "application/x-www-form-urlencoded":
                options = {"data": body["example"]}
            elif media_type == "multipart/form-data":
                continue  # what holds answers to the contract cannot read a streamed body
            url, options["params"] = operation.path.format(**parts), example_of(operation, "query")
            response = await client.request(operation.method, url, headers=headers, **options)
            # A secret or an item in an example is nobody's, and told so in the contract's words.
            is_nobodys = name in NOBODYS and response.status_code == 404
            if not (response.is_success or is_nobodys):
                failed[name] = response.text
    await callers.close()
    assert failed == {}


async def made_for(demo: Running, user: Any, path: str) -> dict[str, str]:
    """Make the invitation, request to join or rule that a path names; the demo has none."""
    workspace = f"/api/v1/workspaces/{WORKSPACE['slug']}"
    body = {"role": "viewer", "emails": [f"{uuid4().hex}@example.org"]}
    [made] = (await user.post(f"{workspace}/invitations", json=body)).json()["data"]
    rules = (await user.get(f"{workspace}/join-rules")).json()["data"]
    if path.endswith("/approve"):
        async with demo.database.connect("postgres") as admin:
            asking = await admin.fetchval(
                "insert into auth.users (id, email, email_confirmed_at)"
                " values (gen_random_uuid(), $1, now()) returning id",
                body["emails"][0],
            )
            await admin.execute("insert into annex.profiles (user_id) values ($1)", asking)
            await admin.execute(
                "update annex.invitations set status = 'requested', user_id = $2 where id = $1",
                UUID(made["invitation_id"]),
                asking,
            )
    return {
        "invitation_id": made["invitation_id"],
        "join_rule_id": (rules or [{"id": ""}])[0]["id"],
    }


BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "a.b"}


@pytest.mark.parametrize("where", ["", "/batch", "/cloudevents", "/cloudevents/batch"])
async def test_a_cloud_event_in_binary_mode_is_refused_and_not_misread(
    tenant: Tenant, where: str
) -> None:
    path = f"{tenant.path}/events{where}"
    response = await tenant.owner.client.post(path, json={"type": "x"}, headers=BINARY)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert "structured mode" in response.json()["detail"]


async def test_a_type_in_mixed_case_is_refused_with_the_reason(tenant: Tenant) -> None:
    sent = {"specversion": "1.0", "id": "1", "source": "/s", "type": "com.example.order.Paid"}
    headers = {"Content-Type": "application/cloudevents+json"}
    path = f"{tenant.path}/events/cloudevents"
    response = await tenant.owner.client.post(path, json=sent, headers=headers)
    [error] = response.json()["errors"]
    assert error["pointer"] == "/type"
    assert "lower-case" in error["detail"]


async def test_null_data_base64_is_absent(tenant: Tenant) -> None:
    sent = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "data_base64": None}
    headers = {"Content-Type": "application/cloudevents+json"}
    path = f"{tenant.path}/events/cloudevents"
    response = await tenant.owner.client.post(path, json=sent, headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("message", "pointer", "detail"),
    [
        ("Object missing required field `type`", "/0/type", "Required, and missing"),
        ("Object contains unknown field `a/b`", "/0/a~1b", "Not a field of this object"),
        ("Expected `str | null`, got `int`", "/0", "Expected a string or null, got an integer"),
        ("Expected `bool`, got `array`", "/0", "Expected a boolean, got an array"),
        (r"Expected `str` matching regex '^a\\Z'", "/0", "Expected a string that matches ^a$"),
    ],
)
def test_a_field_error_names_the_field_in_json_words(
    message: str, pointer: str, detail: str
) -> None:
    error = field_error(message, as_pointer("$[0]"))
    assert (error.pointer, error.detail) == (pointer, detail)


@pytest.mark.parametrize(
    ("if_match", "versions"),
    [
        ('"3"', [3]),
        ('"3", W/"4" , "5"', [3, 5]),
        ('"a,7", "8"', [8]),
        ("*", None),
    ],
)
def test_if_match_is_a_list_of_tags(if_match: str, versions: list[int] | None) -> None:
    assert expected_versions(if_match) == versions


@pytest.mark.parametrize(
    "query", [{"types": "Invoice.*"}, {"types": "in voice"}, {"topics": "project:*"}]
)
async def test_a_filter_that_no_event_can_match_is_refused(
    tenant: Tenant, query: dict[str, str]
) -> None:
    response = await tenant.owner.client.get(f"{tenant.path}/events", params=query)
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [*query]


def in_queries(node: Any) -> Iterator[tuple[str, str]]:
    """Find the contract's query parameters with their types."""
    if isinstance(node, dict) and node.get("in") == "query":
        yield node["name"], node["schema"]["type"]
    for child in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from in_queries(child)


def test_every_parameter_that_counts_once_is_known() -> None:
    lenient = {"last_event_id", "ticket"}  # an EventSource would give up on a 400
    named = {n for n, kind in in_queries(read_contract()) if kind != "array"}
    assert SINGLE == named - lenient


@pytest.mark.parametrize("query", ["types=a.b&types=c.d", "limit=1&limit=2", "topics=a&topics=b"])
async def test_a_parameter_that_counts_once_is_refused_twice(tenant: Tenant, query: str) -> None:
    response = await tenant.owner.client.get(f"{tenant.path}/events?{query}")
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [query.partition("=")[0]]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (
            b"",
            "The body is not JSON: it is empty, or ends too early",
        ),
        (b'{"type": "a', "ends too early"),
        (b'{"type": "a", "subject": "\\ud800"}', "half of a surrogate pair"),
        (b'{"type": "a", "subject": "\xff"}', "The body is not UTF-8."),
        (b'{"type": "a", "data": {"x": "\\u0000"}}', "A text holds U+0000"),
        (b'{"type": "a", "data": {"\\u0000": 1}}', "A text holds U+0000"),
    ],
)
async def test_what_is_no_json_that_can_be_kept_is_said_in_its_own_words(
    tenant: Tenant, body: bytes, detail: str
) -> None:
    # Not our client, which sends only what the contract allows.
    client = tenant.owner.client
    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers) as plain:
        answer = await plain.post(
            f"{tenant.path}/events", content=body, headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 400
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize("name", ["If-Match", "Idempotency-Key"])
async def test_a_header_is_named_as_the_contract_names_it(tenant: Tenant, name: str) -> None:
    client = tenant.owner.client
    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers) as plain:
        headers = {name: "x" * 256}
        path = f"{tenant.path}/api-keys/{uuid4()}/rotate"
        answer = await plain.post(path, json={}, headers=headers)
    assert [e["pointer"] for e in answer.json()["errors"]] == [name]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_stream_says_one_thing_of_its_connection(tenant: Tenant, version: str) -> None:
    url = tenant.owner.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = [
        f"GET {tenant.path}/stream HTTP/{version}",
        f"Host: {url.host}",
        f"Authorization: {tenant.owner.client.headers['authorization']}",
        "Connection: close",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    writer.close()
    assert head.count("\r\nconnection:") == 1
    assert "\r\nconnection: close" in head


@pytest.mark.parametrize("path", ["/api/v1/me", "/api/v1/workspaces", "/api/v1/workspaces/acme"])
async def test_options_lists_all_methods_of_a_path(callers: Callers, path: str) -> None:
    response = await callers.client().options(path)
    allowed = {m.strip() for m in response.headers["allow"].split(",")}
    template = path.replace("/acme", "/{ws}")
    named = {o.method.upper() for o in OPERATIONS.values() if o.path == template}
    assert allowed >= named


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1:3000"])
async def test_a_dev_servers_page_may_call_in_development(callers: Callers, origin: str) -> None:
    response = await callers.client().get("/health", headers={"Origin": origin})
    assert response.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("origin", ["http://localhost.evil.example", "http://evil.example"])
async def test_no_other_page_may(callers: Callers, origin: str) -> None:
    response = await callers.client().get("/health", headers={"Origin": origin})
    assert "access-control-allow-origin" not in response.headers


async def test_the_root_says_where_things_are(callers: Callers) -> None:
    said = (await callers.client().get("/")).text
    for path in ("/docs", "/openapi.yaml", "/live", "/health"):
        assert path in said
        assert (await callers.client().get(path)).status_code == 200


async def test_a_problems_page_says_what_to_do(callers: Callers) -> None:
    said = (await callers.client().get("/problems/slug_taken")).text
    assert "Choose another slug." in said


async def test_a_valid_header_wins_over_a_bad_ticket(callers: Callers, tenant: Tenant) -> None:
    query = {"ticket": "nonsense"}
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    async with client.stream("GET", path, params=query) as response:
        lines = response.aiter_lines()
        first = [await anext(lines) for _ in range(3)]
    assert "event: unauthorized" not in first
    async with callers.client("nonsense").stream("GET", path, params=query) as response:
        refused = await response.aread()
    assert b"event: unauthorized" in refused
