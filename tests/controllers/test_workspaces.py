import asyncio
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import NOBODYS_ID, Callers, Tenant, add_member, new_tenant

WORKSPACES = "/api/v1/workspaces"


async def test_its_creator_owns_a_workspace(tenant: Tenant) -> None:
    members = await tenant.owner.client.get(f"{tenant.path}/members")
    assert [(m["user_id"], m["role"]) for m in members.json()["data"]] == [
        (str(tenant.owner.user_id), "owner")
    ]


async def test_a_stranger_sees_404(callers: Callers, tenant: Tenant) -> None:
    stranger = await callers.user()
    response = await stranger.client.get(tenant.path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_new_workspace_says_where_it_is(callers: Callers) -> None:
    user = await callers.user()
    body = {"name": "Globex", "external_id": "crm-7", "metadata": {"plan": "pro"}}
    response = await user.client.post(WORKSPACES, json=body)
    made = response.json()
    assert (response.status_code, response.headers["etag"]) == (201, '"1"')
    assert {k: made[k] for k in body} == body
    shown = await user.client.get(response.headers["location"])
    assert shown.json() == made


async def test_a_slug_is_made_from_the_name(callers: Callers) -> None:
    unique = uuid4().hex
    tenant = await new_tenant(callers, name=f"  Ünïque & {unique}! ")
    assert tenant.slug == f"unique-{unique}"


async def test_a_name_without_latin_letters_gets_a_slug_all_the_same(callers: Callers) -> None:
    assert (await new_tenant(callers, name="株式会社")).slug.startswith("workspace")


async def test_two_workspaces_of_the_same_name_get_two_slugs(callers: Callers) -> None:
    name = f"Same {uuid4().hex}"
    first, second = [await new_tenant(callers, name=name) for _ in range(2)]
    assert second.slug.startswith(first.slug)
    assert second.slug != first.slug


async def test_a_taken_slug_is_a_conflict(callers: Callers, tenant: Tenant) -> None:
    other = await new_tenant(callers)
    for response in (
        await other.owner.client.post(WORKSPACES, json={"name": "x", "slug": tenant.slug}),
        await other.owner.client.patch(other.path, json={"slug": tenant.slug}),
    ):
        assert (response.status_code, response.json()["code"]) == (409, "slug_taken")


@pytest.mark.parametrize(
    "slug", [NOBODYS_ID, "Upper", "-dash", "dash-", "", "x" * 64, "new\nline", "end\n", "ümlaut"]
)
async def test_a_slug_is_a_plain_name_that_no_id_looks_like(callers: Callers, slug: str) -> None:
    user = await callers.user()
    response = await user.client.post(WORKSPACES, json={"name": "x", "slug": slug})
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == ["/slug"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"name": None}, "/name"),
        ({"name": "x", "slug": None}, "/slug"),
        ({"name": "x", "external_id": ""}, "/external_id"),
        ({"name": "x", "metadata": []}, "/metadata"),
        ({"name": "x", "metadata": {"a": "x" * 16400}}, "/metadata"),
        ({"name": "x", "require_aal2": "yes"}, "/require_aal2"),
    ],
)
async def test_a_bad_field_is_named(callers: Callers, body: Any, pointer: str) -> None:
    response = await (await callers.user()).client.post(WORKSPACES, json=body)
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [pointer]


@pytest.mark.parametrize("body", [{}, {"name": "x", "nonsense": 1}, [], "x", None])
async def test_a_body_of_another_shape_is_refused(callers: Callers, body: Any) -> None:
    response = await (await callers.user()).client.post(
        WORKSPACES, json=body, headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


# What JSON can say and Postgres cannot store, or no parser should follow.
HOSTILE = [
    b'{"name": "a\\u0000b"}',
    b'{"name": "\\ud800"}',
    b'{"name": "\xff"}',
    b'{"name": "x", "metadata": {"a": "\\u0000"}}',
    b'{"name": "x", "metadata": {"a": "\\udc00"}}',
    b'{"name": "x", "metadata": {"\\u0000": 1}}',
    b'{"name": "x", "metadata": {"a": 1e400}}',
    b'{"name": "x", "metadata": {"a": ' + b"9" * 5000 + b"}}",
    b'{"name": "x", "metadata": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
    b'{"name": ' + b"[" * 100_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
async def test_what_cannot_be_stored_is_refused_and_not_a_failure(
    callers: Callers, body: bytes
) -> None:
    user = await callers.user()
    headers = {"Content-Type": "application/json"}
    response = await user.client.post(WORKSPACES, content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_patch_refuses_the_same(tenant: Tenant, body: bytes) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    response = await tenant.owner.client.patch(tenant.path, content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


async def test_keys_and_operators_create_no_workspace(callers: Callers, tenant: Tenant) -> None:
    for caller in (await callers.key(tenant.id, "workspace:read"), callers.operator()):
        response = await caller.client.post(WORKSPACES, json={"name": "x"})
        assert (response.status_code, response.json()["code"]) == (403, "user_required")


async def test_a_user_lists_only_workspaces_they_are_active_in(callers: Callers) -> None:
    mine, others = [await new_tenant(callers) for _ in range(2)]
    joined = await new_tenant(callers)
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "insert into annex.members (workspace_id, user_id, role, status) values"
            " ($1, $3, 'viewer', 'active'), ($2, $3, 'viewer', 'suspended')",
            joined.id,
            others.id,
            mine.owner.user_id,
        )
    listed = (await mine.owner.client.get(WORKSPACES)).json()["data"]
    assert [w["id"] for w in listed] == [joined.id, mine.id]


async def test_a_key_lists_its_own_workspace(callers: Callers, tenant: Tenant) -> None:
    key = await callers.key(tenant.id, "workspace:read")
    assert [w["id"] for w in (await key.client.get(WORKSPACES)).json()["data"]] == [tenant.id]


async def test_an_operator_lists_all_workspaces(callers: Callers) -> None:
    made = [await new_tenant(callers) for _ in range(2)]
    listed = (await callers.operator().client.get(WORKSPACES)).json()["data"]
    assert [w["id"] for w in listed[:2]] == [t.id for t in reversed(made)]


async def test_a_workspace_shows_by_id_in_any_case_and_by_slug(tenant: Tenant) -> None:
    for name in (tenant.id, tenant.id.upper(), tenant.slug):
        response = await tenant.owner.client.get(f"{WORKSPACES}/{name}")
        assert (response.status_code, response.json()["id"]) == (200, tenant.id)


@pytest.mark.parametrize("name", ["no-such", NOBODYS_ID, "x" * 64, "%ff", "a%2Fb", "%20"])
async def test_a_workspace_that_is_none_is_not_found(callers: Callers, name: str) -> None:
    response = await (await callers.user()).client.get(f"{WORKSPACES}/{name}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_an_unchanged_workspace_is_not_sent_again(tenant: Tenant) -> None:
    response = await tenant.owner.client.get(tenant.path, headers={"If-None-Match": '"1"'})
    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
async def test_metadata_merges_recursively(callers: Callers, media_type: str) -> None:
    tenant = await new_tenant(callers, metadata={"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 3})
    patch = {"metadata": {"a": {"b": None, "x": {"y": None, "z": 1}}, "d": [3], "e": {"f": None}}}
    response = await tenant.owner.client.patch(
        tenant.path, json=patch, headers={"Content-Type": media_type}
    )
    assert response.json()["metadata"] == {"a": {"c": 2, "x": {"z": 1}}, "d": [3], "e": {}}


async def test_who_may_change_a_workspace_but_not_see_it_is_told_so(
    callers: Callers, tenant: Tenant
) -> None:
    key = await callers.key(tenant.id, "workspace:update")
    response = await key.client.patch(tenant.path, json={"name": "New"})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_null_metadata_becomes_empty(callers: Callers) -> None:
    tenant = await new_tenant(callers, metadata={"a": 1})
    response = await tenant.owner.client.patch(tenant.path, json={"metadata": None})
    assert response.json()["metadata"] == {}


async def test_merged_metadata_may_not_grow_over_its_limit(callers: Callers) -> None:
    tenant = await new_tenant(callers, metadata={"a": "x" * 10_000})
    response = await tenant.owner.client.patch(tenant.path, json={"metadata": {"b": "x" * 10_000}})
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == ["/metadata"]


async def test_a_patch_leaves_what_is_absent_and_clears_what_is_null(callers: Callers) -> None:
    tenant = await new_tenant(callers, external_id="crm-7", metadata={"a": 1})
    patched = (await tenant.owner.client.patch(tenant.path, json={"external_id": None})).json()
    assert (patched["external_id"], patched["metadata"], patched["version"]) == (None, {"a": 1}, 2)


async def test_a_workspace_says_for_how_many_days_its_events_stay(callers: Callers) -> None:
    tenant = await new_tenant(callers, event_retention_days=30)
    seen = []
    for days in (7, None, 3650):
        change = {"event_retention_days": days}
        answer = await tenant.owner.client.patch(tenant.path, json=change)
        seen.append(answer.json()["event_retention_days"])
    assert seen == [7, None, 3650]


async def test_the_days_that_events_stay_are_unset_at_first(tenant: Tenant) -> None:
    answer = await tenant.owner.client.get(tenant.path)
    assert answer.json()["event_retention_days"] is None


@pytest.mark.parametrize("days", [0, -1, 3651, 1.5, "7", True])
async def test_days_that_cannot_be_are_refused(days: object, tenant: Tenant) -> None:
    for send, path in (
        (tenant.owner.client.patch, tenant.path),
        (tenant.owner.client.post, WORKSPACES),
    ):
        answer = await send(path, json={"name": "x", "event_retention_days": days})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["pointer"] == "/event_retention_days"


@pytest.mark.parametrize("role", ["viewer", "member"])
async def test_the_days_that_events_stay_need_the_right_to_change_the_workspace(
    role: str, callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, role)
    answer = await member.client.patch(tenant.path, json={"event_retention_days": 1})
    assert answer.status_code == 403


@pytest.mark.parametrize("field", ["name", "slug", "require_aal2"])
async def test_what_every_workspace_has_cannot_be_cleared(tenant: Tenant, field: str) -> None:
    response = await tenant.owner.client.patch(tenant.path, json={field: None})
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [f"/{field}"]


async def test_a_patch_that_changes_nothing_keeps_the_version(tenant: Tenant) -> None:
    response = await tenant.owner.client.patch(tenant.path, json={"slug": tenant.slug})
    assert response.headers["etag"] == '"1"'


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("tag", "status"), [('"1"', 200), ('"0", "1"', 200), ("*", 200), ('"2"', 412), ("1", 400)]
)
async def test_if_match_guards_a_change(tenant: Tenant, method: str, tag: str, status: int) -> None:
    response = await tenant.owner.client.request(
        method,
        tenant.path,
        headers={"If-Match": tag},
        json={"name": "New"} if method == "PATCH" else None,
    )
    assert response.status_code == (204 if method == "DELETE" and status == 200 else status)


async def test_of_changes_to_the_same_version_one_succeeds(tenant: Tenant) -> None:
    answers = await asyncio.gather(
        *(
            tenant.owner.client.patch(
                tenant.path, json={"name": f"Name {n}"}, headers={"If-Match": '"1"'}
            )
            for n in range(6)
        )
    )
    assert sorted(a.status_code for a in answers) == [200, *[412] * 5]


async def test_a_deleted_workspace_is_out_of_everybodys_sight(
    callers: Callers, tenant: Tenant
) -> None:
    key = await callers.key(tenant.id, "workspace:read")
    assert (await tenant.owner.client.delete(tenant.path)).status_code == 204
    assert (await tenant.owner.client.get(tenant.path)).status_code == 404
    assert (await tenant.owner.client.delete(tenant.path)).status_code == 404
    assert (await callers.operator().client.get(tenant.path)).status_code == 404
    assert (await key.client.get(tenant.path)).status_code == 401
    assert (await tenant.owner.client.get(WORKSPACES)).json()["data"] == []


async def test_of_deletions_at_once_one_succeeds(tenant: Tenant) -> None:
    answers = await asyncio.gather(*(tenant.owner.client.delete(tenant.path) for _ in range(5)))
    assert sorted(a.status_code for a in answers) == [204, 404, 404, 404, 404]


async def test_the_slug_of_a_deleted_workspace_is_free(callers: Callers, tenant: Tenant) -> None:
    await tenant.owner.client.delete(tenant.path)
    assert (await new_tenant(callers, slug=tenant.slug)).id != tenant.id


async def test_changes_are_events_that_name_who_made_them(callers: Callers) -> None:
    tenant = await new_tenant(callers, name="Old")
    await tenant.owner.client.patch(tenant.path, json={"name": "New"})
    event = (await tenant.owner.client.get(f"{tenant.path}/events")).json()["data"][0]
    assert (event["type"], event["actor"]) == (
        "annex.workspace.updated",
        f"user:{tenant.owner.user_id}",
    )
    assert event["data"]["previous"] == {"name": "Old"}


async def test_who_has_no_second_factor_cannot_demand_one(tenant: Tenant) -> None:
    for response in (
        await tenant.owner.client.patch(tenant.path, json={"require_aal2": True}),
        await tenant.owner.client.post(WORKSPACES, json={"name": "x", "require_aal2": True}),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "second_factor_required")


async def test_a_demanded_second_factor_holds_for_all_but_a_look(
    callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "admin")
    raised = await callers.user(aal="aal2", user_id=tenant.owner.user_id)
    answer = await raised.client.patch(tenant.path, json={"require_aal2": True})
    assert answer.json()["require_aal2"] is True
    assert (await member.client.get(tenant.path)).status_code == 200
    refused = await member.client.get(f"{tenant.path}/events")
    assert (refused.status_code, refused.json()["code"]) == (403, "second_factor_required")
    assert (await raised.client.get(f"{tenant.path}/events")).status_code == 200
