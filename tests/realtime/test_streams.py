import asyncio
import contextlib
import json
import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from app.dev.demo import mint_token
from app.errors import Unavailable
from app.realtime.feeds import Sight
from app.realtime.replay import Source
from app.realtime.streams import Stream
from app.server import GRACE_SECONDS
from controllers.stream import look_again
from tests.conftest import (
    Callers,
    Running,
    Tenant,
    TestDatabase,
    running,
)
from tests.realtime.reader import (
    Reader,
    add_member,
    calling,
    cursor_at_head,
    elsewhere,
    follow,
    lent,
    new_tenant,
    number,
    problem_of,
    publish,
    until,
)

# More than the kernel's buffers take, so that the server stands in its send to who does not read.
MANY = """
select annex.publish($1, 'test.made', jsonb_build_object('n', n, 'x', repeat('x', 12000)))
from generate_series(1, 1000) n
"""


async def sql(server: Running, statement: str, *values: object) -> None:
    """Run a statement as somebody who works on the database itself."""
    async with server.database.connect("postgres") as connection:
        await connection.execute(statement, *values)


async def test_an_event_arrives_as_its_own_address_shows_it(tenant: Tenant) -> None:
    client = tenant.owner.client
    async with follow(client, f"{tenant.path}/stream") as reader:
        await reader.message()
        [id] = await publish(
            tenant.owner,
            tenant,
            {"data": {"n": 1.0, "é": ["\n", "\u2028", "😀"]}, "topics": ["a:1", "b"], "key": "k"},
        )
        arrived = await reader.message()
    shown = await client.get(f"{tenant.path}/events/{id}")
    assert arrived.data.encode() == shown.content
    assert (arrived.event, len(arrived.id)) == ("message", 22)


async def test_a_stream_without_a_cursor_begins_with_one(server: Running, tenant: Tenant) -> None:
    await number(tenant, "before")
    await server.app.runtime.tail.catch_up()
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        first = await reader.message()
        await number(tenant, "after")
        assert await reader.names(1) == ["after"]
    assert first.event == "cursor"
    assert first.json() == {"cursor": first.id}
    assert first.retry is not None
    assert 1000 <= first.retry <= 5000


async def test_a_stream_is_sent_as_it_is_and_kept_by_nobody(tenant: Tenant) -> None:
    client = tenant.owner.client
    client.headers["Accept-Encoding"] = "gzip, br"
    async with follow(client, f"{tenant.path}/stream") as reader:
        headers = reader.response.headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in headers


async def test_a_reader_resumes_after_its_last_cursor(tenant: Tenant) -> None:
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    async with follow(client, path) as reader:
        await reader.message()
        await number(tenant, "1", "2", "3")
        assert await reader.names(2) == ["1", "2"]
    await number(tenant, "4")
    async with follow(client, path, reader.cursor) as again:
        # At once, so that whoever is cut off before the next event has a cursor of this connection.
        first = await again.message()
        assert (first.event, bool(first.id), bool(first.retry)) == ("cursor", True, True)
        await number(tenant, "5")
        assert await again.names(3) == ["3", "4", "5"]


async def test_the_header_wins_over_the_query(tenant: Tenant) -> None:
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    async with follow(client, path) as reader:
        start = (await reader.message()).id
        await number(tenant, "1", "2")
        await reader.names(1)
    async with follow(client, path, last_event_id=start) as other:
        assert await other.names(1) == ["1"]
    async with follow(client, path, reader.cursor, last_event_id=start) as other:
        assert await other.names(1) == ["2"]


async def test_a_list_and_the_stream_from_its_cursor_miss_nothing(tenant: Tenant) -> None:
    client, seen, sent = tenant.owner.client, set[str](), list[str]()

    async def write() -> None:
        for n in range(40):
            sent.extend(await number(tenant, str(n)))

    writing = asyncio.create_task(write())
    await until(lambda: len(sent) >= 15)
    listed = (await client.get(f"{tenant.path}/events", params={"limit": 100})).json()
    await asyncio.sleep(0.05)
    seen.update(e["id"] for e in listed["data"])
    params = {"last_event_id": listed["stream_cursor"]}
    async with follow(client, f"{tenant.path}/stream", **params) as reader:
        await writing
        while not seen.issuperset(sent):
            seen.add((await reader.event())["id"])


async def test_more_than_the_ring_and_a_page_hold_is_replayed_in_order(tenant: Tenant) -> None:
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    async with follow(client, path) as first:
        start = (await first.message()).id
        for batch in range(3):
            await number(tenant, *(str(batch * 500 + n) for n in range(500)))
        # From the database for the one, from the ring and then the database for the other.
        async with follow(client, path, start) as second:
            for reader in (first, second):
                assert await reader.names(1500) == [str(n) for n in range(1500)]


async def test_a_reader_slower_than_the_ring_misses_nothing(
    server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.channels.RING", 50)
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        await reader.message()
        await sql(server, MANY, UUID(tenant.id))
        await server.app.runtime.tail.catch_up()
        assert not server.app.runtime.hub.waiting()
        assert await reader.names(1000) == [*range(1, 1001)]


async def test_events_published_during_a_replay_follow_it(tenant: Tenant) -> None:
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    async with follow(client, path) as reader:
        start = (await reader.message()).id
    await number(tenant, *(str(n) for n in range(400)))

    async def write() -> None:
        for n in range(400, 480):
            await number(tenant, str(n))

    writing = asyncio.create_task(write())
    for _ in range(6):
        await asyncio.sleep(0.02)
        async with follow(client, path, start) as reader:
            names = await reader.names(450)
            assert names == [str(n) for n in range(450)]
    await writing


async def test_only_what_the_filter_matches_arrives(tenant: Tenant) -> None:
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    wanted = {"types": "invoice.*", "topics": "project:42", "where": "data.total:5"}
    async with follow(client, path, **wanted) as reader, follow(client, path) as everything:
        start = (await reader.message()).id
        await everything.message()
        right = {"type": "invoice.paid", "topics": ["project:42"]}
        await publish(
            tenant.owner,
            tenant,
            {**right, "data": {"n": "type", "total": 5}, "type": "project.made"},
            {**right, "data": {"n": "topic", "total": 5}, "topics": ["project:4"]},
            {**right, "data": {"n": "where", "total": 50}},
            {**right, "data": {"n": "right", "total": 5.0}},
        )
        assert await reader.names(1) == ["right"]
        assert await everything.names(4) == ["type", "topic", "where", "right"]
    async with follow(client, path, start, **wanted) as replayed:
        assert await replayed.names(1) == ["right"]


async def test_a_malformed_filter_is_a_400_before_anything_streams(tenant: Tenant) -> None:
    response = await tenant.owner.client.get(f"{tenant.path}/stream", params={"types": "in*"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


async def test_nobody_gets_another_workspaces_events(callers: Callers, tenant: Tenant) -> None:
    other = await new_tenant(callers)
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        start = (await reader.message()).id
        await number(other, "theirs")
        await number(tenant, "ours")
        assert await reader.names(1) == ["ours"]
    # A cursor is good for the feed that it was written for, and says nothing about another one.
    async with follow(other.owner.client, f"{other.path}/stream", start) as reader:
        assert (await reader.message()).event == "reset"
        await number(other, "later")
        assert await reader.names(1) == ["later"]
    response = await other.owner.client.get(f"{tenant.path}/stream")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_audit_events_need_their_own_permission(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "member")
    path = f"{tenant.path}/stream"
    async with (
        follow(member.client, path) as one,
        follow(tenant.owner.client, path) as other,
    ):
        start = (await one.message()).id
        await other.message()
        await number(tenant, "secret", permission="events:audit")
        await number(tenant, "open")
        assert await one.names(1) == ["open"]
        assert await other.names(2) == ["secret", "open"]
    async with follow(member.client, path, start) as replayed:
        assert await replayed.names(1) == ["open"]


async def test_a_changed_role_takes_audit_events_away_and_gives_them(
    callers: Callers, server: Running, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "admin")
    change = "update annex.members set role = $1 where workspace_id = $2 and user_id = $3"
    async with follow(
        member.client, f"{tenant.path}/stream", types="test.*,annex.member.updated"
    ) as reader:
        await reader.message()
        for role, expected in (("member", ["open"]), ("admin", ["secret", "open"])):
            await sql(server, change, role, UUID(tenant.id), member.user_id)
            assert (await reader.event())["data"]["record"]["role"] == role
            await number(tenant, "secret", permission="events:audit")
            await number(tenant, "open")
            assert await reader.names(len(expected)) == expected


@pytest.mark.parametrize(
    "change",
    [
        "delete from annex.members where workspace_id = $1 and user_id = $2",
        "update annex.members set status = 'suspended' where workspace_id = $1 and user_id = $2",
        "delete from auth.users where id = $2 and $1::uuid is not null",
        "update annex.workspaces set require_aal2 = true where id = $1 and $2::uuid is not null",
    ],
)
async def test_who_loses_the_right_to_read_is_told_within_a_second(
    callers: Callers, server: Running, tenant: Tenant, change: str
) -> None:
    member = await add_member(callers, tenant, "viewer")
    async with follow(member.client, f"{tenant.path}/stream") as reader:
        await reader.message()
        await sql(server, change, UUID(tenant.id), member.user_id)
        await number(tenant, "too late") if "aal2" not in change else None
        [last] = await reader.rest(1)
    assert problem_of(last) in ("not_found", "second_factor_required")


async def test_rights_that_change_while_they_are_looked_up_are_looked_up_again(
    callers: Callers, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = await add_member(callers, tenant, "viewer")
    looked = list[tuple[Sight, float | None]]()

    async def look(request: Any, source: Source) -> tuple[Sight, float | None]:
        looked.append(await look_again(request, source))
        if len(looked) == 1:
            await sql(server, "delete from annex.members where user_id = $1", member.user_id)
            await number(tenant, "too late")
            await server.app.runtime.tail.catch_up()
        return looked[-1]

    monkeypatch.setattr("controllers.stream.look_again", look)
    async with follow(member.client, f"{tenant.path}/stream", types="test.*") as reader:
        await reader.message()
        await sql(
            server, "update annex.members set role = 'member' where user_id = $1", member.user_id
        )
        assert [m.event for m in await reader.rest(2)] == ["unauthorized"]
    assert len(looked) == 1


async def test_a_revoked_key_ends_its_streams(
    callers: Callers, server: Running, tenant: Tenant
) -> None:
    key = await callers.key(tenant.id, "events:read")
    async with follow(key.client, f"{tenant.path}/stream") as reader:
        await reader.message()
        await sql(
            server,
            "update annex.api_keys set revoked_at = now() where id = $1",
            UUID(key.claims["sub"]),
        )
        [last] = await reader.rest(1)
    assert problem_of(last) == "invalid_key"


async def test_a_key_keeps_its_stream_when_another_one_goes(
    callers: Callers, server: Running, tenant: Tenant
) -> None:
    kept, lost = [await callers.key(tenant.id, "events:read") for _ in range(2)]
    async with follow(kept.client, f"{tenant.path}/stream") as reader:
        await reader.message()
        await sql(server, "delete from annex.api_keys where id = $1", UUID(lost.claims["sub"]))
        await number(tenant, "on")
        assert await reader.names(1) == ["on"]


async def test_a_deleted_workspace_ends_its_streams(tenant: Tenant) -> None:
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        await reader.message()
        response = await tenant.owner.client.delete(tenant.path)
        [last] = await reader.rest(1)
    assert response.status_code == 204
    assert problem_of(last) == "not_found"


async def test_a_token_that_expires_ends_its_stream(
    callers: Callers, server: Running, tenant: Tenant
) -> None:
    token = mint_token(server.settings, str(tenant.owner.user_id), tenant.owner.email, seconds=1)
    async with follow(callers.client(token), f"{tenant.path}/stream") as reader:
        [first] = await reader.rest(3)
    assert first.event == "cursor"
    await number(tenant, "meanwhile")
    async with follow(tenant.owner.client, f"{tenant.path}/stream", first.id) as reader:
        assert await reader.names(1) == ["meanwhile"]


async def test_a_key_whose_end_is_moved_forward_ends_its_stream_then(
    callers: Callers, tenant: Tenant
) -> None:
    made = (
        await tenant.owner.client.post(
            f"{tenant.path}/api-keys", json={"name": "a", "permissions": ["events:read"]}
        )
    ).json()
    key = callers.client(made["secret"])
    async with follow(key, f"{tenant.path}/stream") as reader:
        await reader.message()
        await tenant.owner.client.post(
            f"{tenant.path}/api-keys/{made['id']}/rotate", json={"overlap_seconds": 1}
        )
        assert [m.event for m in await reader.rest(5)] == []


async def test_a_stream_ends_after_its_lifetime_and_the_reader_resumes(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.streams.LIFETIME_SECONDS", 0.5)
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    async with follow(client, path) as reader:
        await reader.message()
        await number(tenant, "1")
        assert await reader.names(1) == ["1"]
        assert await reader.rest(2) == []
    await number(tenant, "2")
    async with follow(client, path, reader.cursor) as reader:
        assert await reader.names(1) == ["2"]


async def test_a_quiet_reader_is_told_the_head_as_a_heartbeat(
    callers: Callers, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.hub.HEARTBEAT_SECONDS", 0.2)
    other = await new_tenant(callers)
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        first = await reader.message()
        await number(other, "elsewhere")
        await server.app.runtime.tail.catch_up()
        _, beat = await reader.message(), await reader.message()
        assert beat.id != first.id
        hub = server.app.runtime.hub
        assert (beat.event, hub.cursors.read(UUID(tenant.id), beat.id)) == (
            "cursor",
            (hub.epoch, hub.head),
        )
        assert beat.json() == {"cursor": beat.id}


async def test_a_reader_whose_filter_matches_nothing_gets_heartbeats_in_a_busy_workspace(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.hub.HEARTBEAT_SECONDS", 0.2)

    async def write() -> None:
        while True:
            await number(tenant, "unwanted")
            await asyncio.sleep(0.02)

    async with follow(tenant.owner.client, f"{tenant.path}/stream", types="none") as reader:
        await reader.message()
        writing = asyncio.create_task(write())
        beat = await reader.message()
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
    assert beat.event == "cursor"


@pytest.mark.parametrize(
    "cursor",
    ["garbage", "A" * 22, "A" * 5000, "future", "other epoch", "other key", "other feed"],
)
async def test_a_cursor_that_cannot_be_continued_is_answered_with_a_reset(
    server: Running, tenant: Tenant, cursor: str
) -> None:
    hub = server.app.runtime.hub
    feed = UUID(tenant.id)
    cursor = {
        "future": hub.cursors.write(feed, hub.epoch, hub.head + 1000),
        "other epoch": hub.cursors.write(feed, hub.epoch + 1, hub.head),
        "other key": type(hub.cursors)(bytes(32)).write(feed, hub.epoch, hub.head),
        "other feed": hub.cursors.write(uuid4(), hub.epoch, hub.head),
    }.get(cursor, cursor)
    await number(tenant, "before")
    await server.app.runtime.tail.catch_up()
    async with follow(tenant.owner.client, f"{tenant.path}/stream", cursor) as reader:
        reset = await reader.message()
        assert (reset.event, reset.json()) == ("reset", {"cursor": reset.id})
        await number(tenant, "after")
        assert await reader.names(1) == ["after"]
    async with follow(tenant.owner.client, f"{tenant.path}/stream", reset.id) as reader:
        assert await reader.names(1) == ["after"]


async def test_a_cursor_older_than_the_log_is_answered_with_a_reset(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as first, calling(first) as callers:
        tenant = await new_tenant(callers)
        hub, feed = first.app.runtime.hub, UUID(tenant.id)
        await number(tenant, "1", "2", "3")
        await until(lambda: hub.head >= 5)
        head = hub.head
        await sql(first, "delete from annex.log where pos < $1", head)
        await sql(first, "update annex.log_state set retained_from = $1", head)
    async with running(own_database) as second, calling(second) as others:
        client, path = elsewhere(tenant, others).owner.client, f"{tenant.path}/stream"
        async with follow(client, path, hub.cursors.write(feed, hub.epoch, head - 2)) as reader:
            assert (await reader.message()).event == "reset"
        # The one before the oldest that is kept has missed nothing.
        async with follow(client, path, hub.cursors.write(feed, hub.epoch, head - 1)) as reader:
            assert await reader.names(1) == ["3"]


async def test_data_of_nearly_64_kib_arrives_whole(tenant: Tenant) -> None:
    text = "é\r\n\u2028😀 \\ " * 3700
    body = json.dumps({"n": text}, ensure_ascii=False)
    assert 60_000 < len(body.encode()) < 65_536
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        start = (await reader.message()).id
        for _ in range(3):
            await number(tenant, text)
        assert await reader.names(3) == [text] * 3
    async with follow(tenant.owner.client, f"{tenant.path}/stream", start) as reader:
        assert await reader.names(3) == [text] * 3


async def test_a_ticket_opens_the_stream_that_it_was_made_for(
    callers: Callers, tenant: Tenant
) -> None:
    made = await tenant.owner.client.post(
        "/api/v1/stream/tickets", json={"path": f"{tenant.path}/stream"}
    )
    nobody, ticket = callers.client(), made.json()["ticket"]
    async with follow(nobody, made.json()["url"]) as reader:
        assert (await reader.message()).event == "cursor"
        await number(tenant, "here")
        assert await reader.names(1) == ["here"]
    other = await new_tenant(callers)
    async with follow(nobody, f"{other.path}/stream", ticket=ticket) as reader:
        assert problem_of((await reader.rest())[0]) == "invalid_ticket"


async def test_a_ticket_tells_audit_events_from_others_and_ends_with_its_owner(
    callers: Callers, server: Running, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "member")
    made = await member.client.post(
        "/api/v1/stream/tickets", json={"path": f"{tenant.path}/stream"}
    )
    async with follow(callers.client(), made.json()["url"]) as reader:
        await reader.message()
        await number(tenant, "secret", permission="events:audit")
        await number(tenant, "open")
        assert await reader.names(1) == ["open"]
        await sql(server, "delete from annex.members where user_id = $1", member.user_id)
        assert problem_of((await reader.rest(1))[-1]) == "not_found"
    async with follow(callers.client(), made.json()["url"]) as reader:
        assert problem_of((await reader.rest(1))[-1]) == "not_found"


@pytest.mark.parametrize("ticket", ["garbage", "a.b.c", ""])
async def test_a_bad_ticket_is_answered_in_the_stream_as_a_browser_hides_a_401(
    callers: Callers, tenant: Tenant, ticket: str
) -> None:
    async with follow(callers.client(), f"{tenant.path}/stream", ticket=ticket) as reader:
        [only] = await reader.rest()
    assert reader.response.status_code == 200
    assert problem_of(only) == "invalid_ticket"
    assert only.retry == 60_000


async def test_a_late_ticket_serves_a_reader_with_a_cursor_and_nobody_else(
    callers: Callers, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.auth.tickets.CONNECT_SECONDS", -1)
    made = await tenant.owner.client.post(
        "/api/v1/stream/tickets", json={"path": f"{tenant.path}/stream"}
    )
    listed = (await tenant.owner.client.get(f"{tenant.path}/events")).json()
    for cursor in (None, "garbage", "A" * 22):
        async with follow(callers.client(), made.json()["url"], cursor) as reader:
            assert problem_of((await reader.rest())[0]) == "invalid_ticket"
    await number(tenant, "missed")
    async with follow(callers.client(), made.json()["url"], listed["stream_cursor"]) as reader:
        assert await reader.names(1) == ["missed"]


@pytest.mark.parametrize(
    ("credential", "code"), [(None, "missing_credentials"), ("a.b.c", "invalid_token")]
)
async def test_a_bad_bearer_credential_is_a_401(
    callers: Callers, tenant: Tenant, credential: str | None, code: str
) -> None:
    response = await callers.client(credential).get(f"{tenant.path}/stream")
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.headers["www-authenticate"].startswith("Bearer")


async def retry_of(client: httpx.AsyncClient, path: str) -> int:
    """Open a stream that is over at once, without a message; returns the retry that it gives."""
    async with asyncio.timeout(10):  # one that is let in would go on until its token's end
        response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *_, retry = response.text.strip().splitlines()
    assert "data:" not in response.text
    return int(retry.removeprefix("retry: "))


async def test_a_full_server_sends_readers_away_for_a_while_and_keeps_no_place(
    callers: Callers, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, client, path = server.app.runtime.hub, tenant.owner.client, f"{tenant.path}/stream"
    await until(lambda: hub.counts.connections == 0)  # what earlier tests opened is gone
    monkeypatch.setattr(hub, "capacity", 1)
    async with follow(client, path) as reader:
        await reader.message()
        assert 10_000 <= await retry_of(client, path) <= 30_000
        # Also for those whose credential is yet to be looked at.
        assert 10_000 <= await retry_of(callers.client(), path) <= 30_000
    await until(lambda: hub.counts.connections == 0)
    await client.get(f"{path}?types=,")
    await callers.client().get(f"{path}?ticket=garbage")
    async with follow(client, path) as reader:
        assert (await reader.message()).event == "cursor"


async def test_an_eventsource_that_meets_trouble_of_ours_is_told_to_come_back(
    callers: Callers, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await tenant.owner.client.post(
        "/api/v1/stream/tickets", json={"path": f"{tenant.path}/stream"}
    )

    async def fail(*_: object) -> None:
        raise Unavailable("The database cannot be reached; try again in a moment.")

    monkeypatch.setattr("app.realtime.replay.Source.sight", fail)
    assert 10_000 <= await retry_of(callers.client(), made.json()["url"]) <= 30_000
    response = await tenant.owner.client.get(f"{tenant.path}/stream")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")


async def test_readers_that_come_back_together_find_the_past_without_the_database(
    server: Running, tenant: Tenant
) -> None:
    hub, client, path = server.app.runtime.hub, tenant.owner.client, f"{tenant.path}/stream"
    async with follow(client, path) as reader:
        await reader.message()
    await until(lambda: not hub.channels[UUID(tenant.id)].groups)
    await number(tenant, "meanwhile")
    await server.app.runtime.tail.catch_up()
    replays = hub.counts.replays
    for _ in range(3):
        async with follow(client, path, reader.cursor) as again:
            assert await again.names(1) == ["meanwhile"]
    assert hub.counts.replays == replays


async def test_a_reader_that_waits_is_sent_to_without_being_woken(
    server: Running, tenant: Tenant
) -> None:
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        await reader.message()
        (group,) = server.app.runtime.hub.channels[UUID(tenant.id)].groups.values()
        await until(lambda: bool(group.parked))
        (stream,) = group.parked
        assert isinstance(stream, Stream)
        waiter = stream.waiter
        assert waiter is not None
        await number(tenant, "1")
        await number(tenant, "2")
        assert await reader.names(2) == ["1", "2"]
        assert stream.waiter is waiter
        assert not waiter.done()


async def test_a_reader_that_comes_while_events_are_read_misses_none(
    server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail, read, may_go_on = server.app.runtime.tail, asyncio.Event(), asyncio.Event()
    read_events = tail.read_events

    async def wait(driver: Any, entries: Any) -> Any:
        events = await read_events(driver, entries)
        read.set()
        await may_go_on.wait()
        return events

    monkeypatch.setattr(tail, "read_events", wait)
    await number(tenant, "before")
    await read.wait()
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        assert (await reader.message()).event == "cursor"
        replays = server.app.runtime.hub.counts.replays
        may_go_on.set()
        await number(tenant, "after")
        # Nobody followed when it was asked what to read: the reader looks in the database.
        assert await reader.names(2) == ["before", "after"]
        assert server.app.runtime.hub.counts.replays == replays + 1


async def test_another_members_change_makes_nobody_look_their_rights_up(
    callers: Callers, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do changes of one's own that touch no right, such as a member's metadata."""
    looked = list[str]()
    annotate = """update annex.members set metadata = '{"a": 1}' where user_id = $1"""

    async def look(request: Any, source: Source) -> tuple[Sight, float | None]:
        looked.append(source.scope.principal.id)
        return await look_again(request, source)

    monkeypatch.setattr("controllers.stream.look_again", look)
    async with follow(tenant.owner.client, f"{tenant.path}/stream", types="test.*") as reader:
        await reader.message()
        for _ in range(3):
            await add_member(callers, tenant, "viewer")
        await sql(server, annotate, tenant.owner.user_id)
        await tenant.owner.client.patch(tenant.path, json={"name": "Another"})
        await number(tenant, "last")
        assert await reader.names(1) == ["last"]
        assert looked == []
        # What does touch them makes its reader look, once.
        await sql(
            server, "update annex.workspaces set require_aal2 = true where id = $1", UUID(tenant.id)
        )
        assert problem_of((await reader.rest(2))[-1]) == "second_factor_required"
    assert looked == [str(tenant.owner.user_id)]


async def test_an_operators_ticket_goes_with_the_key(
    callers: Callers, server: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await callers.operator().client.post(
        "/api/v1/stream/tickets", json={"path": f"{tenant.path}/stream"}
    )
    async with follow(callers.client(), made.json()["url"]) as reader:
        assert (await reader.message()).event == "cursor"
    rotated = msgspec.structs.replace(server.settings, operator_key_hashes=["0" * 64])
    runtime = msgspec.structs.replace(server.app.runtime, settings=rotated)
    monkeypatch.setattr(server.app, "runtime", runtime)
    async with follow(callers.client(), made.json()["url"]) as reader:
        assert problem_of((await reader.rest())[0]) == "invalid_key"


async def test_no_ticket_is_made_for_a_stream_out_of_sight(
    callers: Callers, tenant: Tenant
) -> None:
    stranger = await callers.user()
    for path in (f"{tenant.path}/stream", f"{tenant.path}/events", "/nowhere"):
        response = await stranger.client.post("/api/v1/stream/tickets", json={"path": path})
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def drop(reader: Reader) -> None:
    """Vanish as a client does whose machine lost power: no goodbye, but the socket is gone."""
    stream = reader.response.extensions["network_stream"]
    await stream.aclose()
    with contextlib.suppress(httpx.HTTPError, asyncio.CancelledError):
        await reader.messages.aclose()


async def test_nothing_is_left_of_clients_that_went_away(server: Running, tenant: Tenant) -> None:
    hub, path = server.app.runtime.hub, f"{tenant.path}/stream"
    tasks = len(asyncio.all_tasks())
    cursor = cursor_at_head(server, tenant)
    await sql(server, MANY, UUID(tenant.id))
    await server.app.runtime.tail.catch_up()
    for _ in range(4):
        async with contextlib.AsyncExitStack() as stack:
            # Parked, replaying, and stuck in a send that nobody reads.
            quiet = await stack.enter_async_context(follow(tenant.owner.client, path))
            await quiet.message()
            stuck = await stack.enter_async_context(follow(tenant.owner.client, path, cursor))
            gone = await stack.enter_async_context(follow(tenant.owner.client, path, cursor))
            await drop(gone)
            await until(lambda: len(hub.waiting()) >= 1)
            await asyncio.sleep(0.1)
            await drop(stuck)
    await until(lambda: not hub.channels[UUID(tenant.id)].groups)
    assert hub.counts.connections == 0
    await until(lambda: len(asyncio.all_tasks()) <= tasks + 1)
    assert lent(server.app.runtime.database.api) == 0


async def test_a_reader_that_leaves_in_any_moment_costs_no_connection(
    server: Running, tenant: Tenant
) -> None:
    hub, path = server.app.runtime.hub, f"{tenant.path}/stream"
    start = cursor_at_head(server, tenant)
    await number(tenant, *(str(n) for n in range(500)))

    async def read() -> None:
        async with follow(tenant.owner.client, path, start) as reader:
            await reader.rest()

    for milliseconds in range(30):
        reading = [asyncio.create_task(read()) for _ in range(3)]
        await asyncio.sleep(milliseconds / 1000)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    pool = server.app.runtime.database.api
    await until(lambda: lent(pool) == 0)
    await until(lambda: not hub.channels[UUID(tenant.id)].groups)
    await until(lambda: hub.counts.connections == 0)
    assert (await tenant.owner.client.get(tenant.path)).status_code == 200


async def test_two_servers_show_one_order_and_take_each_others_cursors(
    own_database: TestDatabase,
) -> None:
    async with (
        running(own_database) as one,
        running(own_database) as two,
        calling(one) as callers,
        calling(two) as others,
    ):
        tenant = await new_tenant(callers)
        there, path = elsewhere(tenant, others), f"{tenant.path}/stream"
        client = there.owner.client
        async with follow(tenant.owner.client, path) as a, follow(client, path) as b:
            await a.message()
            await b.message()
            await asyncio.gather(
                *(number(t, f"{n}-{i}") for i, t in enumerate((tenant, there)) for n in range(25))
            )
            half = await a.names(25)
            async with follow(client, path, a.cursor) as c:
                rest = await c.names(25)
            assert half + rest == await b.names(50)
            assert await a.names(25) == rest


async def test_a_cursor_ahead_of_this_servers_head_is_waited_for(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as one, calling(one) as callers:
        tenant = await new_tenant(callers)
        path = f"{tenant.path}/stream"
        async with running(own_database) as two, calling(two) as others:
            client = elsewhere(tenant, others).owner.client
            # The second server's tail cannot finish a read for a while.
            tail = two.app.runtime.tail
            await tail.read_finished.acquire()
            async with follow(tenant.owner.client, path) as reader:
                await reader.message()
                await number(tenant, "1", "2")
                await reader.names(1)
            behind = two.app.runtime.hub.head
            asyncio.get_running_loop().call_later(0.3, tail.read_finished.release)
            async with follow(client, path, reader.cursor) as reader:
                assert await reader.names(1) == ["2"]
            assert behind < one.app.runtime.hub.head


async def test_a_server_that_stops_lets_its_readers_go_on_elsewhere(
    own_database: TestDatabase,
) -> None:
    async with (
        running(own_database) as staying,
        calling(staying) as callers,
        contextlib.AsyncExitStack() as stack,
    ):
        tenant = await new_tenant(callers)
        path = f"{tenant.path}/stream"
        async with running(own_database) as stopping:
            others = await stack.enter_async_context(calling(stopping))
            client = elsewhere(tenant, others).owner.client
            readers = [await stack.enter_async_context(follow(client, path)) for _ in range(10)]
            await number(tenant, "1")
            for reader in readers:
                assert (await reader.message()).event == "cursor"
            assert await readers[0].names(1) == ["1"]
            began = time.monotonic()
        assert time.monotonic() - began < GRACE_SECONDS  # it did not have to cut them off
        await number(tenant, "2")
        for reader in readers:
            had = [json.loads(m.data)["data"]["n"] for m in await reader.rest()]
            had = ["1"] if reader is readers[0] else had
            async with follow(tenant.owner.client, path, reader.cursor) as resumed:
                assert had + await resumed.names(2 - len(had)) == ["1", "2"]


async def test_a_new_epoch_resets_open_streams_and_looks_their_rights_up_again(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as live, calling(live) as callers:
        tenant = await new_tenant(callers)
        member = await add_member(callers, tenant, "viewer")
        await number(tenant, *(str(n) for n in range(50)))
        await until(lambda: live.app.runtime.hub.head > 50)
        async with follow(member.client, f"{tenant.path}/stream") as reader:
            old = (await reader.message()).id
            # Set back to an earlier state, as by a restored disk: same server, same database.
            await sql(live, "delete from annex.log where pos > 10")
            await sql(live, "update annex.log_state set head = 10")
            await sql(live, TERMINATE, "annex_worker", own_database.name)
            reset = await reader.message()
            assert reset.event == "reset"
            await number(tenant, "next")
            assert await reader.names(1) == ["next"]
            await sql(live, "delete from annex.members where user_id = $1", member.user_id)
            assert problem_of((await reader.rest(1))[-1]) == "not_found"
        async with follow(tenant.owner.client, f"{tenant.path}/stream", old) as reader:
            assert (await reader.message()).event == "reset"


TERMINATE = (
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1 and datname = $2"
)


async def test_a_deleted_event_does_not_hold_the_others_up(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.tail.BATCH", 5)
    async with running(own_database) as live, calling(live) as callers:
        tenant = await new_tenant(callers)
        async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
            await reader.message()
            async with own_database.connect("postgres") as connection, connection.transaction():
                await connection.execute(
                    "select annex.publish($1, 'test.made') from generate_series(1, 20)",
                    UUID(tenant.id),
                )
                await connection.execute("delete from annex.events where type = 'test.made'")
            await number(tenant, "after")
            assert await reader.names(1) == ["after"]
