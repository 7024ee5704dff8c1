from typing import Any

import pytest

from app.permissions import Permission
from tests.conftest import Caller, Callers, Tenant, add_member

READ = "workspace:read"


async def put(
    caller: Caller, tenant: Tenant, key: str, *permissions: str, **more: Any
) -> tuple[int, Any]:
    """Put a role that holds workspace:read and more; returns the status and the body."""
    headers = more.pop("headers", {})
    body = {"name": key.title(), "permissions": [READ, *permissions], **more}
    answer = await caller.client.put(f"{tenant.path}/roles/{key}", json=body, headers=headers)
    return answer.status_code, answer.json()


async def holder(callers: Callers, tenant: Tenant, key: str, *held: str, **more: Any) -> Caller:
    """Make a member with a role of the workspace's own."""
    assert (await put(tenant.owner, tenant, key, *held, **more))[0] == 201
    return await add_member(callers, tenant, key)


async def test_the_builtin_roles_come_last(tenant: Tenant) -> None:
    await put(tenant.owner, tenant, "auditor", "events:read")
    roles = (await tenant.owner.client.get(f"{tenant.path}/roles")).json()["data"]
    assert [r["key"] for r in roles] == ["auditor", "owner", "admin", "member", "viewer"]
    assert [r["is_builtin"] for r in roles] == [False, True, True, True, True]


async def test_a_role_is_made_replaced_and_deleted(callers: Callers, tenant: Tenant) -> None:
    status, made = await put(tenant.owner, tenant, "auditor", "events:read", "events:read")
    assert (status, made["permissions"], made["version"]) == (201, [READ, "events:read"], 1)
    status, same = await put(tenant.owner, tenant, "auditor", "events:read")
    assert (status, same["version"]) == (200, 1)
    status, more = await put(tenant.owner, tenant, "auditor", "events:audit")
    assert (status, more["permissions"], more["version"]) == (200, [READ, "events:audit"], 2)
    path = f"{tenant.path}/roles/auditor"
    assert (await tenant.owner.client.delete(path)).status_code == 204
    assert (await tenant.owner.client.delete(path)).status_code == 404


@pytest.mark.parametrize(
    ("exists", "headers", "status"),
    [
        (False, {"If-None-Match": "*"}, 201),
        (True, {"If-None-Match": "*"}, 412),
        (False, {"If-Match": '"1"'}, 412),
        (False, {"If-Match": "*"}, 412),
        (True, {"If-Match": "*"}, 200),
        (True, {"If-Match": '"1"'}, 200),
        (True, {"If-Match": '"2"'}, 412),
        (True, {"If-Match": 'W/"1"'}, 412),
    ],
)
async def test_a_role_is_put_under_its_preconditions(
    tenant: Tenant, exists: bool, headers: dict[str, str], status: int
) -> None:
    if exists:
        await put(tenant.owner, tenant, "auditor")
    answer = await put(tenant.owner, tenant, "auditor", "events:read", headers=headers)
    assert answer[0] == status


@pytest.mark.parametrize("key", ["owner", "admin", "member", "viewer"])
async def test_a_builtin_role_stays(tenant: Tenant, key: str) -> None:
    assert (await put(tenant.owner, tenant, key))[0] == 403
    answer = await tenant.owner.client.delete(f"{tenant.path}/roles/{key}")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "body",
    [
        {"permissions": []},
        {"permissions": ["events:read"]},
        {"permissions": ["everything"]},
        {"grantable": ["nosuch"]},
        {"grantable": ["Owner"]},
        {"grantable": ["a,b"]},
        {"name": ""},
        {"key": "other"},
        {"workspace_id": "0190a000-0000-7000-8000-0000000000aa"},
        {"is_builtin": True},
    ],
)
async def test_a_role_that_is_none_is_refused(tenant: Tenant, body: dict[str, Any]) -> None:
    whole = {"name": "Auditor", "permissions": [READ], **body}
    answer = await tenant.owner.client.put(f"{tenant.path}/roles/auditor", json=whole)
    assert answer.status_code == 400
    assert answer.json()["code"] in ("invalid_request", "unknown_role")


async def test_a_role_that_is_held_stays(callers: Callers, tenant: Tenant) -> None:
    member = await holder(callers, tenant, "auditor", "events:read")
    path = f"{tenant.path}/roles/auditor"
    answer = await tenant.owner.client.delete(path)
    assert (answer.status_code, answer.json()["code"]) == (409, "role_in_use")
    await tenant.owner.client.delete(f"{tenant.path}/members/{member.user_id}")
    assert (await tenant.owner.client.delete(path)).status_code == 204


async def test_a_changed_role_counts_at_once(callers: Callers, tenant: Tenant) -> None:
    member = await holder(callers, tenant, "auditor", "events:read")
    path = f"{tenant.path}/events"
    assert (await member.client.get(path)).status_code == 200
    await put(tenant.owner, tenant, "auditor")
    assert (await member.client.get(path)).status_code == 403


MANAGES = ("roles:manage", "members:manage", "members:read", "roles:read", "keys:manage")


async def test_nobody_writes_a_role_above_themselves(callers: Callers, tenant: Tenant) -> None:
    author = await holder(callers, tenant, "lead", *MANAGES, grantable=["viewer", "*"])
    for permissions, more in (
        (["events:publish"], {}),
        ([], {"grantable": ["owner"]}),
        ([], {"grantable": ["member"]}),
        (["workspace:delete"], {}),
    ):
        status, body = await put(author, tenant, "mine", *permissions, **more)
        assert (status, body["code"]) == (403, "not_grantable"), (permissions, more)
    assert (await put(author, tenant, "mine", "roles:read", grantable=["*", "mine"]))[0] == 201


async def test_a_stronger_role_is_neither_changed_nor_given_nor_taken(
    callers: Callers, tenant: Tenant
) -> None:
    author = await holder(callers, tenant, "lead", *MANAGES, grantable=["viewer", "*"])
    strong = await holder(callers, tenant, "strong", "events:publish")
    guest = await add_member(callers, tenant, "viewer")
    refused = [
        await author.client.put(
            f"{tenant.path}/roles/strong", json={"name": "Weak", "permissions": [READ]}
        ),
        await author.client.delete(f"{tenant.path}/roles/strong"),
        await author.client.patch(
            f"{tenant.path}/members/{guest.user_id}", json={"role": "strong"}
        ),
        await author.client.patch(
            f"{tenant.path}/members/{strong.user_id}", json={"role": "viewer"}
        ),
        await author.client.delete(f"{tenant.path}/members/{strong.user_id}"),
        await author.client.post(
            f"{tenant.path}/api-keys", json={"name": "k", "permissions": ["events:publish"]}
        ),
        await author.client.post(
            f"{tenant.path}/api-keys",
            json={"name": "k", "permissions": [READ], "grantable": ["strong"]},
        ),
    ]
    assert [(a.status_code, a.json()["code"]) for a in refused] == [(403, "not_grantable")] * 7


async def test_nobody_changes_the_role_that_they_hold(callers: Callers, tenant: Tenant) -> None:
    author = await holder(callers, tenant, "lead", *MANAGES, grantable=["*"])
    for permissions in (MANAGES, (*MANAGES, "events:publish"), ()):
        status, body = await put(author, tenant, "lead", *permissions)
        assert (status, body["code"]) == (403, "forbidden")
    assert (await author.client.delete(f"{tenant.path}/roles/lead")).status_code == 403


async def test_who_may_not_give_a_role_does_not_widen_it(callers: Callers, tenant: Tenant) -> None:
    author = await holder(callers, tenant, "lead", *MANAGES, "events:read", grantable=["viewer"])
    await put(tenant.owner, tenant, "guest")
    status, body = await put(author, tenant, "guest", "events:read")
    assert (status, body["code"]) == (403, "not_grantable")


async def test_a_role_that_is_gone_is_nobodys_to_give(callers: Callers, tenant: Tenant) -> None:
    await put(tenant.owner, tenant, "guest")
    await put(tenant.owner, tenant, "lead", grantable=["guest", "viewer"])
    await tenant.owner.client.post(
        f"{tenant.path}/api-keys", json={"name": "k", "permissions": [READ], "grantable": ["guest"]}
    )
    assert (await tenant.owner.client.delete(f"{tenant.path}/roles/guest")).status_code == 204
    roles = (await tenant.owner.client.get(f"{tenant.path}/roles")).json()["data"]
    keys = (await tenant.owner.client.get(f"{tenant.path}/api-keys")).json()["data"]
    assert (roles[0]["key"], roles[0]["grantable"], keys[0]["grantable"]) == (
        "lead",
        ["viewer"],
        [],
    )


async def test_a_workspace_has_a_hundred_roles_of_its_own(callers: Callers, tenant: Tenant) -> None:
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "insert into annex.roles (workspace_id, key, name, permissions)"
            " select $1::uuid, 'r' || n, 'r', '{workspace:read}' from generate_series(1, 100) n",
            tenant.id,
        )
    status, body = await put(tenant.owner, tenant, "one-more")
    assert (status, body["code"]) == (409, "limit_reached")
    assert (await put(tenant.owner, tenant, "r1", "events:read"))[0] == 200


async def test_the_workspace_says_what_the_caller_may_do(callers: Callers, tenant: Tenant) -> None:
    auditor = await holder(callers, tenant, "auditor", "events:read")
    key = await callers.key(tenant.id, READ, "events:publish")
    everything = [*Permission]
    for caller, role, permissions in (
        (tenant.owner, "owner", everything),
        (auditor, "auditor", [READ, "events:read"]),
        (key, None, [READ, "events:publish"]),
        (callers.operator(), None, everything),
    ):
        one = (await caller.client.get(tenant.path)).json()
        assert (one["role"], one["permissions"]) == (role, permissions)
        listed = (await caller.client.get("/api/v1/workspaces", params={"limit": 100})).json()
        [same] = [w for w in listed["data"] if w["id"] == tenant.id]
        assert same == one
    changed = await tenant.owner.client.patch(tenant.path, json={"name": "New"})
    assert (changed.json()["role"], changed.json()["permissions"]) == ("owner", everything)


async def ask(caller: Caller, tenant: Tenant, *questions: dict[str, Any]) -> Any:
    answer = await caller.client.post(f"{tenant.path}/checks", json={"questions": [*questions]})
    assert answer.status_code == 200, answer.text
    return [(a["allowed"], a["reason"]) for a in answer.json()["data"]]


async def test_each_question_is_answered_with_its_reason(callers: Callers, tenant: Tenant) -> None:
    viewer = await add_member(callers, tenant, "viewer")
    suspended = await add_member(callers, tenant, "owner")
    await tenant.owner.client.patch(
        f"{tenant.path}/members/{suspended.user_id}", json={"status": "suspended"}
    )
    stranger = await callers.user()
    about = [str(c.user_id) for c in (viewer, suspended, stranger)]
    publish = {"permission": "events:publish"}
    read = {"permission": "events:read"}
    assert await ask(
        tenant.owner,
        tenant,
        publish,
        {**publish, "user_id": about[0]},
        {**read, "user_id": about[0]},
        {**read, "user_id": about[1]},
        {**read, "user_id": about[2]},
    ) == [
        (True, "granted"),
        (False, "missing_permission"),
        (True, "granted"),
        (False, "suspended"),
        (False, "not_a_member"),
    ]
    key = await callers.key(tenant.id, READ, "members:read")
    assert await ask(key, tenant, publish, {**read, "user_id": about[0]}) == [
        (False, "missing_permission"),
        (True, "granted"),
    ]


async def test_to_ask_about_others_takes_the_right_to_see_them(
    callers: Callers, tenant: Tenant
) -> None:
    auditor = await holder(callers, tenant, "auditor", "events:read")
    path, read = f"{tenant.path}/checks", {"permission": "events:read"}
    for user_id, status in ((auditor.user_id, 200), (tenant.owner.user_id, 403)):
        body = {"questions": [{**read, "user_id": str(user_id)}]}
        assert (await auditor.client.post(path, json=body)).status_code == status


async def test_a_missing_second_factor_is_a_reason(callers: Callers, tenant: Tenant) -> None:
    viewer = await add_member(callers, tenant, "viewer")
    raised = await callers.user(aal="aal2", user_id=tenant.owner.user_id)
    await raised.client.patch(tenant.path, json={"require_aal2": True})
    read = {"permission": "events:read"}
    assert await ask(viewer, tenant, read) == [(False, "second_factor_required")]
    other = {**read, "user_id": str(viewer.user_id)}
    assert await ask(raised, tenant, read, other) == [(True, "granted"), (True, "granted")]


@pytest.mark.parametrize("count", [0, 21])
async def test_so_many_questions_at_once(tenant: Tenant, count: int) -> None:
    body = {"questions": [{"permission": "events:read"}] * count}
    assert (await tenant.owner.client.post(f"{tenant.path}/checks", json=body)).status_code == 400
