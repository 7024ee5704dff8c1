"""Attacks that others fell for, on all operations; docs/security.md lists each one and its test."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.bounds.test_canary import configured
from tests.conftest import ROOT, Caller, Callers, Tenant, add_member, new_tenant, read_contract
from tests.controllers.test_invitations import RESPOND, code, issue, link
from tests.operations import (
    DOCUMENT,
    IN_WORKSPACE,
    OPERATIONS,
    Operation,
    every,
    exchanged,
    named,
    path_of,
    resolved,
    smallest,
    status_of,
)
from tests.realtime.reader import cursor_at_head, follow

__all__ = ["configured"]
PAGE = (ROOT / "docs" / "security.md").read_text()
SECTIONS = {
    "Members and roles": {4, 14, 15, 20, 41, 42, 77, 78, 79, 80, 81},
    "Invitations": {8, 11, 18, 37, 38, 39, 40, 55, 75, 76, 87, 88, 89, 97},
    "Joining": {7, 19, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66},
    "API keys": {5, 6, 13, 16, 17, 24, 44, 83, 84, 85, 86},
    "Inbox and streams": {1, 9, 21, 22, 49, 53, 54, 70, 96},
    "Mail": {10, 12, 50, 51, 52, 56, 72, 73, 74},
    "Schemas and filters": {25, 26, 67, 68, 69, 71},
    "Audit": {33, 34, 35, 82},
    "Caches": {45, 46},
    "Postgres": {2, 3, 23, 27, 28, 29, 43, 47, 48, 90, 91, 92, 93, 94, 98},
    "Life cycle": {30, 31, 32, 36, 95},
}
ROW = re.compile(r"^\| (?P<row>\d+) \| (?P<attack>[^|]+) \| (?P<answer>[^|]+) \|$", re.MULTILINE)
PLACE = re.compile(r"`(?P<file>[\w/]+\.py)::(?P<test>\w+)`")


def test_every_attack_has_a_test_or_a_reason() -> None:
    rows = {int(found["row"]): found["answer"] for found in ROW.finditer(PAGE)}
    assert rows.keys() == set.union(*SECTIONS.values())
    for row, answer in rows.items():
        places = list(PLACE.finditer(answer))
        assert places or len(answer.split()) > 6, f"row {row} has neither a test nor a reason"
        for place in places:
            file = Path(ROOT, "tests", place["file"])
            assert file.exists(), (row, place[0])
            assert f"def {place['test']}(" in file.read_text(), (row, place[0])


# A question.
SILENT = {"checkPermissions"}
CHANGES = [o for o in IN_WORKSPACE if o.method != "get" and named(o) not in SILENT]
# What changes something where the smallest body does not.
BODIES: dict[str, Callable[[Caller], Any]] = {
    "setSubscribers": lambda member: {"add": [str(member.user_id)]},
    "updateWorkspacePreferences": lambda _: {"categories": {"news": {"email": False}}},
}
# Whatever a proxy or a client says of who it is.
POSING = {"X-User-Id": str(uuid4()), "X-Actor": "user:somebody", "X-Forwarded-User": "root"}


@pytest.mark.parametrize("operation", CHANGES, ids=named)
async def test_every_change_names_who_made_it(callers: Callers, operation: Operation) -> None:
    for kind in ("user", "api_key", "exchanged", "operator"):
        tenant = await new_tenant(callers)
        path = await path_of(callers, operation, tenant)
        key = await callers.key(tenant.id, *await every(callers))
        caller, name = {
            "user": (tenant.owner, f"user:{tenant.owner.user_id}"),
            "api_key": (key, f"api_key:{key.claims['sub']}"),
            "exchanged": (key, f"api_key:{key.claims['sub']}"),
            "operator": (callers.operator(), "operator:oooooooooooo"),
        }[kind]
        if kind == "exchanged":
            caller = await exchanged(callers, key)
        caller.client.headers.update(POSING)
        member = await add_member(callers, tenant, "viewer")
        before = {event["event_id"] for event in await events(callers, tenant)}
        if body := BODIES.get(named(operation)):
            answer = await caller.client.request(operation.method, path, json=body(member))
            status = answer.status_code
        elif operation.method == "patch":  # the smallest one changes nothing
            answer = await caller.client.patch(path, json={"metadata": {"seen": True}})
            status = answer.status_code
        else:
            status = await status_of(callers, caller, operation, path)
        made = [e for e in await events(callers, tenant) if e["event_id"] not in before]
        makes_keys = named(operation) in ("createApiKey", "rotateApiKey")
        if (named(operation) == "createJoinRule" and kind in ("api_key", "exchanged")) or (
            makes_keys and kind == "exchanged"
        ):
            assert (status, made) == (403, [])
            continue
        assert status // 100 == 2
        assert made, kind
        assert {(e["actor"], e["principal"]) for e in made} == {(name, name)}, kind


async def events(callers: Callers, tenant: Tenant) -> list[Any]:
    """Read what the log holds of a workspace, behind every policy."""
    async with callers.server.database.admin() as admin:
        return list(
            await admin.fetch(
                "select * from annex.events where workspace_id = $1 order by event_id",
                UUID(tenant.id),
            )
        )


WITH_A_BODY = [
    o
    for o in OPERATIONS
    if "application/json" in resolved(o.spec.get("requestBody", {})).get("content", {})
]
PATCHED = {
    "updateMe": "profiles",
    "updateWorkspace": "workspaces",
    "updateMember": "members",
    "putRole": "roles",
}


@pytest.mark.parametrize("operation", WITH_A_BODY, ids=named)
async def test_no_body_takes_a_field_that_it_does_not_name(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    content = resolved(operation.spec["requestBody"])["content"]["application/json"]
    body, schema = smallest(content["schema"]), resolved(content["schema"])
    path = re.sub(r"\{\w+_id\}", str(uuid4()), operation.path)
    path = re.sub(r"\{\w+\}", "test.made", path)
    if operation in IN_WORKSPACE:
        path = await path_of(callers, operation, tenant)
    names = {"actor", "principal", "created_by", "user_id", "workspace_id", "is_admin", "redirect"}
    async with callers.server.database.admin() as admin:
        names |= {
            row[0]
            for row in await admin.fetch(
                "select attname::text from pg_attribute where attrelid = $1::regclass"
                " and attnum > 0 and not attisdropped",
                f"annex.{PATCHED.get(named(operation), 'workspaces')}",
            )
        }
    client = tenant.owner.client
    if operation.permission == "key":
        client = (await callers.key(tenant.id, "workspace:read")).client
    elif operation.permission == "operator":
        client = callers.operator().client
    before = await client.get(tenant.path)
    fields = resolved(schema.get("items", schema))["properties"].keys()
    for name in sorted(names - fields):
        sent = {**body, name: "x"} if isinstance(body, dict) else [{**body[0], name: "x"}]
        answer = await client.request(operation.method.upper(), path, json=sent)
        assert code(answer) == (400, "invalid_request"), name
    assert (await client.get(tenant.path)).text == before.text


async def test_what_only_an_operator_changes_is_not_given_at_creation(callers: Callers) -> None:
    schemas = DOCUMENT["components"]["schemas"]
    later = schemas["WorkspacePatch"]["properties"].keys()
    first = schemas["WorkspaceCreate"]["properties"].keys()
    # Whoever creates a workspace owns it, and so may change all the rest.
    assert later - first == {"member_limit", "strict_event_types"}
    owner = await callers.user()
    body = {"name": "x", "member_limit": 1}
    assert (await owner.client.post("/api/v1/workspaces", json=body)).status_code == 400


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_a_deleted_workspace_answers_nobody(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    path = await path_of(callers, operation, tenant)
    key = await callers.key(tenant.id, *await every(callers))
    everybody: list[tuple[Caller, set[int]]] = [
        (tenant.owner, {404}),
        (await add_member(callers, tenant, "admin"), {404}),
        (callers.operator(), {404}),
        (key, {401}),
        (await exchanged(callers, key), {401, 404}),
    ]
    assert (await tenant.owner.client.delete(tenant.path)).status_code == 204
    for caller, expected in everybody:
        assert await status_of(callers, caller, operation, path) in expected, caller.claims


async def test_what_was_sent_out_never_leads_to_the_next_holder_of_a_slug(callers: Callers) -> None:
    slug = f"s-{uuid4().hex[:12]}"
    old = await new_tenant(callers, slug=slug)
    follower, guest = await callers.user(), await callers.user()
    [mailed] = await issue(old.owner, old, str(guest.email))
    open_link = await link(old, max_uses=10)
    rule = (
        await callers.operator().client.post(
            f"{old.path}/join-rules", json={"kind": "sso", "value": str(uuid4()), "role": "member"}
        )
    ).json()["id"]
    key = await callers.key(old.id, *await every(callers))
    token = await exchanged(callers, key)
    by_slug = f"/api/v1/workspaces/{slug}"
    ticket = await old.owner.client.post(
        "/api/v1/stream/tickets", json={"path": f"{by_slug}/stream"}
    )
    cursor = cursor_at_head(callers.server, old)
    await old.owner.client.delete(old.path)
    new = await new_tenant(callers, slug=slug)
    await new.owner.client.post(f"{new.path}/events", json={"type": "secret.made"})

    for user, answer in (
        (guest, {"token": mailed["token"]}),
        (guest, {"invitation_id": mailed["invitation_id"]}),
        (follower, {"token": open_link}),
        (follower, {"join_rule_id": rule}),
    ):
        refused = await user.client.post(RESPOND, json={**answer, "accept": True})
        assert refused.status_code in (404, 410), answer
    for caller in (old.owner, key, token):
        assert (await caller.client.get(by_slug)).status_code in (401, 404)
    async with follow(callers.client(), ticket.json()["url"]) as reader:
        assert (await reader.message()).event == "unauthorized"
    # A cursor of the old one is no place in the new one's log.
    async with follow(new.owner.client, f"{by_slug}/stream", cursor) as reader:
        assert (await reader.message()).event == "reset"
    members = (await new.owner.client.get(f"{new.path}/members")).json()["data"]
    assert [m["user_id"] for m in members] == [str(new.owner.user_id)]


async def test_an_invitation_tells_nothing_about_an_address(
    callers: Callers, tenant: Tenant
) -> None:
    elsewhere, gone = await new_tenant(callers), await callers.user()
    async with callers.server.database.admin() as admin:
        await admin.execute("delete from auth.users where id = $1", gone.user_id)
    addresses = [
        f"{uuid4().hex}@example.com",
        (await callers.user(is_confirmed=False)).email,
        (await callers.user()).email,
        elsewhere.owner.email,
        gone.email,
    ]
    said = []
    for address in addresses:
        answer = await tenant.owner.client.post(
            f"{tenant.path}/invitations", json={"role": "viewer", "emails": [address]}
        )
        [made] = answer.json()["data"]
        for name in ("email", "invitation_id", "token", "accept_url"):
            assert (made.pop(name) is None) == (name == "accept_url"), made
        headers = {n for n in answer.headers if n not in ("date", "x-request-id")}
        said.append((answer.status_code, made, headers))
    assert all(each == said[0] for each in said)


async def test_a_replay_asks_for_the_right_again(callers: Callers, tenant: Tenant) -> None:
    admin = await add_member(callers, tenant, "admin")
    path, headers = f"{tenant.path}/api-keys", {"Idempotency-Key": "k"}
    body = {"name": "CI", "permissions": ["events:publish"]}
    assert (await admin.client.post(path, json=body, headers=headers)).status_code == 201
    member = f"{tenant.path}/members/{admin.user_id}"
    await tenant.owner.client.patch(member, json={"role": "viewer"})
    refused = await admin.client.post(path, json=body, headers=headers)
    assert code(refused) == (403, "forbidden")
    await tenant.owner.client.delete(member)
    assert code(await admin.client.post(path, json=body, headers=headers)) == (404, "not_found")


FORGED = 'x"\n{"level": "info", "event": "forged"}\r\n\x1b[31m\u202e\u2028'


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("configured", ["production"], indirect=True)
def test_a_text_stays_one_field_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    import structlog

    structlog.get_logger().warning("refused", path=FORGED, name=FORGED * 100_000)
    logging.getLogger("library").warning("argument %s", FORGED)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(json.loads(line)["level"] == "warning" for line in lines)
    assert json.loads(lines[0])["path"] == FORGED
    assert max(map(len, lines)) < 20_000


RANDOM_OR_OURS = {
    # Our own random ids, hashes and prefixes.
    "invitations_token_hash_key",
    "api_keys_prefix_key",
    "api_keys_replaced_by_key",
    "mails_open_key",
    "mails_notification_id_key",
    "unsubscribe_tokens_pkey",
    # Positions of the one log.
    "log_event_id_idx",
    # A domain and a provider have one rule in all workspaces: docs/security.md, "Joining".
    "join_rules_kind_value_key",
}


async def test_nothing_that_a_caller_names_is_unique_across_workspaces(callers: Callers) -> None:
    async with callers.server.database.admin() as admin:
        found = await admin.fetch("""
            select i.indexrelid::regclass::text as name, array_agg(a.attname::text) as columns
            from pg_index i join pg_class c on c.oid = i.indrelid
            join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)
            where i.indisunique and c.relnamespace = 'annex'::regnamespace
              and not c.relispartition and exists (
                select from pg_attribute w
                where w.attrelid = c.oid and w.attname = 'workspace_id'
              )
            group by 1
            """)
    own = {"workspace_id", "id", "event_id", "pos"}
    wrong = {
        row["name"].removeprefix("annex.") for row in found if not own & {*row["columns"]}
    } - RANDOM_OR_OURS
    assert wrong == set()


def test_the_contract_is_the_one_that_the_matrix_reads() -> None:
    assert read_contract() == DOCUMENT
