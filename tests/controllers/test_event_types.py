"""The catalogue: who writes it, what it takes, and what it refuses when events are published."""

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Caller, Callers, Tenant, TestDatabase, encode, new_tenant, running

SCHEMA = {
    "type": "object",
    "required": ["number"],
    "properties": {
        "number": {"type": "string", "maxLength": 5},
        "total": {"type": "number", "minimum": 0},
        "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}},
    },
    "additionalProperties": False,
}


def new_name() -> str:
    return f"test.{uuid4().hex[:12]}"


async def put(
    caller: Caller, name: str, headers: dict[str, str] | None = None, /, **body: Any
) -> tuple[int, Any]:
    """Put an event type; returns the status and the body."""
    body = {"category": "billing", **body}
    answer = await caller.client.put(
        f"/api/v1/event-types/{name}", json=body, headers=headers or {}
    )
    return answer.status_code, answer.json()


async def publish(caller: Caller, tenant: Tenant, **event: Any) -> tuple[int, Any]:
    """Publish an event; returns the status, and the problem's code and pointers if it is one."""
    answer = await caller.client.post(f"{tenant.path}/events", json=event)
    return answer.status_code, said(answer.json())


def said(body: Any) -> Any:
    return (body["code"], [e["pointer"] for e in body["errors"]]) if "code" in body else None


async def test_a_type_is_made_replaced_and_listed(callers: Callers, tenant: Tenant) -> None:
    operator, name = callers.operator(), new_name()
    status, made = await put(operator, name, title="Paid: {{data.number}}", data_schema=SCHEMA)
    assert (status, made["version"], made["is_critical"], made["body"]) == (201, 1, False, "")
    status, same = await put(operator, name, title="Paid: {{data.number}}", data_schema=SCHEMA)
    assert (status, same["version"]) == (200, 1)
    status, other = await put(operator, name, category="news", is_critical=True)
    assert (status, other["version"], other["title"], other["data_schema"]) == (200, 2, "", None)
    for caller in (tenant.owner, await callers.key(tenant.id, "events:publish"), operator):
        listed = (await caller.client.get("/api/v1/event-types?limit=1")).json()["data"]
        assert listed == [other]


@pytest.mark.parametrize(
    ("exists", "headers", "status"),
    [
        (False, {"If-None-Match": "*"}, 201),
        (True, {"If-None-Match": "*"}, 412),
        (False, {"If-Match": '"1"'}, 412),
        (True, {"If-Match": "*"}, 200),
        (True, {"If-Match": '"1"'}, 200),
        (True, {"If-Match": '"2"'}, 412),
    ],
)
async def test_a_type_is_put_under_its_preconditions(
    callers: Callers, exists: bool, headers: dict[str, str], status: int
) -> None:
    operator, name = callers.operator(), new_name()
    if exists:
        await put(operator, name)
    assert (await put(operator, name, headers, category="other"))[0] == status


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"title": "{{name}}"}, "/title"),
        ({"title": "{{data}}"}, "/title"),
        ({"title": "{{data.x|upper}}"}, "/title"),
        ({"title": "{{ data.__class__() }}"}, "/title"),
        ({"title": "{% for x in data %}"}, None),
        ({"title": "${7*7} {7} #{7}"}, None),
        ({"title": "two\nlines"}, "/title"),
        ({"body": "{{data.x"}, "/body"),
        ({"body": "{{data.x}}" * 21}, "/body"),
        ({"body": "{{#each data}}"}, "/body"),
        ({"title": "x" * 201}, "/title"),
        ({"body": "x" * 2001}, "/body"),
        ({"category": "Billing"}, "/category"),
        ({"category": "*"}, "/category"),
        ({"workspace_id": "0190a000-0000-7000-8000-0000000000aa"}, "/workspace_id"),
        ({"name": "other.name"}, "/name"),
    ],
)
async def test_a_type_that_is_none_is_refused_by_its_field(
    callers: Callers, body: dict[str, Any], pointer: str | None
) -> None:
    status, answer = await put(callers.operator(), new_name(), **body)
    if pointer is None:
        assert status == 201
    else:
        assert (status, said(answer)) == (400, ("invalid_request", [pointer]))


EVIL_LINKS = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "\u0001javascript:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "//evil.example/x",
    "/\\\\evil.example",
    "\\\\evil.example",
    "https:/\\evil.example",
    "https:evil.example",
    "https://trusted.example@evil.example/",
    "https://trusted.example",
    "http://trusted.example/",
    "blob:https://x/y",
    "https://{{data.host}}/",
    "{{data.url}}",
    "https://x.example:{{data.port}}/",
    "invoices/7",
    "",
]


@pytest.mark.parametrize("link", EVIL_LINKS)
async def test_a_link_leads_to_a_host_that_the_operator_wrote(callers: Callers, link: str) -> None:
    status, answer = await put(callers.operator(), new_name(), link=link)
    assert (status, said(answer)[1]) == (400, ["/link"])


async def test_names_are_those_of_events(callers: Callers) -> None:
    for name in ("Upper", "a..b", "a%20b", "a.b%0A", "x" * 201, "é"):
        answer = await callers.operator().client.put(
            f"/api/v1/event-types/{name}", json={"category": "x"}
        )
        assert answer.status_code == 400, name


TRAP = "http://169.254.169.254/latest"


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"$ref": TRAP}, "/$ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "/$defs"),
        ({"$defs": {"a": {}}}, "/$defs"),
        ({"$dynamicRef": TRAP}, "/$dynamicRef"),
        ({"$schema": TRAP}, "/$schema"),
        ({"$id": "file:///etc/hostname"}, "/$id"),
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, "/properties/a/pattern"),
        ({"patternProperties": {"(a|aa)*$": {}}}, "/patternProperties"),
        ({"propertyNames": {"pattern": "x"}}, "/propertyNames"),
        ({"items": {"anyOf": [{}]}}, "/items/anyOf"),
        ({"allOf": [{}]}, "/allOf"),
        ({"oneOf": [{}]}, "/oneOf"),
        ({"not": {}}, "/not"),
        ({"uniqueItems": True}, "/uniqueItems"),
        ({"contains": {}}, "/contains"),
        ({"type": "strin"}, "/type"),
        ({"enum": []}, "/enum"),
        ({"enum": [{"a": 1}]}, "/enum"),
        ({"enum": list(range(101))}, "/enum"),
        ({"minLength": -1}, "/minLength"),
        ({"maxItems": 1.5}, "/maxItems"),
        ({"minimum": "0"}, "/minimum"),
        ({"required": "a"}, "/required"),
        ({"properties": {"a/b~c": 7}}, "/properties/a~1b~0c"),
        ({"items": [{}, {}]}, "/items"),
        ({"additionalProperties": "no"}, "/additionalProperties"),
        ({"description": "x" * 17_000}, ""),
    ],
)
async def test_a_schema_beyond_what_is_checked_is_refused_with_its_place(
    callers: Callers, schema: Any, pointer: str
) -> None:
    status, answer = await put(callers.operator(), new_name(), data_schema=schema)
    assert (status, said(answer)) == (400, ("invalid_schema", [f"/data_schema{pointer}"]))


HOSTNAME = "/etc/hostname"
NOTED: list[str] | None = None


def note(event: str, arguments: tuple[Any, ...]) -> None:
    """Note the files and addresses that this process opens; a hook stays for ever."""
    if NOTED is not None and event in ("open", "socket.connect", "socket.getaddrinfo"):
        NOTED.append(str(arguments[0] if event != "socket.connect" else arguments[1]))


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Watch what is opened, server and tests being one process."""
    global NOTED
    NOTED = []
    try:
        yield NOTED
    finally:
        NOTED = None


sys.addaudithook(note)


def test_the_watch_sees_what_a_library_would_do() -> None:
    with watched() as opened:
        Path(HOSTNAME).exists()
        with contextlib.suppress(OSError), open(HOSTNAME):
            pass
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), 1)
    assert any(HOSTNAME in path for path in opened)
    assert any("127.0.0.1" in address for address in opened)


async def test_a_schema_opens_nothing_wherever_it_points(own_database: TestDatabase) -> None:
    places = [TRAP, "http://127.0.0.1:9/", f"file://{HOSTNAME}", "other.json", "#/$defs/a"]
    words = ("$ref", "$dynamicRef", "$schema", "$id")
    async with running(own_database) as live, own_database.connect("postgres") as admin:
        callers = Callers(live)
        tenant, operator = await new_tenant(callers), callers.operator()
        # What somebody wrote past every check, with the rights of the owner.
        await admin.execute(
            "alter table annex.event_types drop constraint event_types_data_schema_check"
        )
        names = [f"planted.x{n}" for n in range(len(places))]
        for name, place in zip(names, places, strict=True):
            await admin.execute(
                "insert into annex.event_types (name, category, data_schema)"
                " values ($1, 'x', $2::text::jsonb)",
                name,
                encode({**dict.fromkeys(words, place), "properties": {"a": {"$ref": place}}}),
            )
        await publish(tenant.owner, tenant, type="test.made")  # what is opened once
        with watched() as opened:
            for place in places:
                for word in words:
                    status, _ = await put(operator, new_name(), data_schema={word: place})
                    assert status == 400
            for name in names:
                assert await publish(tenant.owner, tenant, type=name, data={"a": 1}) == (201, None)
                await admin.execute(
                    "select annex.publish($1, $2, data => $3::text::jsonb)",
                    UUID(tenant.id),
                    name,
                    encode({"a": 1}),
                )
        await callers.close()
    # The server measures its own memory now and then.
    assert [path for path in opened if not path.startswith("/proc/self/")] == []


async def test_schema_bombs_are_refused(callers: Callers) -> None:
    deep: dict[str, Any] = {}
    for _ in range(11):
        deep = {"items": deep}
    bodies = {
        "deep": encoded_schema(str(deep).replace("'", '"')),
        "deeper": encoded_schema('{"items":' * 10_000 + "{}" + "}" * 10_000),
        "numbers": encoded_schema('{"default": [' + ",".join(["1e131000"] * 2000) + "]}"),
        "wide": encoded_schema('{"default": [' + "0," * 400_000 + "0]}"),
        "infinite": encoded_schema('{"minimum": 1e400}'),
        "not a number": encoded_schema('{"minimum": NaN}'),
    }
    for name, body in bodies.items():
        answer = await callers.operator().client.put(
            f"/api/v1/event-types/{new_name()}",
            content=body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in (400, 413), (name, answer.text)


def encoded_schema(schema: str) -> bytes:
    return f'{{"category": "x", "data_schema": {schema}}}'.encode()


async def test_of_equal_names_in_a_schema_the_last_counts_as_in_data(
    callers: Callers, tenant: Tenant
) -> None:
    name = new_name()
    answer = await callers.operator().client.put(
        f"/api/v1/event-types/{name}",
        content=encoded_schema('{"type": "string", "type": "object"}'),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 201
    assert (await publish(tenant.owner, tenant, type=name, data={}))[0] == 201
    assert (await publish(tenant.owner, tenant, type=name, data="x"))[0] == 400


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"number": "7"}, None),
        ({"number": "7", "total": 0, "lines": [{"sku": 1, "more": True}]}, None),
        ({"number": "123456"}, "/number"),
        ({"number": 7}, "/number"),
        ({}, "/number"),
        ({"number": "7", "total": -0.1}, "/total"),
        ({"number": "7", "lines": [{"sku": 1}, {}]}, "/lines/1/sku"),
        ({"number": "7", "no/te": 1}, "/no~1te"),
        ([], ""),
        (None, ""),
    ],
)
async def test_data_that_do_not_fit_are_refused_by_every_way_with_their_place(
    callers: Callers, tenant: Tenant, data: Any, pointer: str | None
) -> None:
    name = new_name()
    await put(callers.operator(), name, data_schema=SCHEMA)
    client = tenant.owner.client
    event = {"type": name, "data": data}
    cloud = {"specversion": "1.0", "id": "1", "source": "x", **event}
    good = {"type": "test.other"}
    answers = {
        "": await client.post(f"{tenant.path}/events", json=event),
        "/1": await client.post(f"{tenant.path}/events/batch", json=[good, event]),
        "/0": await client.post(f"{tenant.path}/events/batch", json=[event]),
    }
    keyed = await client.post(f"{tenant.path}/events", json={**event, "key": "1", "source": "y"})
    cloudy = await client.post(
        f"{tenant.path}/events/cloudevents",
        json=cloud,
        headers={"Content-Type": "application/cloudevents+json"},
    )
    for within, answer in [*answers.items(), ("", keyed), ("", cloudy)]:
        if pointer is None:
            assert answer.status_code == 201
            continue
        assert answer.status_code == 400
        assert said(answer.json()) == ("invalid_data", [f"{within}/data{pointer}"])
    events = (await client.get(f"{tenant.path}/events?types=test.*")).json()["data"]
    assert len(events) == (6 if pointer is None else 0)


async def test_a_strict_workspace_takes_only_types_of_the_catalogue(
    callers: Callers, tenant: Tenant
) -> None:
    name = new_name()
    await put(callers.operator(), name)
    assert (await publish(tenant.owner, tenant, type="test.unknown"))[0] == 201
    path = tenant.path
    answer = await tenant.owner.client.patch(path, json={"strict_event_types": True})
    assert answer.json()["strict_event_types"] is True
    assert await publish(tenant.owner, tenant, type="test.unknown") == (
        400,
        ("unknown_event_type", ["/type"]),
    )
    batch = await tenant.owner.client.post(
        f"{path}/events/batch", json=[{"type": name}, {"type": "test.unknown"}]
    )
    assert said(batch.json()) == ("unknown_event_type", ["/1/type"])
    assert (await publish(tenant.owner, tenant, type=name))[0] == 201
    # Annex's own events are drawn all the same: the change above, and this one.
    assert (await tenant.owner.client.patch(path, json={"name": "Strict"})).status_code == 200
    own = (await tenant.owner.client.get(f"{path}/events?types=annex.*")).json()["data"]
    assert own[0]["type"] == "annex.workspace.updated"


async def test_a_changed_schema_counts_at_once(callers: Callers, tenant: Tenant) -> None:
    operator, name = callers.operator(), new_name()
    await put(operator, name, data_schema={"type": "object"})
    assert (await publish(tenant.owner, tenant, type=name, data=1))[0] == 400
    await put(operator, name)
    assert (await publish(tenant.owner, tenant, type=name, data=1))[0] == 201


async def test_annexs_own_types_have_texts_and_no_schema(callers: Callers) -> None:
    name = f"annex.test.{uuid4().hex[:8]}"
    assert (await put(callers.operator(), name, title="Hello"))[0] == 201
    status, answer = await put(callers.operator(), name, data_schema={})
    assert (status, said(answer)) == (400, ("invalid_schema", ["/data_schema"]))


async def test_the_catalogue_has_an_end(callers: Callers) -> None:
    async with callers.server.database.admin() as admin:
        prefix = f"full.{uuid4().hex[:8]}"
        await admin.execute(
            "insert into annex.event_types (name, category) select $1 || n, 'x'"
            " from generate_series(1, 1000) n",
            prefix,
        )
        status, answer = await put(callers.operator(), new_name())
        assert (status, answer["code"]) == (409, "limit_reached")
        assert (await put(callers.operator(), f"{prefix}1", category="y"))[0] == 200
        await admin.execute("delete from annex.event_types where name like $1", f"{prefix}%")


async def test_a_workspaces_id_in_the_answer_of_a_refusal_is_never_anothers(
    callers: Callers, tenant: Tenant
) -> None:
    name = new_name()
    await put(callers.operator(), name, data_schema=SCHEMA)
    answer = await tenant.owner.client.post(
        f"{tenant.path}/events", json={"type": name, "data": {"number": "secret-value"}}
    )
    # Says where, and nothing of what stood there.
    assert "secret-value" not in answer.text


async def test_every_change_of_the_catalogue_says_who_made_it(callers: Callers) -> None:
    name, operator = new_name(), callers.operator()
    await put(operator, name)
    await put(operator, name)
    await put(operator, name, is_critical=True)
    async with callers.server.database.admin() as admin:
        await admin.execute("update annex.event_types set title = 'By hand' where name = $1", name)
        trail = await admin.fetch(
            "select actor, previous ->> 'is_critical' as previous, record ->> 'is_critical' as now"
            " from annex.event_type_changes where name = $1 order by id",
            name,
        )
    made = "operator:oooooooooooo"
    assert [tuple(row) for row in trail] == [
        (made, None, "false"),
        (made, "false", "true"),
        ("system", "true", "true"),
    ]
