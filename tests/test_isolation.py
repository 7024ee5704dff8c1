"""Who gets what from every operation, computed from the contract and the roles table."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import pytest
import yaml

from app.dev.demo import mint_token
from tests.conftest import CONTRACT, NO_TLS, Caller, Callers, Tenant, add_member, new_tenant
from tests.database.conftest import fan_out

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


def required_query(operation: Operation) -> dict[str, Any]:
    """Fill in what an operation needs in its query, by the contract's examples."""
    path = DOCUMENT["paths"][operation.path].get("parameters", [])
    found = [resolved(p) for p in (*path, *operation.spec.get("parameters", []))]
    return {p["name"]: p["example"] for p in found if p["in"] == "query" and p.get("required")}


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


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_a_workspace_is_out_of_an_outsiders_sight(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    path = await path_of(callers, operation, tenant)
    outsiders = {who: await who(callers, tenant) for who in OUTSIDERS}
    before = await rows(callers, tenant.id)
    for who, status in OUTSIDERS.items():
        assert await status_of(callers, outsiders[who], operation, path) == status, who.__name__
    assert await rows(callers, tenant.id) == before
    # And what they were refused is there to be had.
    assert await status_of(callers, tenant.owner, operation, path) // 100 == 2


async def rows(callers: Callers, workspace_id: str) -> dict[str, str]:
    """Say what every table holds of a workspace."""
    async with callers.server.database.admin() as admin:
        tables = await admin.fetch(
            "select c.relname from pg_attribute a join pg_class c on c.oid = a.attrelid"
            " where c.relnamespace = 'annex'::regnamespace and a.attname = 'workspace_id'"
            " and c.relkind in ('r', 'p') and not c.relispartition"
            " and c.relname not in ('pending', 'log')"
        )
        # Not when a key was used, nor that of an outsider.
        content = "md5(string_agg((to_jsonb(t) - 'last_used_at')::text, '' order by t::text))"
        return {
            table: await admin.fetchval(
                f"select count(*) || coalesce({content}, '') from annex.{table} t"
                " where t.workspace_id = $1",
                UUID(workspace_id),
            )
            for (table,) in tables
        }


CUSTOM = {"workspace:read", "members:manage", "keys:read", "events:publish"}


@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_a_member_may_what_their_role_says(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    other = await new_tenant(callers)
    theirs = await rows(callers, other.id)
    custom = await own_role(callers, tenant, *CUSTOM)
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.roles set grantable = '{*}' where workspace_id = $1 and key = $2",
            UUID(tenant.id),
            custom,
        )
    # From the least to the most, as an operation that may be done may be the workspace's last.
    for role in ("viewer", "member", custom, "admin", "owner"):
        path = await path_of(callers, operation, tenant)
        member = await role_of(callers, tenant, role)
        status = await status_of(callers, member, operation, path)
        may = operation.permission in (CUSTOM if role == custom else await builtin(callers, role))
        assert status // 100 == 2 if may else status == 403, (role, status)
    assert await rows(callers, other.id) == theirs


@pytest.mark.parametrize("is_exchanged", [False, True])
@pytest.mark.parametrize("operation", IN_WORKSPACE, ids=named)
async def test_a_key_may_what_its_permissions_say(
    callers: Callers, tenant: Tenant, operation: Operation, is_exchanged: bool
) -> None:
    path = await path_of(callers, operation, tenant)
    others = await every(callers) - {operation.permission}
    given = await builtin(callers, "viewer") if named(operation) in GIVES else set[str]()
    for permissions in (others, {"workspace:read", operation.permission, *given}):
        key = await callers.key(tenant.id, *permissions)
        caller = await exchanged(callers, key) if is_exchanged else key
        status = await status_of(callers, caller, operation, path)
        # Only a person or an operator can vouch for a domain or a provider.
        is_refused = permissions is others or named(operation) == "createJoinRule"
        # Nor does a token of five minutes make a key that lasts.
        is_refused |= is_exchanged and named(operation) in ("createApiKey", "rotateApiKey")
        assert status == 403 if is_refused else status // 100 == 2, status


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


OWN = [o for o in IN_WORKSPACE if "x-own-permission" in o.spec]


@pytest.mark.parametrize("operation", OWN, ids=named)
async def test_of_oneself_the_lesser_permission_is_enough(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    for role in ("viewer", "member", "admin"):
        member = await role_of(callers, tenant, role)
        path = operation.path.replace("{ws}", tenant.id)
        path = path.replace("{user_id}", str(member.user_id))
        assert await status_of(callers, member, operation, path) // 100 == 2


@pytest.mark.parametrize("operation", ELSEWHERE, ids=named)
async def test_outside_workspaces_the_kind_of_caller_decides(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    key = await callers.key(tenant.id, *await every(callers))
    everybody = {
        "nobody": await nobody(callers, tenant),
        "user": tenant.owner,
        "key": key,
        "exchanged": await exchanged(callers, key),
        "operator": callers.operator(),
    }
    refused = {
        "public": {},
        "any": {"nobody": 401},
        "user": {"nobody": 401, "key": 403, "exchanged": 403, "operator": 403},
        "key": {"nobody": 401, "user": 403, "exchanged": 403, "operator": 403},
        "operator": {"nobody": 401, "user": 403, "key": 403, "exchanged": 403},
    }[operation.permission]
    path = operation.path
    for parameter in DOCUMENT["paths"][operation.path].get("parameters", []):
        known = resolved(parameter)
        path = path.replace(f"{{{known['name']}}}", str(known.get("example", "a")))
    for name, caller in everybody.items():
        status = await status_of(callers, caller, operation, path)
        if name in refused:
            assert status == refused[name], name
        else:
            # A path with a parameter that we cannot know is not found, which is no refusal.
            assert status // 100 == 2 or status == 404, name


async def test_what_is_read_never_names_another_workspace(callers: Callers, tenant: Tenant) -> None:
    """Each has one of everything, and its owner is of both: only the path decides."""
    other = await new_tenant(callers)
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'owner')",
            UUID(other.id),
            tenant.owner.user_id,
        )
    theirs = {other.id, str(other.owner.user_id)}
    for make in (*MAKERS.values(), made_request):
        theirs.add(await make(callers, other))
        await make(callers, tenant)
    shown = set()
    for operation in IN_WORKSPACE:
        if operation.method != "get" or "x-stream" in operation.spec:
            continue
        path = await path_of(callers, operation, tenant)
        answer = await tenant.owner.client.get(path, params={"limit": 100})
        if answer.status_code == 400:  # it takes no limit
            answer = await tenant.owner.client.get(path)
        assert answer.status_code == 200
        shown |= {named(operation)} if answer.json().get("data") else set()
        assert [t for t in theirs if t in answer.text] == [], path
    # An empty list would show nothing of anybody.
    lists = {named(o) for o in IN_WORKSPACE if named(o).startswith("list")}
    assert lists - shown == set()


NAMED_BY_CALLER = {"putRole", "putEventType"}
"""A name of one's own choice makes something of one's own."""


async def test_an_id_of_another_workspace_is_not_found_in_ones_own(
    callers: Callers, tenant: Tenant
) -> None:
    other = await new_tenant(callers)
    tried = set()
    for operation in IN_WORKSPACE:
        ids = {*re.findall(r"\{(\w+)\}", operation.path)} - {"ws", "topic"}
        if not ids:
            continue
        tried |= ids
        path = (await path_of(callers, operation, other)).replace(other.id, tenant.id)
        theirs = await rows(callers, other.id)
        status = await status_of(callers, tenant.owner, operation, path)
        is_own = named(operation) in NAMED_BY_CALLER and status == 201
        assert status == 404 or is_own, (named(operation), status)
        assert await rows(callers, other.id) == theirs
    assert tried >= {"user_id", "key", "key_id", "event_id", "invitation_id", "join_rule_id"}


async def test_every_operation_says_who_may_call_it() -> None:
    assert all(o.permission for o in OPERATIONS)


async def test_every_permission_of_the_contract_exists(callers: Callers) -> None:
    assert {o.permission for o in IN_WORKSPACE} <= await every(callers)
