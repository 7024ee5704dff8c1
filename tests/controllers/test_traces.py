"""What became of an event, recipient by recipient: for auditors, and what it tells them."""

from typing import Any
from uuid import UUID, uuid4

from tests.conftest import Callers, Running, Tenant, TestDatabase, add_member, new_tenant
from tests.conftest import running as serving
from tests.controllers.test_notifications import notify
from tests.database.conftest import fan_out
from tests.inbox.conftest import projected, publish, settled

PREFERENCES = "/api/v1/me/preferences"


async def trace(tenant: Tenant, event: str, **params: Any) -> Any:
    """Return a page of an event's trace, as the owner reads it."""
    path = f"{tenant.path}/events/{event}/trace"
    answer = await tenant.owner.client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def reasons(tenant: Tenant, event: str) -> dict[str, tuple[str, str]]:
    """Return what became of each recipient, and why."""
    found = (await trace(tenant, event))["data"]
    return {t["user_id"]: (t["outcome"], t["reason"]) for t in found}


async def test_a_trace_says_how_far_it_is(own_database: TestDatabase) -> None:
    async with serving(own_database) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        member = await add_member(callers, tenant, "viewer")
        event = await publish(tenant, recipients=[str(member.user_id)])
        quiet = await publish(tenant)
        # No worker: nobody has been looked at, and that is not the end of it.
        nothing = {"data": [], "page": {"next": None}, "state": "waiting"}
        assert await trace(tenant, event) == await trace(tenant, quiet) == nothing
        async with projected(own_database):
            await settled(own_database)
        assert (await trace(tenant, quiet)) == {**nothing, "state": "complete"}
        whole = await trace(tenant, event)
        assert (whole["state"], len(whole["data"])) == ("complete", 1)
        later = await publish(tenant, recipients=[str(member.user_id)])
        assert (await trace(tenant, later))["state"] == "waiting"
        assert (await trace(tenant, event))["state"] == "complete"
        for failed, state in ((None, "delivering"), ("now()", "given_up")):
            async with own_database.admin() as admin:
                await admin.execute(
                    "insert into annex.fanouts (event_id) values ($1) on conflict do nothing",
                    UUID(event),
                )
                await admin.execute(f"update annex.fanouts set failed_at = {failed or 'null'}")
            assert (await trace(tenant, event))["state"] == state
        await callers.close()


async def test_a_trace_waits_however_far_the_projector_is_behind(
    own_database: TestDatabase,
) -> None:
    async with serving(own_database) as server:
        callers = Callers(server)
        tenant = await new_tenant(callers)
        first = await publish(tenant)
        async with projected(own_database):
            await settled(own_database)
        async with own_database.admin() as admin:
            await admin.execute(
                """
                with head as (select head from annex.log_state), made as (
                  insert into annex.log (pos, event_id, workspace_id)
                  select head + n, annex.uuid7(), $1 from head, generate_series(1, 10001) n
                )
                update annex.log_state set head = head + 10001
                """,
                UUID(tenant.id),
            )
        last = await publish(tenant)
        assert (await trace(tenant, last))["state"] == "waiting"
        assert (await trace(tenant, first))["state"] == "complete"
        await callers.close()


async def test_a_trace_tells_nothing_of_a_stranger(
    server: Running, callers: Callers, tenant: Tenant
) -> None:
    member, stranger = await add_member(callers, tenant, "viewer"), await callers.user()
    await stranger.client.post("/api/v1/workspaces", json={"name": "Theirs"})
    event = await notify(server, tenant, member, stranger, stranger._replace(user_id=uuid4()))
    assert (await reasons(tenant, event)).keys() == {str(member.user_id)}


async def test_a_trace_is_read_page_by_page_by_auditors(
    server: Running, callers: Callers, tenant: Tenant
) -> None:
    users = [await add_member(callers, tenant, "viewer") for _ in range(4)]
    gone, off = users[:2]
    await tenant.owner.client.delete(f"{tenant.path}/members/{gone.user_id}")
    await off.client.patch(PREFERENCES, json={"categories": {"*": {"in_app": False}}})
    body = {"type": "test.made", "recipients": [str(u.user_id) for u in (*users, tenant.owner)]}
    made = await tenant.owner.client.post(f"{tenant.path}/events", json=body)
    event = str(made.json()["id"])
    async with server.database.connect("annex_worker") as worker:
        await fan_out(worker, UUID(event))
    assert await reasons(tenant, event) == {
        str(gone.user_id): ("suppressed", "not_a_member"),
        str(off.user_id): ("suppressed", "preference"),
        str(tenant.owner.user_id): ("suppressed", "actor"),
        **{str(u.user_id): ("delivered", "recipient") for u in users[2:]},
    }
    seen, cursor = list[Any](), None
    while True:
        page = await trace(tenant, event, limit=2, **({"cursor": cursor} if cursor else {}))
        seen += page["data"]
        cursor = page["page"]["next"]
        if cursor is None:
            break
    whole = (await trace(tenant, event))["data"]
    assert seen == whole == sorted(whole, key=lambda t: t["user_id"])
    path = f"{tenant.path}/events/{event}/trace"
    assert (await users[2].client.get(path)).status_code == 403
    assert (await (await callers.user()).client.get(path)).status_code == 404
    other = await new_tenant(callers)
    foreign = path.replace(tenant.id, other.id)
    assert (await other.owner.client.get(foreign)).status_code == 404


async def test_a_page_of_a_trace_reads_its_own_recipients(
    server: Running, callers: Callers, tenant: Tenant
) -> None:
    user = await add_member(callers, tenant, "viewer")
    event = await notify(server, tenant, user)
    async with server.database.connect("postgres") as admin:
        await admin.execute(
            """
            with made as (
              insert into auth.users (id) select gen_random_uuid() from generate_series(1, 3000)
              returning id
            ), known as (insert into annex.profiles (user_id) select id from made returning user_id)
            insert into annex.notifications
              (workspace_id, user_id, event_id, type, actor, category, reason, title)
            select $1, user_id, $2, 'a.b', 'system', 'news', 'recipient', 'x' from known
            """,
            UUID(tenant.id),
            UUID(event),
        )
        late = await admin.fetchval(
            "select user_id from annex.notifications where event_id = $1"
            " order by user_id desc offset 50 limit 1",
            UUID(event),
        )
    for after in (None, late):
        # By a session of its own, whose numbers are of this call alone.
        async with server.database.connect("postgres", tenant.owner.claims) as admin:
            async with admin.transaction():
                found = await admin.fetch(
                    "select * from annex.trace_event($1, $2, $3, 11)",
                    UUID(tenant.id),
                    UUID(event),
                    after,
                )
                read = await admin.fetchval(
                    "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables"
                    " where relname = 'notifications'"
                )
            assert len(found) == 12
            assert read <= 12


async def test_a_trace_of_an_event_out_of_sight_is_not_found(
    server: Running, callers: Callers, tenant: Tenant
) -> None:
    key = await callers.key(tenant.id, "events:audit", "events:read")
    event = await notify(server, tenant, permission="keys:read")
    path = f"{tenant.path}/events/{event}/trace"
    assert (await key.client.get(path)).status_code == 404
    assert (await tenant.owner.client.get(path)).status_code == 200
