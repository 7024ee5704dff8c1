"""Who gets what from every operation, computed from the contract and the roles table."""

import re
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import pytest
import yaml

from tests.conftest import CONTRACT, Caller, Callers, Tenant, add_member, new_tenant

METHODS = ("get", "post", "put", "patch", "delete")
DOCUMENT: dict[str, Any] = yaml.safe_load(CONTRACT.read_text())


class Operation(NamedTuple):
    """One operation of the contract."""

    method: str
    path: str
    permission: str
    spec: dict[str, Any]


OPERATIONS = [
    Operation(method, path, item[method]["x-permission"], item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in METHODS
    if method in item
]
IN_WORKSPACE = [o for o in OPERATIONS if "{ws}" in o.path]
ELSEWHERE = [o for o in OPERATIONS if "{ws}" not in o.path]


def named(operation: Operation) -> str:
    return str(operation.spec["operationId"])


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference of the contract."""
    while "$ref" in node:
        found = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def smallest(schema: dict[str, Any]) -> Any:
    """Make a valid value with as little in it as the contract allows."""
    schema = resolved(schema)
    if "example" in schema:
        return schema["example"]
    if "enum" in schema:
        return schema["enum"][0]
    if "oneOf" in schema:
        return smallest(schema["oneOf"][0])
    match schema.get("type"):
        case "object":
            return {n: smallest(schema["properties"][n]) for n in schema.get("required", [])}
        case "array":
            return [smallest(schema["items"])] * schema.get("minItems", 0)
        case "boolean":
            return False
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "string":
            text = str(uuid4()) if schema.get("format") == "uuid" else "a"
            assert re.search(schema.get("pattern", ""), text), f"give {schema} an example"
            return text
    return {}


async def new_invitation(callers: Callers, tenant: Tenant, path: str) -> dict[str, Any]:
    """Invite somebody; for what is approved, make a user's request."""
    user = await callers.user()
    body = {"role": "viewer", "emails": [user.email]}
    made = (await tenant.owner.client.post(f"{tenant.path}/invitations", json=body)).json()
    invitation = made["data"][0]["invitation_id"]
    if path.endswith("/approve"):
        async with callers.server.database.connect("postgres") as admin:
            await admin.execute("insert into annex.profiles (user_id) values ($1)", user.user_id)
            await admin.execute(
                "update annex.invitations set status = 'requested', user_id = $2 where id = $1",
                UUID(invitation),
                user.user_id,
            )
    return {"id": invitation}


async def new_join_rule(callers: Callers, tenant: Tenant, _: str) -> dict[str, Any]:
    """Make a rule of a provider that nobody has."""
    body = {"kind": "sso", "value": str(uuid4()), "role": "viewer"}
    path = f"{tenant.path}/join-rules"
    made: dict[str, Any] = (await callers.operator().client.post(path, json=body)).json()
    return made


SEEDS = {"invitations": new_invitation, "join-rules": new_join_rule}
"""Makes what an operation names, in a workspace that has none, or uses it up."""
GIVES = {"createInvitations", "resendInvitation", "approveInvitation"}
"""Operations that give the role of a viewer, and so take its permissions too."""


async def path_of(callers: Callers, operation: Operation, tenant: Tenant) -> str:
    """Fill a path in; what it names in the workspace is the first in the list above it."""
    path = operation.path.replace("{ws}", tenant.id)
    while found := re.search(r"/\{(\w+)\}", path):
        above = path[: found.start()]
        items = (await tenant.owner.client.get(above)).json()["data"]
        if seed := SEEDS.get(above.rpartition("/")[2]):
            items = [await seed(callers, tenant, path)]
        if above.endswith("/events"):
            # Annex's own name a permission each; one of the workspace's own does not.
            made = await tenant.owner.client.post(above, json={"type": "test.made"})
            items = [made.json()]
        assert items, f"{above} is empty in a new workspace: make one for {operation.path}"
        name = found[1] if found[1] in items[0] else "id"
        path = f"{above}/{items[0][name]}{path[found.end() :]}"
    return path


async def claimable(callers: Callers, caller: Caller) -> str:
    """Let a caller sign in by an SSO provider of their own, which they may then claim."""
    provider = str(uuid4())
    async with callers.server.database.connect("postgres") as admin:
        await admin.execute(
            "update auth.users set raw_app_meta_data = jsonb_build_object('provider', $2::text)"
            " where id = $1",
            caller.user_id,
            f"sso:{provider}",
        )
    return provider


async def status_of(callers: Callers, caller: Caller, operation: Operation, path: str) -> int:
    """Call an operation and return the status; a stream is closed right away."""
    options: dict[str, Any] = {}
    if body := resolved(operation.spec.get("requestBody", {})).get("content"):
        media_type = next(iter(body))
        options["json"] = smallest(body[media_type]["schema"])
        if named(operation) == "createJoinRule":
            options["json"] |= {"value": await claimable(callers, caller)}
        options["headers"] = {"Content-Type": media_type}
    method, client = operation.method.upper(), caller.client
    if "x-stream" not in operation.spec:
        return (await client.request(method, path, **options)).status_code
    # Not our client: it would read to the stream's end before it validates.
    async with (
        httpx.AsyncClient(base_url=client.base_url, headers=client.headers) as plain,
        plain.stream(method, path, **options) as response,
    ):
        return response.status_code


async def role_of(callers: Callers, tenant: Tenant, role: str, status: str = "active") -> Caller:
    member = await add_member(callers, tenant, role)
    async with callers.server.database.connect("postgres") as admin:
        await admin.execute(
            "update annex.members set status = $3 where workspace_id = $1 and user_id = $2",
            UUID(tenant.id),
            member.user_id,
            status,
        )
    return member


async def owner_without_factor(callers: Callers, tenant: Tenant) -> Caller:
    raised = await callers.user(aal="aal2", user_id=tenant.owner.user_id)
    answer = await raised.client.patch(tenant.path, json={"require_aal2": True})
    assert answer.status_code == 200
    return await role_of(callers, tenant, "owner")


async def builtin(callers: Callers, role: str) -> set[str]:
    """Read a built-in role's permissions from the roles table."""
    async with callers.server.database.connect("postgres") as admin:
        return set(
            await admin.fetchval(
                "select permissions from annex.roles where key = $1 and workspace_id is null", role
            )
        )


async def every(callers: Callers) -> set[str]:
    async with callers.server.database.connect("postgres") as admin:
        return set(await admin.fetchval("select annex.permissions()"))


async def nobody(callers: Callers, _: Tenant) -> Caller:
    return Caller(callers.client(), None, None, {})


async def stranger(callers: Callers, _: Tenant) -> Caller:
    return await callers.user()


async def member_of_another(callers: Callers, _: Tenant) -> Caller:
    return (await new_tenant(callers)).owner


async def suspended(callers: Callers, tenant: Tenant) -> Caller:
    return await role_of(callers, tenant, "owner", "suspended")


async def key_of_another(callers: Callers, _: Tenant) -> Caller:
    other = await new_tenant(callers)
    return await callers.key(other.id, *await every(callers))


OUTSIDERS = {
    nobody: 401,
    stranger: 404,
    member_of_another: 404,
    suspended: 404,
    key_of_another: 404,
}


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_a_workspace_is_out_of_an_outsiders_sight(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    path = await path_of(callers, operation, tenant)
    for who, status in OUTSIDERS.items():
        caller = await who(callers, tenant)
        assert await status_of(callers, caller, operation, path) == status, who.__name__


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_a_member_may_what_their_role_says(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    # From the least to the most, as an operation that may be done may be the workspace's last.
    for role in ("viewer", "member", "admin", "owner"):
        member = await role_of(callers, tenant, role)
        path = await path_of(callers, operation, tenant)
        status = await status_of(callers, member, operation, path)
        may = operation.permission in await builtin(callers, role)
        assert status // 100 == 2 if may else status == 403, (role, status)


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_a_key_may_what_its_permissions_say(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    path = await path_of(callers, operation, tenant)
    others = await every(callers) - {operation.permission}
    without = await callers.key(tenant.id, *others)
    assert await status_of(callers, without, operation, path) == 403
    given = await builtin(callers, "viewer") if named(operation) in GIVES else set[str]()
    enough = await callers.key(tenant.id, "workspace:read", operation.permission, *given)
    if named(operation) == "createJoinRule":  # which only a person or an operator can vouch for
        assert await status_of(callers, enough, operation, path) == 403
        return
    assert await status_of(callers, enough, operation, path) // 100 == 2


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_an_operator_may_everything(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    path = await path_of(callers, operation, tenant)
    assert await status_of(callers, callers.operator(), operation, path) // 100 == 2


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_without_a_demanded_second_factor_only_the_workspace_shows(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    path = await path_of(callers, operation, tenant)
    member = await owner_without_factor(callers, tenant)
    status = await status_of(callers, member, operation, path)
    assert status == (200 if operation.permission == "workspace:read" else 403)


@pytest.mark.parametrize("operation", ELSEWHERE, ids=named)
async def test_outside_workspaces_the_kind_of_caller_decides(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    key = await callers.key(tenant.id, *await every(callers))
    everybody = {
        "nobody": await nobody(callers, tenant),
        "user": tenant.owner,
        "key": key,
        "operator": callers.operator(),
    }
    refused = {
        "public": {},
        "any": {"nobody": 401},
        "user": {"nobody": 401, "key": 403, "operator": 403},
        "operator": {"nobody": 401, "user": 403, "key": 403},
    }[operation.permission]
    for name, caller in everybody.items():
        status = await status_of(callers, caller, operation, operation.path)
        if name in refused:
            assert status == refused[name], name
        else:
            # A path with a parameter that we cannot know is not found, which is no refusal.
            assert status // 100 == 2 or status == 404, name


async def test_every_permission_of_the_contract_exists(callers: Callers) -> None:
    assert {o.permission for o in IN_WORKSPACE} <= await every(callers)


async def test_an_event_of_another_workspace_is_not_found_in_ones_own(
    callers: Callers, tenant: Tenant
) -> None:
    other = await new_tenant(callers)
    [event, *_] = (await other.owner.client.get(f"{other.path}/events")).json()["data"]
    response = await tenant.owner.client.get(f"{tenant.path}/events/{event['id']}")
    assert response.status_code == 404


async def test_lists_hold_nothing_of_another_workspace(callers: Callers, tenant: Tenant) -> None:
    other = await new_tenant(callers)
    for operation in IN_WORKSPACE:
        if not named(operation).startswith("list"):
            continue
        path = operation.path.replace("{ws}", tenant.id)
        assert other.id not in (await tenant.owner.client.get(path)).text
