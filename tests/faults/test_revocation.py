"""Rights that go in mid-stream: nothing that is published after that reaches who lost them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

import pytest
from httpx_sse import aconnect_sse

from tests.conftest import Caller, Callers, Running, Tenant, TestDatabase
from tests.faults.health import healthy
from tests.faults.proxy import behind_proxy
from tests.operations import exchanged
from tests.realtime.reader import (
    Reader,
    add_member,
    calling,
    follow,
    new_tenant,
    number,
    problem_of,
    until,
)

SECONDS = 5
"""In which a stream has to end or change, on a busy machine; the promise is one."""
MEMBER = "where workspace_id = $1 and user_id = $2"


class Scene(NamedTuple):
    """A workspace in which somebody reads who is about to lose the right to."""

    server: Running
    callers: Callers
    tenant: Tenant
    reader: Caller

    async def sql(self, statement: str) -> None:
        """Change a row as somebody who works on the database itself; $2 is the reader's id."""
        async with self.server.database.connect("postgres") as connection:
            await connection.execute(
                f"with done as ({statement} returning 1) select $1::uuid, $2::uuid",
                UUID(self.tenant.id),
                UUID(self.reader.claims["sub"]),
            )

    async def delete_workspace(self) -> None:
        response = await self.tenant.owner.client.delete(self.tenant.path)
        assert response.status_code == 204

    async def demand_second_factor(self) -> None:
        owner = await self.callers.user(aal="aal2", user_id=self.tenant.owner.user_id)
        shown = await owner.client.get(self.tenant.path)
        response = await owner.client.patch(
            self.tenant.path,
            json={"require_aal2": True},
            headers={"If-Match": shown.headers["etag"]},
        )
        assert response.status_code == 200, response.text


def statement(text: str) -> Callable[[Scene], Awaitable[None]]:
    """Make a change of a statement."""
    return lambda scene: scene.sql(text)


# What changes, how, and what the stream's last message then says.
ENDS: dict[str, tuple[Callable[[Scene], Awaitable[None]], set[str]]] = {
    "member removed": (statement(f"delete from annex.members {MEMBER}"), {"not_found"}),
    "member suspended": (
        statement(f"update annex.members set status = 'suspended' {MEMBER}"),
        {"not_found"},
    ),
    "role without the right": (
        statement(f"update annex.members set role = 'blind' {MEMBER}"),
        {"forbidden", "not_found"},
    ),
    "role loses the right": (
        statement("update annex.roles set permissions = '{}' where workspace_id = $1"),
        {"forbidden", "not_found"},
    ),
    "user deleted": (statement("delete from auth.users where id = $2"), {"not_found"}),
    "key revoked": (
        statement("update annex.api_keys set revoked_at = now() where id = $2"),
        {"invalid_key"},
    ),
    "key deleted": (statement("delete from annex.api_keys where id = $2"), {"invalid_key"}),
    "key expired": (
        statement(
            "update annex.api_keys set expires_at = now() + interval '1 microsecond'"
            " where id = $2"
        ),
        {"invalid_key"},
    ),
    "key loses the right": (
        statement("update annex.api_keys set permissions = '{workspace:read}' where id = $2"),
        {"forbidden", "not_found"},
    ),
    "token of a key that is revoked": (
        statement("update annex.api_keys set revoked_at = now() where id = $2"),
        {"invalid_key", "invalid_token"},
    ),
    "token of a key that loses the right": (
        statement("update annex.api_keys set permissions = '{workspace:read}' where id = $2"),
        {"forbidden", "not_found"},
    ),
    "workspace deleted by SQL": (
        statement("update annex.workspaces set deleted_at = now() where id = $1"),
        {"not_found", "invalid_key"},
    ),
    "workspace deleted": (Scene.delete_workspace, {"not_found"}),
    "second factor demanded": (Scene.demand_second_factor, {"second_factor_required"}),
}


@contextlib.asynccontextmanager
async def publishing(scene: Scene) -> AsyncIterator[list[str]]:
    """Publish event after event, by SQL that needs nobody's rights; yields what it began."""
    begun, is_over = list[str](), asyncio.Event()

    async def publish() -> None:
        async with scene.server.database.connect("postgres") as connection:
            while not is_over.is_set():
                begun.append(str(len(begun)))
                # Whatever became of the workspace: what was published must not be seen.
                await connection.execute(
                    "with made as (insert into annex.events (workspace_id, type, source, actor,"
                    " data) values ($1, 'test.made', 'test', 'test', jsonb_build_object('n',"
                    " $2::text)) returning event_id)"
                    " insert into annex.pending (event_id, workspace_id)"
                    " select event_id, $1 from made",
                    UUID(scene.tenant.id),
                    begun[-1],
                )
                await asyncio.sleep(0.002)

    task = asyncio.create_task(publish())
    try:
        yield begun
    finally:
        is_over.set()
        await task


async def prepare(server: Running, callers: Callers, kind: str) -> Scene:
    """Make a workspace and its reader: by a key, in a role of its own, or as a viewer."""
    tenant = await new_tenant(callers)
    async with server.database.connect("postgres") as admin:
        await admin.execute(
            "insert into annex.roles (workspace_id, key, name, permissions, grantable) values"
            " ($1, 'blind', 'Blind', '{workspace:read}', '{}'),"
            " ($1, 'seeing', 'Seeing', '{workspace:read,events:read}', '{}')",
            UUID(tenant.id),
        )
    if kind.startswith(("key", "token")):
        reader = await callers.key(tenant.id, "events:read")
        if kind.startswith("token"):
            reader = await exchanged(callers, reader)
    else:
        role = "seeing" if kind.startswith("role loses") else "viewer"
        reader = await add_member(callers, tenant, role)
    await server.app.runtime.tail.catch_up()
    return Scene(server, callers, tenant, reader)


@pytest.mark.parametrize("kind", list(ENDS))
async def test_who_loses_the_right_gets_nothing_that_is_published_after(
    server: Running, callers: Callers, kind: str
) -> None:
    change, codes = ENDS[kind]
    async with healthy(server):
        scene = await prepare(server, callers, kind)
        other = await prepare(server, callers, kind)
        path = f"{scene.tenant.path}/stream"
        async with (
            follow(scene.reader.client, path, types="test.*") as losing,
            follow(other.reader.client, f"{other.tenant.path}/stream") as unconcerned,
        ):
            assert (await losing.message()).event == "cursor"
            assert (await unconcerned.message()).event == "cursor"
            async with publishing(scene) as begun:
                reading = asyncio.create_task(losing.rest(30))
                await until(lambda: len(begun) > 20)
                await change(scene)
                # Begun before the change was known to be committed, and perhaps before it was.
                allowed = set(begun)
                await asyncio.wait_for(asyncio.shield(reading), SECONDS)
                *events, last = reading.result()
                await until(lambda: len(begun) > len(allowed) + 20)
            got = [m.json()["data"]["n"] for m in events]
            assert problem_of(last) in codes
            assert len(got) > 10
            assert got == [*begun[: len(got)]]
            assert set(got) <= allowed
            again = await scene.reader.client.get(path, headers={"Last-Event-ID": losing.cursor})
            assert again.status_code in (401, 403, 404)
            # Nobody else's stream ends.
            await number(other.tenant, "on")
            assert await unconcerned.names(1) == ["on"]


REVOKED = ["member removed", "key revoked", "token of a key that is revoked"]


@pytest.mark.parametrize("kind", REVOKED)
async def test_a_right_that_goes_while_the_log_cannot_be_read_is_gone_when_it_can(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("app.realtime.tail.ANSWER_SECONDS", 1)
    async with (
        behind_proxy(own_database) as (server, proxy),
        healthy(server),
        calling(server) as callers,
    ):
        scene = await prepare(server, callers, kind)
        path = f"{scene.tenant.path}/stream"
        # Longer than `follow` waits for a word, as there is none while the log cannot be read.
        async with aconnect_sse(
            scene.reader.client, "GET", path, params={"types": "test.*"}, timeout=60
        ) as source:
            losing = Reader(source)
            assert (await losing.message()).event == "cursor"
            async with publishing(scene) as begun:
                reading = asyncio.create_task(losing.rest(60))
                await until(lambda: len(begun) > 20)
                proxy.go_dark()
                await until(lambda: not server.app.runtime.tail.is_following, 20)
                await ENDS[kind][0](scene)
                allowed = set(begun)
                await until(lambda: len(begun) > len(allowed) + 20)
                proxy.lighten()
                messages = await reading
            *events, last = messages
            assert problem_of(last) in ENDS[kind][1]
            assert {m.json()["data"]["n"] for m in events if m.event == "message"} <= allowed
        proxy.forget()


@pytest.mark.parametrize("kind", REVOKED)
async def test_a_stream_whose_rights_cannot_be_looked_up_ends(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("app.realtime.streams.ANSWER_SECONDS", 1)
    async with (
        behind_proxy(own_database, "annex_api") as (server, proxy),
        healthy(server),
        calling(server) as callers,
    ):
        scene = await prepare(server, callers, kind)
        path = f"{scene.tenant.path}/stream"
        async with follow(scene.reader.client, path, types="test.*") as losing:
            assert (await losing.message()).event == "cursor"
            async with publishing(scene) as begun:
                reading = asyncio.create_task(losing.rest(60))
                await until(lambda: len(begun) > 20)
                proxy.go_dark()
                await ENDS[kind][0](scene)
                allowed = set(begun)
                # It breaks off without a reason, as nobody knows one; its reader may come back.
                events = await asyncio.wait_for(asyncio.shield(reading), 1 + SECONDS)
            assert {m.event for m in events} <= {"message", "cursor"}
            got = {m.json()["data"]["n"] for m in events if m.event == "message"}
            assert len(got) > 10
            assert got <= allowed
        proxy.lighten()
        proxy.forget()
        again = await scene.reader.client.get(path, headers={"Last-Event-ID": losing.cursor})
        assert again.status_code in (401, 403, 404)


@pytest.mark.parametrize("kind", ["remaining member", "other key"])
async def test_others_in_the_workspace_read_on_without_loss(
    server: Running, callers: Callers, kind: str
) -> None:
    async with healthy(server):
        scene = await prepare(server, callers, "key" if kind == "other key" else "member")
        staying = (
            await callers.key(scene.tenant.id, "events:read")
            if kind == "other key"
            else await add_member(callers, scene.tenant, "viewer")
        )
        change = "key revoked" if kind == "other key" else "member removed"
        path = f"{scene.tenant.path}/stream"
        async with follow(staying.client, path, types="test.*") as reader:
            await reader.message()
            async with publishing(scene) as begun:
                await until(lambda: len(begun) > 20)
                await ENDS[change][0](scene)
                await until(lambda: len(begun) > 60)
            assert await reader.names(len(begun)) == begun


async def test_a_role_that_changes_to_less_takes_audit_events_away_at_once(
    server: Running, callers: Callers
) -> None:
    async with healthy(server):
        tenant = await new_tenant(callers)
        member = await add_member(callers, tenant, "admin")
        scene = Scene(server, callers, tenant, member)
        async with follow(member.client, f"{tenant.path}/stream", types="test.*") as reader:
            await reader.message()
            for turn in range(5):
                await scene.sql(f"update annex.members set role = 'admin' {MEMBER}")
                await number(tenant, f"secret {turn}", permission="events:audit")
                await number(tenant, f"open {turn}")
                assert await names(reader, 2) == [f"secret {turn}", f"open {turn}"]
                await scene.sql(f"update annex.members set role = 'member' {MEMBER}")
                await number(tenant, f"hidden {turn}", permission="events:audit")
                await number(tenant, f"still {turn}")
                assert await names(reader, 1) == [f"still {turn}"]


async def names(reader: Reader, count: int) -> list[str]:
    """Return the names of the next events, for which it waits as long as a change may take."""
    return [(await reader.event(SECONDS))["data"]["n"] for _ in range(count)]
