from uuid import UUID

from tests.conftest import Callers, Tenant, add_member


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
    async with callers.server.database.connect("postgres") as admin:
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
    async with callers.server.database.connect("postgres") as admin:
        await admin.execute(
            "update annex.members set role = 'viewer' where workspace_id = $1 and user_id = $2",
            UUID(tenant.id),
            member.user_id,
        )
    assert (await member.client.post(path, json=body)).status_code == 403
