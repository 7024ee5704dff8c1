"""A user's own feed, followed end to end: resumed, over servers, as far as rights reach."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from controllers import stream as streams
from tests.conftest import Caller, Callers, Running, Tenant, TestDatabase, encode, running
from tests.realtime.reader import (
    add_member,
    calling,
    follow,
    new_tenant,
    number,
    until,
)

PATH = "/api/v1/stream/notifications"
APPEND = """
select annex.append_event($1, 'annex.notification.created', 'notification:1', $2,
  permission => $3, user_id => $4)
"""


@pytest.fixture
async def server(own_database: TestDatabase) -> AsyncIterator[Running]:
    async with running(own_database) as made:
        yield made


async def tell(
    database: TestDatabase, tenant: Tenant, user: Caller, *names: str, permission: str | None = None
) -> None:
    """Append personal events, each in a transaction of its own."""
    async with database.connect("postgres") as owner:
        await owner.execute("set role annex_owner")
        for name in names:
            await owner.execute(
                APPEND, UUID(tenant.id), encode({"n": name}), permission, user.user_id
            )


async def change(database: TestDatabase, statement: str, tenant: Tenant, user: Caller) -> None:
    """Change a member's row as somebody who works on the database itself."""
    async with database.connect("postgres") as admin:
        await admin.execute(statement, UUID(tenant.id), user.user_id)


async def test_a_personal_feed_is_followed_through_cuts_over_two_servers(
    own_database: TestDatabase,
) -> None:
    drawn, count = random.Random(9), 120
    async with (
        running(own_database) as one,
        running(own_database) as two,
        calling(one) as callers,
        calling(two) as others,
    ):
        home, work = await new_tenant(callers), await new_tenant(callers)
        user = await add_member(callers, home, "viewer")
        async with own_database.connect("postgres") as admin:
            await admin.execute(
                "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'viewer')",
                UUID(work.id),
                user.user_id,
            )
        credential = user.client.headers["authorization"].removeprefix("Bearer ")
        places = [user.client, others.client(credential)]
        for app in (one.app, two.app):
            await app.runtime.tail.catch_up()

        async def write() -> None:
            for n in range(count):
                tenant = (home, work)[n % 2]
                await tell(own_database, tenant, user, str(n))
                # Neither another user's nor the workspace's own belong to this feed.
                await tell(own_database, tenant, home.owner, "not yours")
                await number(tenant, "everybody's")
                await asyncio.sleep(drawn.random() * 0.01)

        async with follow(places[0], PATH) as reader:
            cursor = (await reader.message()).id
        writing = asyncio.create_task(write())
        got = list[str]()
        connections = 0
        while len(got) < count:
            client = places[connections % 2]
            connections += 1
            async with follow(client, PATH, cursor) as reader:
                for _ in range(min(drawn.randint(1, 25), count - len(got))):
                    event = await reader.event(20)
                    got.append(event["data"]["n"])
                    assert event["workspace_id"] in (home.id, work.id)
                cursor = reader.cursor
        await writing
        assert got == [str(n) for n in range(count)]
        assert connections > 4
        async with follow(places[connections % 2], PATH, cursor) as reader:
            await tell(own_database, home, user, "last")
            assert await reader.names(1) == ["last"]


LEAVES = {
    "leaves": (
        "delete from annex.members where workspace_id = $1 and user_id = $2",
        "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'viewer')",
    ),
    "suspended": (
        "update annex.members set status = 'suspended' where workspace_id = $1 and user_id = $2",
        "update annex.members set status = 'active' where workspace_id = $1 and user_id = $2",
    ),
}


@pytest.mark.parametrize("how", LEAVES)
async def test_who_is_no_member_gets_nothing_of_a_workspace_until_they_are_again(
    server: Running, callers: Callers, how: str
) -> None:
    leave, join = LEAVES[how]
    database, tail = server.database, server.app.runtime.tail
    left, kept = await new_tenant(callers), await new_tenant(callers)
    user = await add_member(callers, left, "viewer")
    await change(database, LEAVES["leaves"][1], kept, user)
    await tail.catch_up()
    async with follow(user.client, PATH) as reader:
        start = (await reader.message()).id
        await tell(database, left, user, "before")
        assert await reader.names(1) == ["before"]
        await change(database, leave, left, user)
        # What the reader has of that workspace is no longer theirs to see: load anew.
        assert (await reader.message()).event == "reset"
        await tell(database, left, user, "hidden")
        await tell(database, kept, user, "elsewhere")
        assert await reader.names(1) == ["elsewhere"]
        # Nor by replay: what lies before is out of sight now, too.
        assert user.user_id is not None
        server.app.runtime.hub.channels[user.user_id].forget(
            server.app.runtime.hub.head, server.app.runtime.hub.head
        )
        async with follow(user.client, PATH, start) as replayed:
            assert (await replayed.message()).event == "reset"
            assert await replayed.names(1) == ["elsewhere"]
        await change(database, join, left, user)
        assert (await reader.message()).event == "reset"
        await tell(database, left, user, "again")
        assert await reader.names(1) == ["again"]


async def test_a_personal_event_that_names_a_permission_needs_it(
    server: Running, callers: Callers, tenant: Tenant
) -> None:
    database = server.database
    member = await add_member(callers, tenant, "member")
    async with follow(member.client, PATH) as reader:
        start = (await reader.message()).id
        await tell(database, tenant, member, "secret", permission="events:audit")
        await tell(database, tenant, member, "open")
        assert await reader.names(1) == ["open"]
        await change(
            database,
            "update annex.members set role = 'admin' where workspace_id = $1 and user_id = $2",
            tenant,
            member,
        )
        assert (await reader.message()).event == "reset"
        await tell(database, tenant, member, "for admins", permission="events:audit")
        assert await reader.names(1) == ["for admins"]
    async with follow(member.client, PATH, start) as replayed:
        assert (await replayed.message()).event == "reset"
        assert await replayed.names(3) == ["secret", "open", "for admins"]


async def test_a_cursor_of_one_feed_is_refused_on_another(
    server: Running, callers: Callers, tenant: Tenant
) -> None:
    user, workspace_path = tenant.owner, f"{tenant.path}/stream"
    stranger = await new_tenant(callers)
    cursors = dict[str, str]()
    for path in (PATH, workspace_path):
        async with follow(user.client, path) as reader:
            cursors[path] = (await reader.message()).id
    async with follow(stranger.owner.client, PATH) as reader:
        foreign = (await reader.message()).id
    for path, cursor in (
        (PATH, cursors[workspace_path]),
        (workspace_path, cursors[PATH]),
        (PATH, foreign),
    ):
        async with follow(user.client, path, cursor) as reader:
            assert (await reader.message()).event == "reset"
    # Each is good for its own.
    await number(tenant, "workspace's")
    await tell(server.database, tenant, user, "own")
    for path, name in ((PATH, "own"), (workspace_path, "workspace's")):
        async with follow(user.client, path, cursors[path]) as reader:
            assert await reader.names(1) == [name]


async def test_a_workspace_tells_nobody_of_personal_events(
    server: Running, callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "viewer")
    async with follow(tenant.owner.client, f"{tenant.path}/stream") as reader:
        await reader.message()
        await tell(server.database, tenant, member, "mine alone")
        await number(tenant, "everybody's")
        assert await reader.names(1) == ["everybody's"]
    listed = (await tenant.owner.client.get(f"{tenant.path}/events")).json()["data"]
    assert "mine alone" not in [event["data"].get("n") for event in listed]


async def test_only_a_user_has_a_feed_of_their_own(callers: Callers, tenant: Tenant) -> None:
    key = await callers.key(tenant.id, "events:read")
    for caller in (key, callers.operator()):
        response = await caller.client.get(PATH)
        assert (response.status_code, response.json()["code"]) == (403, "user_required")


async def test_what_changes_no_right_makes_no_personal_stream_look(
    server: Running, callers: Callers, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, looked = await add_member(callers, tenant, "viewer"), list[str]()
    look_again = streams.look_again

    async def look(request: Any, source: Any) -> Any:
        looked.append(source.scope.principal.id)
        return await look_again(request, source)

    monkeypatch.setattr(streams, "look_again", look)
    where = "where workspace_id = $1 and user_id = $2"
    async with follow(member.client, PATH) as reader:
        await reader.message()
        for note in ("a", "b"):
            await change(
                server.database,
                f"""update annex.members set metadata = '{{"n": "{note}"}}' {where}""",
                tenant,
                member,
            )
        await add_member(callers, tenant, "viewer")
        await tell(server.database, tenant, member, "1")
        assert await reader.names(1) == ["1"]
        assert looked == []
        await change(
            server.database, f"update annex.members set role = 'member' {where}", tenant, member
        )
        await until(lambda: bool(looked))
        assert (await reader.message()).event == "reset"
        await tell(server.database, tenant, member, "2")
        assert await reader.names(1) == ["2"]
    assert looked == [str(member.user_id)]
