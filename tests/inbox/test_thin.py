from tests.conftest import Callers, Running, Tenant
from tests.inbox.conftest import STREAM, follow_topic, listed, publish
from tests.realtime.reader import add_member, follow


async def test_slice(server: Running, callers: Callers, tenant: Tenant) -> None:
    m = await add_member(callers, tenant, "viewer")
    await follow_topic(tenant, m, "project:1")
    page = await listed(m)
    assert page["data"] == []
    async with follow(m.client, STREAM, page["stream_cursor"]) as reader:
        e = await publish(tenant, topics=["project:1"], recipients=[str(m.user_id)])
        event = await reader.event()
        assert event["type"] == "annex.notification.created"
        page = await listed(m)
        [item] = page["data"]
        assert item["event_id"] == e
        told = event["data"]["notification"]
        assert {k: v for k, v in told.items() if k != "arrived_at"} == {
            k: v for k, v in item.items() if k != "arrived_at"
        }
        assert event["data"]["inbox"] == page["inboxes"][0]
        r = await m.client.patch(f"/api/v1/me/notifications/{item['id']}", json={"is_read": True})
        assert r.status_code == 200, r.text
        event = await reader.event()
        assert event["data"]["inbox"]["unread"] == 0
        r = await m.client.post(
            "/api/v1/me/notifications/mark",
            json={
                "action": "archived",
                "arrived_until": item["arrived_at"],
                "workspace": tenant.slug,
            },
        )
        assert r.json() == {"changed": 1, "is_complete": True}, r.text
        event = await reader.event()
        assert event["data"]["mark"]["action"] == "archived"
    page = await listed(m, archived=True, workspace=tenant.id, types="test.*", category="general")
    assert len(page["data"]) == 1 and page["counts"]["archived"] == 1
    sub = (await m.client.get("/api/v1/me/subscriptions")).json()
    assert sub["data"][0]["topic"] == "project:1"
    await follow_topic(tenant, m, "a%2Fb%20c")
    sub = (
        await m.client.get(
            "/api/v1/me/subscriptions", params={"workspace": tenant.slug, "limit": 1}
        )
    ).json()
    assert sub["data"][0]["topic"] == "project:1" and sub["page"]["next"]
    sub = (
        await m.client.get("/api/v1/me/subscriptions", params={"cursor": sub["page"]["next"]})
    ).json()
    assert sub["data"][0]["topic"] == "a/b c"
    r = await m.client.delete("/api/v1/me/subscriptions/a%2Fb%20c", params={"workspace": tenant.id})
    assert r.status_code == 204
    r = await tenant.owner.client.put(
        f"{tenant.path}/topics/x:1/subscribers", json={"add": [str(m.user_id)]}
    )
    assert r.json() == {"added": 1, "removed": 0}
