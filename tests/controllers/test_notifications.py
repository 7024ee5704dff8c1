"""The inbox over HTTP; what SQL decides is held in tests/database/test_fanout.py."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Caller, Callers, Running, Tenant, add_member, new_tenant, tomorrow
from tests.database.conftest import fan_out
from tests.operations import (
    ELSEWHERE,
    OUTSIDERS,
    Operation,
    body_of,
    named,
    queried,
    smallest,
)
from tests.realtime.reader import calling

LIST = "/api/v1/me/notifications"
SUBSCRIPTIONS = "/api/v1/me/subscriptions"


async def notify(server: Running, tenant: Tenant, *users: Caller, **event: Any) -> str:
    """Publish an event that names users, and fan it out; returns its id."""
    body = {"type": "test.made", "recipients": [str(u.user_id) for u in users], **event}
    async with calling(server) as callers:
        key = await callers.key(tenant.id, "events:publish")
        response = await key.client.post(f"{tenant.path}/events", json=body)
    assert response.status_code == 201, response.text
    made = response.json()["id"]
    async with server.database.connect("annex_worker") as worker:
        await fan_out(worker, UUID(made))
    return str(made)


async def listed(user: Caller, **params: Any) -> Any:
    """Return a page of a user's notifications."""
    response = await user.client.get(LIST, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def change(user: Caller, item: Any, **patch: Any) -> Any:
    """Change an item."""
    response = await user.client.patch(f"{LIST}/{item['id']}", json=patch)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
async def member(callers: Callers, tenant: Tenant) -> Caller:
    return await add_member(callers, tenant, "viewer")


async def test_an_item_shows_its_event_and_goes_through_its_states(
    server: Running, tenant: Tenant, member: Caller
) -> None:
    event = await notify(
        server, tenant, member, subject="invoice:7", url="/invoices/7", group_key="invoice:7"
    )
    page = await listed(member)
    [item] = page["data"]
    assert (item["event_id"], item["subject"], item["url"]) == (event, "invoice:7", "/invoices/7")
    assert (item["reason"], item["group_count"], item["title"]) == ("recipient", 1, "test.made")
    assert page["counts"] == {
        "active": 1, "unseen": 1, "unread": 1, "snoozed": 0, "archived": 0
    }  # fmt: skip
    seen = await change(member, item, is_seen=True)
    assert seen["seen_at"] is not None
    assert seen["read_at"] is None
    read = await change(member, item, is_read=True)
    assert read["seen_at"] == seen["seen_at"]
    unseen = await change(member, item, is_seen=False)
    assert (unseen["seen_at"], unseen["read_at"]) == (None, None)
    until = tomorrow()
    snoozed = await change(member, item, snoozed_until=until)
    assert snoozed["snoozed_until"] == until
    assert (await listed(member))["data"] == []
    assert len((await listed(member, snoozed=True))["data"]) == 1
    archived = await change(member, item, is_archived=True)
    assert archived["snoozed_until"] is None
    page = await listed(member, archived=True)
    assert [i["id"] for i in page["data"]] == [item["id"]]
    assert page["counts"]["archived"] == 1
    back = await change(member, item, is_archived=False)
    assert back["archived_at"] is None
    assert len((await listed(member))["data"]) == 1


async def test_a_change_that_changes_nothing_is_no_new_version(
    server: Running, tenant: Tenant, member: Caller
) -> None:
    await notify(server, tenant, member)
    [item] = (await listed(member))["data"]
    first = await change(member, item, is_read=True)
    assert (await change(member, item, is_read=True)) == first
    path = f"{LIST}/{item['id']}"
    stale = await member.client.patch(path, json={}, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")


@pytest.mark.parametrize("until", ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
async def test_an_item_is_snoozed_within_the_next_year(
    server: Running, tenant: Tenant, member: Caller, until: str
) -> None:
    await notify(server, tenant, member)
    [item] = (await listed(member))["data"]
    answer = await member.client.patch(f"{LIST}/{item['id']}", json={"snoozed_until": until})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "/snoozed_until"


async def test_counts_are_the_lengths_of_the_lists(
    server: Running, callers: Callers, tenant: Tenant, member: Caller
) -> None:
    other = await new_tenant(callers)
    async with server.database.admin() as admin:
        await admin.execute(
            "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'viewer')",
            UUID(other.id),
            member.user_id,
        )
    for n in range(6):
        await notify(server, (tenant, other)[n % 2], member)
    items = (await listed(member))["data"]
    patches: list[dict[str, Any]] = [
        {"is_read": True},
        {"is_seen": True},
        {"is_archived": True},
        {"snoozed_until": tomorrow()},
    ]
    for item, patch in zip(items, patches, strict=False):
        await change(member, item, **patch)
    for params in ({}, {"workspace": tenant.slug}, {"workspace": other.id}):
        counts = (await listed(member, **params))["counts"]
        for name, which in {
            "active": {},
            "unread": {"unread": True},
            "unseen": {"seen": False},
            "archived": {"archived": True},
            "snoozed": {"snoozed": True},
        }.items():
            found, cursor = 0, None
            while True:
                given = {**params, **which, "limit": 1} | ({"cursor": cursor} if cursor else {})
                page = await listed(member, **given)
                found += len(page["data"])
                cursor = page["page"]["next"]
                if cursor is None:
                    break
            assert found == counts[name], (params, name)


async def test_filters_narrow_a_list(server: Running, tenant: Tenant, member: Caller) -> None:
    # Types that no other test puts into the catalogue, which is one for all workspaces.
    await notify(server, tenant, member, type="narrowed.paid")
    await notify(server, tenant, member, type="narrowing.made")
    for params, count in (
        ({"types": "narrowed.*"}, 1),
        ({"types": "narrowing.made,narrowed.paid"}, 2),
        ({"category": "general"}, 2),
        ({"category": "other"}, 0),
        ({"unread": False}, 0),
        ({"seen": False}, 2),
    ):
        assert len((await listed(member, **params))["data"]) == count, params


async def test_a_mark_leaves_what_arrives_after_its_moment(
    server: Running, tenant: Tenant, member: Caller
) -> None:
    await notify(server, tenant, member)
    await notify(server, tenant, member)
    until = (await listed(member))["data"][0]["arrived_at"]
    await notify(server, tenant, member)
    body = {"action": "read", "arrived_until": until}
    answer = await member.client.post(f"{LIST}/mark", json=body)
    assert answer.json() == {"changed": 2, "is_complete": True}
    page = await listed(member)
    assert [i["read_at"] is None for i in page["data"]] == [True, False, False]
    assert page["counts"]["unread"] == 1
    again = await member.client.post(f"{LIST}/mark", json=body)
    assert again.json()["changed"] == 0


async def test_anothers_item_is_as_unknown_as_none(
    server: Running, callers: Callers, tenant: Tenant, member: Caller
) -> None:
    await notify(server, tenant, member)
    [item] = (await listed(member))["data"]
    for who in (tenant.owner, await add_member(callers, tenant, "admin"), await callers.user()):
        for item_id in (item["id"], str(uuid4())):
            answer = await who.client.patch(f"{LIST}/{item_id}", json={"is_read": True})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        page = await listed(who)
        assert (page["data"], page["counts"]["active"]) == ([], 0)
    assert (await listed(member))["data"] == [item]


# What is of one workspace, and does not say so in its path.
OF_A_WORKSPACE = [
    o for o in ELSEWHERE if "workspace" in {*queried(o), *(body_of(o) or {}).get("properties", {})}
]


@pytest.mark.parametrize("operation", OF_A_WORKSPACE, ids=named)
async def test_a_workspace_named_in_a_query_or_body_is_out_of_an_outsiders_sight(
    callers: Callers, tenant: Tenant, operation: Operation
) -> None:
    schema, path = body_of(operation), operation.path.replace("{topic}", "t")
    users = [w for w in OUTSIDERS if w.__name__ in ("stranger", "member_of_another", "suspended")]
    for make in (*users, next(w for w in OUTSIDERS if w.__name__ == "removed")):
        who = await make(callers, tenant)
        for ws in (tenant.id, tenant.slug, str(uuid4())):
            options: dict[str, Any] = {}
            if schema is not None:
                options["json"] = smallest(schema)
            if "workspace" in queried(operation):
                options["params"] = {"workspace": ws}
            else:
                options["json"]["workspace"] = ws
            answer = await who.client.request(operation.method, path, **options)
            assert answer.status_code == 404, (make.__name__, ws, answer.text)


def test_operations_of_a_workspace_are_found_in_the_contract() -> None:
    assert {named(o) for o in OF_A_WORKSPACE} >= {
        "listMyNotifications",
        "markNotifications",
        "followTopic",
        "updateMyPreferences",
    }


async def test_a_subscription_is_made_replaced_and_ended(tenant: Tenant, member: Caller) -> None:
    path, params = f"{SUBSCRIPTIONS}/project:42", {"workspace": tenant.slug}
    body: dict[str, Any] = {"types": ["invoice.*"], "where": ["data.total:42"]}
    made = await member.client.put(path, params=params, json=body)
    assert made.status_code == 201
    assert made.headers["etag"] == '"1"'
    assert made.json()["where"] == ["data.total:42"]
    muted = await member.client.put(
        path, params=params, json={"is_muted": True}, headers={"If-Match": '"1"'}
    )
    assert muted.status_code == 200
    assert (muted.json()["types"], muted.json()["is_muted"]) == ([], True)
    stale = await member.client.put(path, params=params, json={}, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    [found] = (await member.client.get(SUBSCRIPTIONS, params=params)).json()["data"]
    assert found == muted.json()
    # Nor does a server end what a member set for themselves.
    server_side = await tenant.owner.client.put(
        f"{tenant.path}/topics/project:42/subscribers", json={"remove": [str(member.user_id)]}
    )
    assert server_side.json() == {"added": 0, "removed": 0}
    assert (await member.client.delete(path, params=params)).status_code == 204
    assert (await member.client.delete(path, params=params)).status_code == 404


async def test_a_topic_may_hold_slashes_and_percent_signs(tenant: Tenant, member: Caller) -> None:
    for encoded, topic in (("a%2Fb%20c", "a/b c"), ("a%252Fb", "a%2Fb"), ("%C3%BC", "ü")):
        answer = await member.client.put(
            f"{SUBSCRIPTIONS}/{encoded}", params={"workspace": tenant.id}, json={}
        )
        assert (answer.status_code, answer.json()["topic"]) == (201, topic)


async def test_a_server_subscribes_members_all_or_nothing(
    callers: Callers, tenant: Tenant, member: Caller
) -> None:
    path = f"{tenant.path}/topics/t/subscribers"
    key = await callers.key(tenant.id, "subscriptions:manage")
    stranger = await callers.user()
    both = {"add": [str(member.user_id), str(stranger.user_id)]}
    refused = await key.client.put(path, json=both)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert (await member.client.get(SUBSCRIPTIONS)).json()["data"] == []
    one = {"add": [str(member.user_id)] * 2}
    assert (await key.client.put(path, json=one)).json() == {"added": 1, "removed": 0}
    assert (await key.client.put(path, json=one)).json() == {"added": 0, "removed": 0}
    [found] = (await member.client.get(SUBSCRIPTIONS)).json()["data"]
    assert found["reason"] == "added"
    gone = await key.client.put(path, json={"remove": [str(member.user_id)]})
    assert gone.json() == {"added": 0, "removed": 1}
    # Two changes, two events for auditors; who was meant is in neither.
    trail = (
        await tenant.owner.client.get(f"{tenant.path}/events?types=annex.subscribers.changed")
    ).json()["data"]
    assert [(e["data"]["added"], e["data"]["removed"]) for e in trail] == [(0, 1), (1, 0)]
    assert {(e["actor"], e["data"]["topic"], e["permission"]) for e in trail} == {
        (f"api_key:{key.claims['sub']}", "t", "events:audit")
    }
    assert str(member.user_id) not in str(trail)
    assert (await member.client.get(f"{tenant.path}/events/{trail[0]['id']}")).status_code == 404


async def test_what_one_call_or_member_may_have_is_bounded(
    server: Running, tenant: Tenant, member: Caller
) -> None:
    path = f"{tenant.path}/topics/t/subscribers"
    half = [str(uuid4()) for _ in range(501)]
    over = await tenant.owner.client.put(path, json={"add": half, "remove": half})
    assert over.status_code == 400
    many = {"type": "test.made", "recipients": [str(uuid4()) for _ in range(1001)]}
    assert (await tenant.owner.client.post(f"{tenant.path}/events", json=many)).status_code == 400
    wanted = {"types": ["a.b"] * 21}
    params = {"workspace": tenant.id}
    answer = await member.client.put(f"{SUBSCRIPTIONS}/t", params=params, json=wanted)
    assert answer.status_code == 400
    async with server.database.admin() as admin:
        await admin.execute(
            "insert into annex.subscriptions (workspace_id, topic, user_id, reason)"
            " select $1, 't:' || n, $2, 'added' from generate_series(1, 1000) n",
            UUID(tenant.id),
            member.user_id,
        )
    answer = await member.client.put(f"{SUBSCRIPTIONS}/one-more", params=params, json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "limit_reached")
    # One that is there may still be changed.
    answer = await member.client.put(f"{SUBSCRIPTIONS}/t:1", params=params, json={})
    assert answer.status_code == 200
    answer = await tenant.owner.client.put(path, json={"add": [str(member.user_id)]})
    assert (answer.status_code, answer.json()["code"]) == (409, "limit_reached")


async def test_a_link_that_is_no_https_or_path_is_refused(tenant: Tenant) -> None:
    for url in ("javascript:alert(1)", "//host/x", "https://user@host/", "http://host"):
        body = {"type": "test.made", "url": url}
        answer = await tenant.owner.client.post(f"{tenant.path}/events", json=body)
        assert answer.status_code == 400, url
        assert answer.json()["errors"][0]["pointer"] == "/url"
