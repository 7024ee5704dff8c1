"""Who gets what from every operation, computed from the contract and the roles table."""

import re
from uuid import UUID

import pytest

from tests.conftest import Callers, Tenant, new_tenant
from tests.operations import (
    DOCUMENT,
    ELSEWHERE,
    GIVES,
    IN_WORKSPACE,
    MAKERS,
    OPERATIONS,
    OUTSIDERS,
    Operation,
    builtin,
    every,
    exchanged,
    made_request,
    named,
    nobody,
    own_role,
    owner_without_factor,
    path_of,
    resolved,
    role_of,
    status_of,
)


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
