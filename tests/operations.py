"""Every operation of the contract, how to call it, and who may call it or may not."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx

from app.dev.demo import mint_token
from tests.conftest import NO_TLS, Caller, Callers, Tenant, add_member, new_tenant, read_contract
from tests.database.conftest import fan_out

METHODS = ("get", "post", "put", "patch", "delete")
DOCUMENT = read_contract()


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


async def path_of(callers: Callers, operation: Operation, tenant: Tenant) -> str:
    """Fill a path in: what it names in the workspace is made for this call."""
    path = operation.path.replace("{ws}", tenant.id)
    names = re.findall(r"\{(\w+)\}", path)
    assert {*names} <= {*MAKERS}, f"say how to make what {operation.path} names"
    for name in names:
        make = made_request if path.endswith("/approve") else MAKERS[name]
        path = path.replace(f"{{{name}}}", await make(callers, tenant))
    return path


async def made_event(_: Callers, tenant: Tenant) -> str:
    # Annex's own name a permission each; one of the workspace's own does not.
    made = await tenant.owner.client.post(f"{tenant.path}/events", json={"type": "test.made"})
    return str(made.json()["id"])


async def made_role(callers: Callers, tenant: Tenant) -> str:
    return await own_role(callers, tenant, "workspace:read")


async def made_member(callers: Callers, tenant: Tenant) -> str:
    role = await own_role(callers, tenant, "workspace:read")
    return str((await add_member(callers, tenant, role)).user_id)


async def made_key(callers: Callers, tenant: Tenant) -> str:
    return str((await callers.key(tenant.id, "workspace:read", grantable=[])).claims["sub"])


async def made_invitation(callers: Callers, tenant: Tenant) -> str:
    return await invited(tenant, await callers.user())


async def invited(tenant: Tenant, user: Caller) -> str:
    body = {"role": "viewer", "emails": [user.email]}
    made = (await tenant.owner.client.post(f"{tenant.path}/invitations", json=body)).json()
    return str(made["data"][0]["invitation_id"])


async def made_request(callers: Callers, tenant: Tenant) -> str:
    """Make an invitation that is a user's own request to join."""
    user = await callers.user()
    invitation = await invited(tenant, user)
    async with callers.server.database.admin() as admin:
        await admin.execute("insert into annex.profiles (user_id) values ($1)", user.user_id)
        await admin.execute(
            "update annex.invitations set status = 'requested', user_id = $2 where id = $1",
            UUID(invitation),
            user.user_id,
        )
    return invitation


async def made_join_rule(callers: Callers, tenant: Tenant) -> str:
    """Make a rule of a provider that nobody has."""
    body = {"kind": "sso", "value": str(uuid4()), "role": "viewer"}
    made = await callers.operator().client.post(f"{tenant.path}/join-rules", json=body)
    return str(made.json()["id"])


async def made_topic(callers: Callers, tenant: Tenant) -> str:
    """Let the owner follow a topic, so that there is something to change."""
    topic = f"topic:{uuid4().hex[:8]}"
    path = f"/api/v1/me/subscriptions/{topic}"
    answer = await tenant.owner.client.put(path, params={"workspace": tenant.id}, json={})
    assert answer.status_code == 201, answer.text
    return topic


async def made_notification(callers: Callers, tenant: Tenant) -> str:
    """Notify the owner, straight in SQL: no projector runs here."""
    async with callers.server.database.admin() as admin:
        event = await admin.fetchval(
            "select annex.publish($1, 'test.made', recipients => array[$2::uuid])",
            UUID(tenant.id),
            tenant.owner.user_id,
        )
        await fan_out(admin, event)
        made = await admin.fetchval("select id from annex.notifications where event_id = $1", event)
    return str(made)


MAKERS: dict[str, Callable[[Callers, Tenant], Awaitable[str]]] = {
    "event_id": made_event,
    "key": made_role,
    "user_id": made_member,
    "key_id": made_key,
    "invitation_id": made_invitation,
    "join_rule_id": made_join_rule,
    "topic": made_topic,
    "notification_id": made_notification,
}


async def own_role(callers: Callers, tenant: Tenant, *permissions: str) -> str:
    """Make a role of the workspace's own, straight in SQL."""
    name = f"r{uuid4().hex[:8]}"
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "insert into annex.roles (workspace_id, key, name, permissions)"
            " values ($1, $2, $2, $3)",
            UUID(tenant.id),
            name,
            list(permissions),
        )
    return name


def queried(operation: Operation) -> dict[str, Any]:
    """Return an operation's query parameters by name."""
    path = DOCUMENT["paths"][operation.path].get("parameters", [])
    found = [resolved(p) for p in (*path, *operation.spec.get("parameters", []))]
    return {p["name"]: p for p in found if p["in"] == "query"}


def body_of(operation: Operation) -> dict[str, Any] | None:
    """Return the schema of an operation's JSON body."""
    content = resolved(operation.spec.get("requestBody", {})).get("content", {})
    found = [media for name, media in content.items() if name.endswith("json")]
    return resolved(found[0]["schema"]) if found else None


def required_query(operation: Operation) -> dict[str, Any]:
    """Fill in what an operation needs in its query, by the contract's examples."""
    return {n: p["example"] for n, p in queried(operation).items() if p.get("required")}


GIVES = {"createInvitations", "resendInvitation", "approveInvitation", "createJoinRule"}
"""Operations that give the role of a viewer, and so take its permissions too."""


async def claimable(callers: Callers, caller: Caller) -> str:
    """Let a caller sign in by an SSO provider of their own, which they may then claim."""
    provider = str(uuid4())
    async with callers.server.database.admin() as admin:
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
    if query := required_query(operation):
        options["params"] = query
    if body := resolved(operation.spec.get("requestBody", {})).get("content"):
        media_type = next(iter(body))
        is_form = media_type == "application/x-www-form-urlencoded"
        options["data" if is_form else "json"] = smallest(body[media_type]["schema"])
        if named(operation) == "createJoinRule":
            options["json"] |= {"value": await claimable(callers, caller)}
        options["headers"] = {"Content-Type": media_type}
    method, client = operation.method.upper(), caller.client
    if "x-stream" not in operation.spec:
        return (await client.request(method, path, **options)).status_code
    # Not our client: it would read to the stream's end before it validates.
    async with (
        httpx.AsyncClient(base_url=client.base_url, headers=client.headers, verify=NO_TLS) as plain,
        plain.stream(method, path, **options) as response,
    ):
        return response.status_code


async def role_of(callers: Callers, tenant: Tenant, role: str, status: str = "active") -> Caller:
    member = await add_member(callers, tenant, role)
    async with callers.server.database.admin() as admin:
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
    async with callers.server.database.admin() as admin:
        return set(
            await admin.fetchval(
                "select permissions from annex.roles where key = $1 and workspace_id is null", role
            )
        )


async def every(callers: Callers) -> set[str]:
    async with callers.server.database.admin() as admin:
        return set(await admin.fetchval("select annex.permissions()"))


async def nobody(callers: Callers, _: Tenant) -> Caller:
    return Caller(callers.client(), None, None, {})


async def expired(callers: Callers, tenant: Tenant) -> Caller:
    """The owner, with a token of before."""
    owner = str(tenant.owner.user_id)
    token = mint_token(callers.server.settings, owner, seconds=-60)
    return tenant.owner._replace(client=callers.client(token))


async def stranger(callers: Callers, _: Tenant) -> Caller:
    return await callers.user()


async def member_of_another(callers: Callers, _: Tenant) -> Caller:
    return (await new_tenant(callers)).owner


async def suspended(callers: Callers, tenant: Tenant) -> Caller:
    return await role_of(callers, tenant, "owner", "suspended")


async def removed(callers: Callers, tenant: Tenant) -> Caller:
    member = await role_of(callers, tenant, "admin")
    path = f"{tenant.path}/members/{member.user_id}"
    assert (await tenant.owner.client.delete(path)).status_code == 204
    return member


async def key_of_another(callers: Callers, _: Tenant) -> Caller:
    other = await new_tenant(callers)
    return await callers.key(other.id, *await every(callers))


async def exchanged_key_of_another(callers: Callers, tenant: Tenant) -> Caller:
    return await exchanged(callers, await key_of_another(callers, tenant))


async def revoked_key(callers: Callers, tenant: Tenant) -> Caller:
    key = await callers.key(tenant.id, *await every(callers))
    await revoke(tenant, key)
    return key


async def exchanged_key_that_is_revoked(callers: Callers, tenant: Tenant) -> Caller:
    key = await callers.key(tenant.id, *await every(callers))
    token = await exchanged(callers, key)
    await revoke(tenant, key)
    return token


async def revoke(tenant: Tenant, key: Caller) -> None:
    path = f"{tenant.path}/api-keys/{key.claims['sub']}"
    assert (await tenant.owner.client.delete(path)).status_code == 204


async def exchanged(callers: Callers, key: Caller) -> Caller:
    """Exchange a key for a token."""
    answer = await key.client.post("/api/v1/api-keys/token", json={})
    assert answer.status_code == 201, answer.text
    return key._replace(client=callers.client(answer.json()["access_token"]))


OUTSIDERS = {
    nobody: 401,
    expired: 401,
    revoked_key: 401,
    exchanged_key_that_is_revoked: 401,
    stranger: 404,
    member_of_another: 404,
    suspended: 404,
    removed: 404,
    key_of_another: 404,
    exchanged_key_of_another: 404,
}
