from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Caller, Callers, Tenant, add_member


async def test_a_workspaces_creator_is_its_owner(tenant: Tenant) -> None:
    members = (await tenant.owner.client.get(f"{tenant.path}/members")).json()["data"]
    assert [(m["user_id"], m["role"], m["status"]) for m in members] == [
        (str(tenant.owner.user_id), "owner", "active")
    ]


async def test_the_latest_joined_comes_first(callers: Callers, tenant: Tenant) -> None:
    joined = [await add_member(callers, tenant, role) for role in ("viewer", "member")]
    members = (await tenant.owner.client.get(f"{tenant.path}/members")).json()["data"]
    assert [m["user_id"] for m in members] == [
        str(c.user_id) for c in (*reversed(joined), tenant.owner)
    ]


async def test_a_member_shows_what_their_profile_says(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "viewer")
    await member.client.patch("/api/v1/me", json={"display_name": "Vera"})
    first = (await tenant.owner.client.get(f"{tenant.path}/members")).json()["data"][0]
    assert (first["display_name"], first["email"], first["role"]) == (
        "Vera",
        member.email,
        "viewer",
    )


async def test_suspended_members_are_listed_as_such(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "member")
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.members set status = 'suspended' where user_id = $1", member.user_id
        )
    first = (await tenant.owner.client.get(f"{tenant.path}/members")).json()["data"][0]
    assert (first["user_id"], first["status"]) == (str(member.user_id), "suspended")


async def test_members_are_listed_by_the_workspaces_slug_too(tenant: Tenant) -> None:
    response = await tenant.owner.client.get(f"/api/v1/workspaces/{tenant.slug}/members")
    assert response.status_code == 200


async def test_a_role_counts_from_the_next_request_on(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "member")
    path, body = f"{tenant.path}/events", {"type": "x"}
    assert (await member.client.post(path, json=body)).status_code == 201
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.members set role = 'viewer' where workspace_id = $1 and user_id = $2",
            UUID(tenant.id),
            member.user_id,
        )
    assert (await member.client.post(path, json=body)).status_code == 403


def path_of(tenant: Tenant, member: Caller) -> str:
    return f"{tenant.path}/members/{member.user_id}"


async def told(caller: Caller, method: str, path: str, **options: Any) -> tuple[int, str | None]:
    """Send a request; returns the status and, of a problem, the code."""
    answer = await caller.client.request(method, path, **options)
    return answer.status_code, answer.json()["code"] if answer.is_error else None


async def put_role(caller: Caller, tenant: Tenant, key: str, *permissions: str, **more: Any) -> int:
    body = {"name": key, "permissions": ["workspace:read", *permissions], **more}
    answer = await caller.client.put(f"{tenant.path}/roles/{key}", json=body)
    return answer.status_code


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "VERA"}, {"vera"}),
        ({"q": "%"}, set[str]()),
        ({"q": "_"}, set[str]()),
        ({"q": "@EXAMPLE.com"}, {"vera", "max", "owner"}),
        ({"role": "viewer"}, {"vera"}),
        ({"role": "viewer", "status": "suspended"}, set[str]()),
        ({"status": "suspended"}, {"max"}),
        ({"status": "active", "q": "example"}, {"vera", "owner"}),
        ({"role": "nosuch"}, set[str]()),
    ],
)
async def test_a_list_of_members_is_searched_and_narrowed(
    callers: Callers, tenant: Tenant, query: dict[str, str], found: set[str]
) -> None:
    vera = await add_member(callers, tenant, "viewer")
    await vera.client.patch("/api/v1/me", json={"display_name": "Vera"})
    suspended = await add_member(callers, tenant, "member")
    await tenant.owner.client.patch(path_of(tenant, suspended), json={"status": "suspended"})
    names = {
        str(vera.user_id): "vera",
        str(suspended.user_id): "max",
        str(tenant.owner.user_id): "owner",
    }
    answer = await tenant.owner.client.get(f"{tenant.path}/members", params=query)
    assert {names[m["user_id"]] for m in answer.json()["data"]} == found


@pytest.mark.parametrize("query", [{"q": ""}, {"role": "Owner"}, {"role": "a,b"}, {"status": "x"}])
async def test_a_search_that_is_none_is_refused(tenant: Tenant, query: dict[str, str]) -> None:
    answer = await tenant.owner.client.get(f"{tenant.path}/members", params=query)
    assert answer.status_code == 400


async def test_a_member_is_shown_with_an_etag(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "viewer")
    shown = await member.client.get(path_of(tenant, member))
    assert (shown.json()["role"], shown.json()["metadata"], shown.headers["etag"]) == (
        "viewer",
        {},
        '"1"',
    )
    etag = {"If-None-Match": shown.headers["etag"]}
    assert (await member.client.get(path_of(tenant, member), headers=etag)).status_code == 304


async def test_a_members_metadata_is_merged_and_cleared(callers: Callers, tenant: Tenant) -> None:
    path = path_of(tenant, await add_member(callers, tenant, "viewer"))
    steps: list[tuple[Any, Any]] = [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": {"b": None}, "d": [1, None]}, {"a": {"c": 2}, "d": [1, None]}),
        ({"a": "text"}, {"a": "text", "d": [1, None]}),
        ({}, {"a": "text", "d": [1, None]}),
        (None, {}),
    ]
    for patch, merged in steps:
        answer = await tenant.owner.client.patch(path, json={"metadata": patch})
        assert answer.json()["metadata"] == merged
    nothing = await tenant.owner.client.patch(path, json={})
    assert nothing.json() == answer.json()


async def test_metadata_is_bounded(callers: Callers, tenant: Tenant) -> None:
    path = path_of(tenant, await add_member(callers, tenant, "viewer"))
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    for metadata in ({"a": "x" * 16_384}, deep):
        answer = await tenant.owner.client.patch(path, json={"metadata": metadata})
        assert (answer.status_code, answer.json()["code"]) in ((400, "invalid_request"),)


async def test_only_the_version_that_was_seen_is_changed(callers: Callers, tenant: Tenant) -> None:
    path = path_of(tenant, await add_member(callers, tenant, "viewer"))
    for method, body in (("PATCH", {"role": "member"}), ("DELETE", None)):
        headers = {"If-Match": '"7"'}
        stale = await told(tenant.owner, method, path, headers=headers, json=body)
        assert stale == (412, "precondition_failed")
    assert (await tenant.owner.client.get(path)).json()["role"] == "viewer"


FIELDS = ["user_id", "workspace_id", "email", "joined_at", "created_at", "updated_at", "version"]


@pytest.mark.parametrize("field", [*FIELDS, "is_owner", "permissions"])
async def test_only_what_the_contract_names_is_written(
    callers: Callers, tenant: Tenant, field: str
) -> None:
    member = await add_member(callers, tenant, "viewer")
    before = (await tenant.owner.client.get(path_of(tenant, member))).json()
    body = {field: str(uuid4())}
    assert await told(tenant.owner, "PATCH", path_of(tenant, member), json=body) == (
        400,
        "invalid_request",
    )
    assert (await tenant.owner.client.get(path_of(tenant, member))).json() == before


ROLES = ("viewer", "member", "admin", "owner")


def may_act(actor: str, target: str) -> bool:
    """An oracle of our own: who may act on whom, and give what."""
    return actor == "owner" or (actor == "admin" and target != "owner")


@pytest.mark.parametrize("actor", ROLES)
@pytest.mark.parametrize("target", ROLES)
async def test_who_acts_on_whom(callers: Callers, tenant: Tenant, actor: str, target: str) -> None:
    acting = await add_member(callers, tenant, actor)
    acted_on = await add_member(callers, tenant, target)
    path = path_of(tenant, acted_on)
    manages = actor in ("admin", "owner")
    for body in ({"metadata": {"a": 1}}, {"status": "suspended"}, {"status": "active"}):
        status = (await told(acting, "PATCH", path, json=body))[0]
        assert status == (200 if may_act(actor, target) else 403), body
    for role in (*ROLES, target):
        before = (await tenant.owner.client.get(path)).json()["role"]
        refused = not (may_act(actor, before) and (role == before or may_act(actor, role)))
        answer = await told(acting, "PATCH", path, json={"role": role})
        code = "not_grantable" if manages else "forbidden"
        assert answer == ((403, code) if refused else (200, None)), role
        after = (await tenant.owner.client.get(path)).json()["role"]
        assert after == (before if refused else role)
        if not refused:
            await tenant.owner.client.patch(path, json={"role": target})
    gone = await told(acting, "DELETE", path)
    assert gone[0] == (204 if may_act(actor, target) else 403)


@pytest.mark.parametrize("actor", ["viewer", "member", "admin"])
async def test_nobody_raises_themselves(callers: Callers, tenant: Tenant, actor: str) -> None:
    me = await add_member(callers, tenant, actor)
    code = "not_grantable" if actor == "admin" else "forbidden"
    assert await told(me, "PATCH", path_of(tenant, me), json={"role": "owner"}) == (403, code)
    assert (await told(me, "PATCH", path_of(tenant, me), json={"status": "suspended"}))[0] == 403


async def test_an_owner_hands_over_and_steps_down(callers: Callers, tenant: Tenant) -> None:
    heir = await add_member(callers, tenant, "admin")
    me = path_of(tenant, tenant.owner)
    for method, body in (("PATCH", {"role": "admin"}), ("DELETE", None)):
        assert await told(tenant.owner, method, me, json=body) == (409, "last_owner")
    given = await told(tenant.owner, "PATCH", path_of(tenant, heir), json={"role": "owner"})
    assert given == (200, None)
    assert await told(tenant.owner, "PATCH", me, json={"role": "admin"}) == (200, None)
    # From here on the former owner is an admin like any other.
    assert await told(tenant.owner, "PATCH", me, json={"role": "owner"}) == (403, "not_grantable")
    assert await told(tenant.owner, "DELETE", path_of(tenant, heir)) == (403, "not_grantable")
    assert await told(tenant.owner, "DELETE", me) == (204, None)
    assert (await tenant.owner.client.get(tenant.path)).status_code == 404


async def test_a_suspended_owner_is_no_owner_to_rely_on(callers: Callers, tenant: Tenant) -> None:
    second = await add_member(callers, tenant, "owner")
    suspend = {"status": "suspended"}
    assert await told(tenant.owner, "PATCH", path_of(tenant, second), json=suspend) == (200, None)
    assert await told(tenant.owner, "DELETE", path_of(tenant, tenant.owner)) == (409, "last_owner")
    assert (await second.client.get(tenant.path)).status_code == 404


async def test_an_operator_gives_an_ownerless_workspace_an_owner(
    callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "viewer")
    async with callers.server.database.admin() as admin:
        await admin.execute("delete from auth.users where id = $1", tenant.owner.user_id)
    made = await told(callers.operator(), "PATCH", path_of(tenant, member), json={"role": "owner"})
    assert made == (200, None)


@pytest.mark.parametrize(
    "role",
    ["Owner", "OWNER", "\u043ewner", "owner,admin", "owner\u0000", "", " owner", "*", "nosuch"],
)
async def test_a_role_that_is_not_there_is_given_to_nobody(
    callers: Callers, tenant: Tenant, role: str
) -> None:
    path = path_of(tenant, await add_member(callers, tenant, "viewer"))
    answer = await tenant.owner.client.patch(path, json={"role": role})
    code = "unknown_role" if role == "nosuch" else "invalid_request"
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_without_a_second_factor_one_may_still_leave(
    callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "viewer")
    raised = await callers.user(aal="aal2", user_id=tenant.owner.user_id)
    await raised.client.patch(tenant.path, json={"require_aal2": True})
    assert await told(member, "DELETE", path_of(tenant, member)) == (204, None)


async def test_a_key_gives_only_the_roles_that_it_names(callers: Callers, tenant: Tenant) -> None:
    path = path_of(tenant, await add_member(callers, tenant, "viewer"))
    async with callers.server.database.admin() as admin:
        every = await admin.fetchval("select annex.permissions()")
    nothing = await callers.key(tenant.id, *every, grantable=[])
    some = await callers.key(tenant.id, *every, grantable=["viewer", "member"])
    weak = await callers.key(tenant.id, "workspace:read", "members:manage")
    for key, role, status in (
        (nothing, "member", 403),
        (some, "admin", 403),
        (weak, "member", 403),
        (some, "member", 200),
    ):
        assert (await told(key, "PATCH", path, json={"role": role}))[0] == status, role


async def test_members_are_no_more_than_the_limit(callers: Callers, tenant: Tenant) -> None:
    operator = callers.operator()
    assert await told(tenant.owner, "PATCH", tenant.path, json={"member_limit": 9}) == (
        403,
        "operator_required",
    )
    limited = await operator.client.patch(tenant.path, json={"member_limit": 1})
    assert limited.json()["member_limit"] == 1
    with pytest.raises(Exception, match="as many members"):
        await add_member(callers, tenant, "viewer")
    await operator.client.patch(tenant.path, json={"member_limit": None})
    await add_member(callers, tenant, "viewer")


async def test_each_change_is_an_event_with_before_and_after(
    callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "viewer")
    path = path_of(tenant, member)
    await tenant.owner.client.patch(path, json={"role": "member"})
    await tenant.owner.client.delete(path)
    answer = await tenant.owner.client.get(
        f"{tenant.path}/events", params={"topics": f"member:{member.user_id}"}
    )
    removed, changed, added = answer.json()["data"]
    assert [e["type"] for e in (added, changed, removed)] == [
        "annex.member.added",
        "annex.member.updated",
        "annex.member.removed",
    ]
    assert changed["data"]["previous"] == {"role": "viewer"}
    assert changed["data"]["record"]["role"] == "member"
    assert {e["principal"] for e in (changed, removed)} == {f"user:{tenant.owner.user_id}"}
    assert {e["permission"] for e in (added, changed, removed)} == {"members:read"}
