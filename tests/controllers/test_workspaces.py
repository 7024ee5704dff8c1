from tests.conftest import Callers, Tenant


async def test_its_creator_owns_a_workspace(tenant: Tenant) -> None:
    members = await tenant.owner.client.get(f"{tenant.path}/members")
    assert [(m["user_id"], m["role"]) for m in members.json()["data"]] == [
        (str(tenant.owner.user_id), "owner")
    ]


async def test_a_stranger_sees_404(callers: Callers, tenant: Tenant) -> None:
    stranger = await callers.user()
    response = await stranger.client.get(tenant.path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
